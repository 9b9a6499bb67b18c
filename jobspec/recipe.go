package jobspec

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// Recipe is a parsed and valid image recipe: what an enclave image is built of. Paths are as written in the
// file (relative to it), empty where there is none. Its JSON is the recipe in its one spelling.
type Recipe struct {
	Architecture Architecture `json:"architecture"`
	Kernel       KernelSource `json:"kernel"`
	// CommandLine is the kernel's.
	CommandLine string `json:"command_line"`
	// Enclave is the folder that `make build` fills, Profile a file that takes the place of its
	// profile.json, Roots the certificates that become roots.pem.
	Enclave string     `json:"enclave"`
	Profile string     `json:"profile,omitempty"`
	Roots   string     `json:"roots,omitempty"`
	Root    RootSource `json:"root"`
	// Compress is how the ramdisks are compressed.
	Compress Compression `json:"compress"`
	// Memory in bytes and CPUs are what the image asks for. Not attested.
	Memory   int64         `json:"memory"`
	CPUs     int           `json:"cpus"`
	Metadata ImageMetadata `json:"metadata"`

	file      string
	positions map[path]position
}

// Architecture is a kind of processor, as nitro-cli calls it.
type Architecture string

// The architectures of enclaves.
const (
	AMD64 Architecture = "x86_64"
	ARM64 Architecture = "arm64"
)

// Compression is how a ramdisk is compressed.
type Compression string

// The ways that every kernel of an enclave knows.
const (
	Uncompressed Compression = "none"
	Gzip         Compression = "gzip"
)

// KernelSource is what boots.
type KernelSource struct {
	File string `json:"file"`
	// Config is the configuration that it was built with.
	Config string `json:"config,omitempty"`
	// Modules are loaded before anything else happens; nil for none.
	Modules *ModuleSource `json:"modules,omitempty"`
}

// ModuleSource is a folder like /lib/modules/6.12.1, and what is loaded of it, dependencies left out.
type ModuleSource struct {
	From string   `json:"from"`
	Load []string `json:"load"`
}

// RootSource is where the executors' root file system comes from: one of them is set.
type RootSource struct {
	Folder string `json:"folder,omitempty"`
	Tar    string `json:"tar,omitempty"`
	OCI    string `json:"oci,omitempty"`
	Image  string `json:"image,omitempty"`
}

// ImageMetadata is what an image says of itself. Nobody attests it.
type ImageMetadata struct {
	Name    string `json:"name"`
	Version string `json:"version"`
}

const (
	// maxCommandLine leaves half of what kernels take (COMMAND_LINE_SIZE is 2048, arch/x86/include/asm/setup.h and
	// arch/arm64/include/uapi/asm/setup.h) to the hypervisor, which names devices behind it.
	maxCommandLine = 1024
	maxModules     = 64
	maxReference   = 512
	minImageMemory = 64 << 20

	defaultCommandLine = "reboot=k panic=30 pci=off console=ttyS0 random.trust_cpu=on init_on_free=1" // as nitro-cli's, and no page outlives its job
	defaultImageMemory = 4 << 30                                                                      // of which jobs have more than half
	defaultImageCPUs   = 2
	defaultImageName   = "cloister"

	architecturePattern = `^(x86_64|arm64)$`
	compressionPattern  = `^(none|gzip)$`
	modulePattern       = `^[A-Za-z0-9_-]+$`
	// referencePattern is a reference by digest: a tag can be moved.
	referencePattern = `^[A-Za-z0-9][A-Za-z0-9._:/-]*@sha256:[0-9a-f]{64}$`
)

var (
	moduleRE    = regexp.MustCompile(modulePattern)
	referenceRE = regexp.MustCompile(referencePattern)
)

func recipeFormat() format {
	return format{noun: "image recipe", begin: "begin with: architecture: x86_64", root: recipeFile()}
}

