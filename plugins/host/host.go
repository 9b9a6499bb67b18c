// Package host finds, checks, launches and kills executor plugins.
//
// It owns the path from a manifest in the measured image to a running, sandboxed plugin that
// answers executor.v1, and it is the only user of go-plugin's client. It trusts the manifests
// (they are measured) and the sandbox. It trusts nothing that a plugin does or says: every
// answer is bounded and checked, no word of a plugin becomes part of an error, its stdout
// and stderr are discarded, and every wait for it has an end.
//
// It never starts an executable by its path, never hands a plugin the environment of the
// enclave, and never opens a connection to anything but the one socket in the plugin's folder.
package host

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/cloister-run/cloister/plugins/host/internal/starter"
	"github.com/cloister-run/cloister/plugins/proto"
	"github.com/cloister-run/cloister/plugins/sandbox"
)

// ErrNotFound: no executor of that name is installed. Its message lists those that are.
var ErrNotFound = errors.New("no such executor")

// maxPlugins bounds the entries of the folder of executors.
const maxPlugins = 256

// Config configures a Host.
type Config struct {
	// Dir holds NAME/manifest.json for every executor. Required, absolute.
	Dir string
	// Rootfs is the folder that becomes a sandbox's read-only root. Required, absolute.
	Rootfs string
	// Mounts are put over Rootfs in every sandbox, before the job's own folders; all must be
	// read-only. A local enclave shows the machine's /usr this way. None by default.
	Mounts []sandbox.Mount
	// Init is the executable whose main calls [walls.Main]. Required, absolute.
	Init string
	// Together refuses to start an executor where no cgroup holds the memory of all its processes together.
	Together bool
	// StartTimeout bounds a launch up to the plugin's handshake [10 s].
	StartTimeout time.Duration
	// DescribeTimeout, PrepareTimeout and StopTimeout bound the calls [5 s, 30 s, 10 s].
	// Run is bounded by its context alone.
	DescribeTimeout, PrepareTimeout, StopTimeout time.Duration
}

// Info is what the enclave knows of an installed executor without starting it.
type Info struct {
	Name    string
	Version string
	// Digest is "sha256:…" of the executable.
	Digest string
}

// Host launches the executors of one folder. It is safe for concurrent use.
type Host struct {
	cfg     Config
	plugins map[string]*installed
	images  images
	start   starter.Func
}

// installed is a plugin whose executable was hashed and sealed.
type installed struct {
	manifest proto.Manifest
	image    *image
}

// New reads every manifest of cfg.Dir and hashes every executable. It reports every problem
// of every plugin at once, and then gives no Host: an enclave with a broken executor is broken.
func New(cfg Config) (*Host, error) { return NewWith(cfg, starter.Sandbox) }

// NewWith is New with another way to start a plugin. Only tests below plugins/host can call it:
// nobody else can name its second argument.
func NewWith(cfg Config, start starter.Func) (*Host, error) {
	cfg.setDefaults()
	if err := cfg.check(); err != nil {
		return nil, fmt.Errorf("host: %w", err)
	}
	root, err := os.OpenRoot(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("host: opening the folder of executors: %w", err)
	}
	defer root.Close()
	images := images{}
	plugins, err := install(root, images)
	if err != nil {
		return nil, fmt.Errorf("host: %w", errors.Join(err, images.close()))
	}
	return &Host{cfg: cfg, plugins: plugins, images: images, start: start}, nil
}

// Close lets go of the sealed executables. Sessions that were launched live on.
func (h *Host) Close() error { return h.images.close() }

// List says what is installed, by name.
func (h *Host) List() []Info {
	var all []Info
	for _, name := range slices.Sorted(maps.Keys(h.plugins)) {
		all = append(all, h.plugins[name].info())
	}
	return all
}

func (p *installed) info() Info {
	return Info{Name: p.manifest.Name, Version: p.manifest.Version, Digest: "sha256:" + p.manifest.SHA256}
}

// Find says what is installed under name, or ErrNotFound.
func (h *Host) Find(name string) (Info, error) {
	p, err := h.find(name)
	if err != nil {
		return Info{}, err
	}
	return p.info(), nil
}

func (h *Host) find(name string) (*installed, error) {
	p, ok := h.plugins[name]
	if !ok {
		have := "none is installed"
		if len(h.plugins) > 0 {
			have = "installed: " + strings.Join(slices.Sorted(maps.Keys(h.plugins)), ", ")
		}
		return nil, fmt.Errorf("host: %w: %.80q (%s)", ErrNotFound, name, have)
	}
	return p, nil
}

func (c *Config) setDefaults() {
	for _, d := range []struct {
		field    *time.Duration
		fallback time.Duration
	}{
		{&c.StartTimeout, 10 * time.Second},
		{&c.DescribeTimeout, 5 * time.Second},
		{&c.PrepareTimeout, 30 * time.Second},
		{&c.StopTimeout, 10 * time.Second},
	} {
		if *d.field == 0 {
			*d.field = d.fallback
		}
	}
}

func (c *Config) check() error {
	var problems []error
	for _, path := range []struct{ field, value string }{{"Dir", c.Dir}, {"Rootfs", c.Rootfs}, {"Init", c.Init}} {
		if !filepath.IsAbs(path.value) {
			problems = append(problems, fmt.Errorf("%s: %q is no absolute path", path.field, path.value))
		}
	}
	for i, m := range c.Mounts {
		if m.Writable {
			problems = append(problems, fmt.Errorf("mounts[%d]: %s is writable", i, m.Target))
		}
	}
	return errors.Join(problems...)
}

// install reads what root holds. Files beside the plugins' folders are no concern of it.
func install(root *os.Root, images images) (map[string]*installed, error) {
	dir, err := root.Open(".")
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	entries, err := dir.ReadDir(maxPlugins + 1)
	if err != nil && !errors.Is(err, io.EOF) { // io.EOF: it is empty
		return nil, fmt.Errorf("reading the folder of executors: %w", err)
	}
	if len(entries) > maxPlugins {
		return nil, fmt.Errorf("more than %d entries in the folder of executors", maxPlugins)
	}
	slices.SortFunc(entries, func(a, b os.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	plugins := make(map[string]*installed)
	var problems []error
	for _, e := range entries {
		if e.Type()&os.ModeSymlink != 0 {
			problems = append(problems, fmt.Errorf("%s: is a link", e.Name()))
			continue
		}
		if !e.IsDir() {
			continue
		}
		p, err := installOne(root, e.Name(), images)
		if err != nil {
			problems = append(problems, fmt.Errorf("%s: %w", e.Name(), err))
			continue
		}
		plugins[e.Name()] = p
	}
	if len(problems) > 0 {
		return nil, errors.Join(problems...)
	}
	return plugins, nil
}

func installOne(root *os.Root, name string, images images) (*installed, error) {
	raw, err := readManifest(root, filepath.Join(name, "manifest.json"))
	if err != nil {
		return nil, err
	}
	m, err := proto.ParseManifest(raw)
	if err != nil {
		return nil, err
	}
	if m.Name != name {
		return nil, fmt.Errorf("name: the manifest says %q", m.Name)
	}
	img, err := images.open(root, m)
	if err != nil {
		return nil, fmt.Errorf("executable: %w", err)
	}
	return &installed{manifest: m, image: img}, nil
}

// readManifest reads one regular file of at most proto.MaxManifest bytes (and one more, for
// the parser to refuse).
func readManifest(root *os.Root, name string) ([]byte, error) {
	f, err := openRegular(func(flag int) (*os.File, error) { return root.OpenFile(name, flag, 0) })
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readAtMost(f, proto.MaxManifest+1)
}
