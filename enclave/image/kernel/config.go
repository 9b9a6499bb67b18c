package kernel

import (
	"bufio"
	"fmt"
	"io"
	"slices"
	"strings"
)

// maxConfig bounds a configuration in bytes.
const maxConfig = 8 << 20

// Config is what a kernel was built with: "y", "m" or a value by the option's name without CONFIG_.
type Config map[string]string

// ParseConfig reads a .config. Errors are an [*Error], or the reader's.
func ParseConfig(r io.Reader) (Config, error) {
	c := Config{}
	scanner := bufio.NewScanner(io.LimitReader(r, maxConfig))
	scanner.Buffer(nil, 1<<20)
	for scanner.Scan() {
		name, value, ok := strings.Cut(scanner.Text(), "=")
		if option, is := strings.CutPrefix(name, "CONFIG_"); is && ok {
			c[option] = strings.TrimSpace(value)
		}
	}
	if err := scanner.Err(); err != nil {
		return nil, err
	}
	if len(c) == 0 {
		return nil, refuse("name the .config that the kernel was built with", "it sets no option of a kernel")
	}
	return c, nil
}

// Use says what a kernel is for.
type Use struct {
	ARM bool
	// Gzip says that ramdisks are compressed so.
	Gzip bool
	// Modules are those that are loaded, by name.
	Modules []string
}

// option is one that an enclave needs.
type option struct {
	name, why string
	// module is its name where it may be loaded instead; empty where it must be built in.
	module string
}

// Lacks says what a kernel does not have that an enclave on EC2 needs, and what it has that keeps one from coming up.
func (c Config) Lacks(use Use) []string {
	options := []option{
		{"BLK_DEV_INITRD", "it unpacks no ramdisk, and so finds no init", ""},
		{"VIRTIO_MMIO", "it finds no device", "virtio_mmio"},
		{"VSOCKETS", "nobody can speak to the enclave", "vsock"},
		{"VIRTIO_VSOCKETS", "nobody can speak to the enclave", "vmw_vsock_virtio_transport"},
		{"NSM", "there is no /dev/nsm, and so no attestation (in Linux since 6.8; AWS has a module for older ones)", "nsm"},
		{"DEVTMPFS", "there are no devices", ""},
		{"TMPFS", "there is no place in memory for jobs", ""},
		{"CGROUPS", "jobs have no limits", ""},
		{"MEMCG", "jobs have no limits of memory", ""},
		{"CGROUP_PIDS", "jobs have no limits of processes", ""},
		{"USER_NS", "executors cannot be walled in", ""},
		{"SECCOMP_FILTER", "executors cannot be walled in", ""},
	}
	if !use.ARM { // on arm64 a device tree names the devices
		options = append(options, option{"VIRTIO_MMIO_CMDLINE_DEVICES", "it finds no device of EC2's hypervisor, which names them on the command line", ""})
	}
	if use.Gzip {
		options = append(options, option{"RD_GZIP", "it cannot unpack a ramdisk that is compressed with gzip", ""})
	}
	var lacks []string
	for _, o := range options {
		loaded := o.module != "" && slices.ContainsFunc(use.Modules, func(m string) bool { return plain(m) == o.module })
		switch {
		case c[o.name] == "y" || loaded:
		case c[o.name] == "m" && o.module != "":
			lacks = append(lacks, fmt.Sprintf("the kernel has CONFIG_%s as a module, %s, which kernel.modules.load does not name: %s", o.name, o.module, o.why))
		default:
			lacks = append(lacks, fmt.Sprintf("the kernel lacks CONFIG_%s: %s", o.name, o.why))
		}
	}
	if c.ownLine(use.ARM) {
		lacks = append(lacks, "the kernel has a command line of its own, CONFIG_CMDLINE: the enclave does not come up with another one than the image's")
	}
	return lacks
}

// ownLine says whether the kernel runs with words that nobody gave it (arch/x86/Kconfig and arch/arm64/Kconfig). One for arm64
// that is not forced is for who gives none.
func (c Config) ownLine(arm bool) bool {
	if arm {
		return c["CMDLINE_FORCE"] == "y" || c["CMDLINE_EXTEND"] == "y"
	}
	return c["CMDLINE_BOOL"] == "y" && strings.Trim(c["CMDLINE"], `"`) != ""
}