// recipeFile is the one table of the recipe's fields.
func recipeFile() *shape {
	host := func(doc string) *shape { return text(doc, "", maxHostPath) }
	line := text("The kernel's command line. The enclave refuses to come up with another one.", "", maxCommandLine)
	line.shown = defaultCommandLine
	compress := text("How the ramdisks are compressed: `none` or `gzip`. The PCRs differ.", compressionPattern, maxName)
	compress.shown = string(Uncompressed)
	name, version := text("The image's name.", kebabPattern, maxName), blankText("The image's version, whatever you count by.", maxName)
	name.shown = defaultImageName
	root := object("The root file system that executors see: exactly one of these.",
		optional("folder", host("A folder.")),
		optional("tar", host("A tar file, plain or compressed with gzip or zstd, as `docker export` writes one.")),
		optional("oci", host("A folder with an OCI image layout that holds one image for the architecture.")),
		optional("image", text("An image in a registry, by its digest: a tag can be moved to another image. Credentials are those of `docker login`.", referencePattern, maxReference)))
	root.oneOf = []string{"folder", "tar", "oci", "image"}
	return object("What an enclave image is built of.",
		required("architecture", "say what it is for: architecture: x86_64",
			text("What the image is for: `x86_64` or `arm64`.", architecturePattern, maxName)),
		required("kernel", "say what boots: kernel: {file: bzImage}", kernelShape(host)),
		optional("command_line", line),
		required("enclave", "name the folder that make build fills: enclave: bin/enclave",
			host("The folder with `cloisterd`, `walls`, `policy`, `executors/`, `etc/` and `profile.json` that `make build` fills.")),
		optional("profile", host("A trust profile that takes the place of the folder's `profile.json`.")),
		optional("roots", host("Certificates in PEM under which the KMS proves to be AWS's.")),
		required("root", "say where the executors' root comes from: root: {folder: ./rootfs}", root),
		optional("compress", compress),
		optional("memory", &shape{kind: sizeKind, low: minImageMemory, high: maxMemory, shown: "4GiB",
			doc: "The memory that the image asks for. Whoever starts it may give it more; not attested. In a virtual machine an image gets no more than half of this machine's unless `--memory` says so."}),
		optional("cpus", number("The processor cores that it asks for. Not attested.", 1, maxCPUs, defaultImageCPUs)),
		optional("metadata", object("What the image says of itself. Not attested.",
			optional("name", name), optional("version", version))),
	)
}

func kernelShape(host func(string) *shape) *shape {
	return object("What boots.",
		required("file", "name the kernel: file: bzImage",
			host("The kernel: a bzImage for x86_64, an uncompressed Image for arm64.")),
		optional("config", host("The configuration that it was built with, by which the builder says what it lacks.")),
		optional("modules", object("Kernel modules that are loaded first. They must be of this kernel.",
			required("from", "name their folder: from: lib/modules/6.12.1",
				host("A folder like `/lib/modules/VERSION`.")),
			required("load", "say which: load: [nsm]",
				list("The modules to load. What they depend on is loaded before them; what the kernel has built in is left out.", maxModules,
					text("A module's name.", modulePattern, maxName))))))
}

// ParseRecipe reads an image recipe. name is what messages call the file. The error is a [*Problems] with
// everything that is wrong. Defaults are filled in; paths stay as written.
func ParseRecipe(name string, data []byte) (*Recipe, error) {
	c := newCollector(name, recipeFormat())
	node := c.load(data)
	if node == nil {
		return nil, c.err()
	}
	c.positions[""] = at(node)
	v := c.walk(node, c.format.root, "")
	if !v.set {
		return nil, c.err()
	}
	r := buildRecipe(v)
	r.rules(c)
	if err := c.err(); err != nil {
		return nil, err
	}
	r.file, r.positions = name, c.positions
	return r, nil
}

func buildRecipe(v value) *Recipe {
	kernel, root, metadata := v.at("kernel"), v.at("root"), v.at("metadata")
	r := &Recipe{
		Architecture: Architecture(v.at("architecture").text),
		Kernel:       KernelSource{File: kernel.at("file").text, Config: kernel.at("config").text},
		CommandLine:  v.at("command_line").textOr(defaultCommandLine),
		Enclave:      v.at("enclave").text, Profile: v.at("profile").text, Roots: v.at("roots").text,
		Root: RootSource{
			Folder: root.at("folder").text, Tar: root.at("tar").text, OCI: root.at("oci").text, Image: root.at("image").text,
		},
		Compress: Compression(v.at("compress").textOr(string(Uncompressed))),
		Memory:   v.at("memory").numberOr(defaultImageMemory),
		CPUs:     int(v.at("cpus").numberOr(defaultImageCPUs)),
		Metadata: ImageMetadata{Name: metadata.at("name").textOr(defaultImageName), Version: metadata.at("version").text},
	}
	if modules := kernel.at("modules"); modules.set {
		r.Kernel.Modules = &ModuleSource{From: modules.at("from").text}
		for _, item := range modules.at("load").items {
			r.Kernel.Modules.Load = append(r.Kernel.Modules.Load, item.text)
		}
	}
	return r
}

// Fault is a problem that only the reader of the recipe's files can see; see [Job.Fault].
func (r *Recipe) Fault(at, message, hint string) Problem {
	return fault{message, hint}.at(r.file, r.positions, path(at))
}

// rules reports every problem that one value alone shows.
func (r *Recipe) rules(c *collector) {
	either := func(p path, got, one, other string) {
		if got != one && got != other {
			c.report(p, quote(got)+" is not known", fmt.Sprintf("write %s or %s", one, other))
		}
	}
	either("architecture", string(r.Architecture), string(AMD64), string(ARM64))
	either("compress", string(r.Compress), string(Uncompressed), string(Gzip))
	for p, s := range map[path]string{
		"kernel.file": r.Kernel.File, "kernel.config": r.Kernel.Config, "enclave": r.Enclave, "profile": r.Profile, "roots": r.Roots,
		"root.folder": r.Root.Folder, "root.tar": r.Root.Tar, "root.oci": r.Root.OCI,
	} {
		if f := hostPathFault(s); s != "" && f != nil {
			c.report(p, f.message, f.hint)
		}
	}
	r.modules(c)
	r.root(c)
	if message := textFault(r.CommandLine, maxCommandLine, oneLine); message != "" {
		c.report("command_line", message, "write one line of at most 1024 bytes: a kernel takes 2047, and the hypervisor adds words of its own")
	}
	if message := textFault(r.Metadata.Version, maxName, oneLine); message != "" {
		c.report("metadata.version", message, "write a short one")
	}
	here := &rules{report: c.report}
	here.kebab("metadata.name", r.Metadata.Name, "cloister-python")
	here.within("memory", r.Memory, minImageMemory, maxMemory, bytesOf)
	here.within("cpus", int64(r.CPUs), 1, maxCPUs, plain)
}

func (r *Recipe) modules(c *collector) {
	m := r.Kernel.Modules
	if m == nil {
		return
	}
	if f := hostPathFault(m.From); f != nil {
		c.report("kernel.modules.from", f.message, f.hint)
	}
	const at = path("kernel.modules.load")
	switch {
	case len(m.Load) == 0:
		c.report(at, "is empty", "name modules, or remove modules")
	case len(m.Load) > maxModules:
		c.report(at, fmt.Sprintf("has %d entries; at most %d are allowed", len(m.Load), maxModules), "name those alone that others do not bring")
	}
	for i, name := range m.Load[:min(len(m.Load), maxModules)] {
		switch {
		case len(name) > maxName || !moduleRE.MatchString(name):
			c.report(at.index(i), quote(name)+" is no name of a module", "write it as lsmod prints it, without a path and .ko")
		case slices.Contains(m.Load[:i], name):
			c.report(at.index(i), quote(name)+" is there twice", "remove one of them")
		}
	}
}

func (r *Recipe) root(c *collector) {
	set := 0
	for _, s := range []string{r.Root.Folder, r.Root.Tar, r.Root.OCI, r.Root.Image} {
		if s != "" {
			set++
		}
	}
	if c.intact("root") && set != 1 {
		c.report("root", fmt.Sprintf("names %d sources", set), "name one: folder, tar, oci or image")
	}
	switch ref := r.Root.Image; {
	case ref == "":
	case len(ref) > maxReference:
		c.report("root.image", fmt.Sprintf("is %d bytes long; at most %d are allowed", len(ref), maxReference), "")
	case !strings.Contains(ref, "@"):
		c.report("root.image", quote(ref)+" names no digest, and a tag can be moved", "write NAME@sha256:…; docker buildx imagetools inspect prints it")
	case !referenceRE.MatchString(ref):
		c.report("root.image", quote(ref)+" is no reference by digest", "write it as registry.example/name@sha256:…")
	}
}
