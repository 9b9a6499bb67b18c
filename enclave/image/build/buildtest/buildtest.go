// Package buildtest makes inputs of enclave images for tests: files that look like kernels, modules and
// executables to whoever packs them, and boot nothing.
package buildtest

import (
	"bytes"
	"compress/gzip"
	"debug/elf"
	"encoding/binary"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Version is that of the kernel in [Inputs].
const Version = "6.12.41-test"

// BzImage is a kernel for x86_64 of a version, which carries a configuration unless that is empty.
func BzImage(version, config string) []byte {
	const setupSectors, payloadAt = 8, 0x20
	b := make([]byte, (setupSectors+1)*512+payloadAt)
	binary.LittleEndian.PutUint16(b[0x1fe:], 0xaa55)
	copy(b[0x202:], "HdrS")
	b[0x1f1] = setupSectors
	binary.LittleEndian.PutUint16(b[0x206:], 0x20f)
	binary.LittleEndian.PutUint16(b[0x20e:], 0x400)
	copy(b[0x600:], version+" (builder@host) #1 SMP\x00")
	vmlinux := bytes.Repeat([]byte{0x90}, 100_000)
	if config != "" {
		vmlinux = append(append(append(vmlinux, "IKCFG_ST"...), zip([]byte(config))...), "IKCFG_ED"...)
	}
	payload := zip(append(vmlinux, make([]byte, 100_000)...))
	binary.LittleEndian.PutUint32(b[0x248:], payloadAt)
	binary.LittleEndian.PutUint32(b[0x24c:], uint32(len(payload)))
	payload = append(payload, make([]byte, -len(payload)&15)...)
	binary.LittleEndian.PutUint32(b[0x1f4:], uint32(payloadAt+len(payload))/16)
	return append(b, payload...)
}

// Image is a kernel for arm64 of a version, which carries a configuration unless that is empty.
func Image(version, config string) []byte {
	b := make([]byte, 1<<20+500)
	copy(b[0x38:], "ARM\x64")
	copy(b[0x100:], "Linux version %s\x00")
	copy(b[1<<20-20:], "Linux version "+version+" (builder@host)\x00") // over the end of what is read at once
	if config != "" {
		b = append(append(append(b, "IKCFG_ST"...), zip([]byte(config))...), "IKCFG_ED"...)
	}
	return b
}

func zip(data []byte) []byte {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, _ = z.Write(data) // into memory
	_ = z.Close()
	return b.Bytes()
}

// Executable is the header of a program without a loader.
func Executable(machine elf.Machine) []byte { return object(elf.ET_EXEC, machine, nil, nil) }

// Dynamic is one that needs a loader.
func Dynamic(machine elf.Machine) []byte {
	return object(elf.ET_EXEC, machine, &elf.Prog64{Type: uint32(elf.PT_INTERP), Filesz: 1}, nil)
}

// Module is a kernel module that says which others it needs.
func Module(needs ...string) []byte {
	return object(elf.ET_REL, elf.EM_X86_64, nil, []byte("license=GPL\x00depends="+strings.Join(needs, ",")+"\x00name=x\x00"))
}

// object is an ELF file with at most one program header and one section beside that of names.
func object(kind elf.Type, machine elf.Machine, program *elf.Prog64, modinfo []byte) []byte {
	const headerSize, programSize, sectionSize = 64, 56, 64
	names := []byte("\x00.modinfo\x00.shstrtab\x00")
	h := elf.Header64{
		Ident: [elf.EI_NIDENT]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
		Type:  uint16(kind), Machine: uint16(machine), Version: uint32(elf.EV_CURRENT), Ehsize: headerSize,
	}
	var b bytes.Buffer
	write := func(v any) { _ = binary.Write(&b, binary.LittleEndian, v) } // into memory
	switch {
	case program != nil:
		h.Phoff, h.Phentsize, h.Phnum = headerSize, programSize, 1
		write(h)
		write(*program)
	case modinfo != nil:
		at := uint64(headerSize + len(modinfo) + len(names))
		h.Shoff, h.Shentsize, h.Shnum, h.Shstrndx = at, sectionSize, 3, 2
		write(h)
		b.Write(modinfo)
		b.Write(names)
		write(elf.Section64{})
		write(elf.Section64{Name: 1, Type: uint32(elf.SHT_PROGBITS), Off: headerSize, Size: uint64(len(modinfo))})
		write(elf.Section64{Name: 10, Type: uint32(elf.SHT_STRTAB), Off: headerSize + uint64(len(modinfo)), Size: uint64(len(names))})
	default:
		write(h)
	}
	return b.Bytes()
}

// Recipe names what [Inputs] writes.
const Recipe = `architecture: x86_64
kernel:
  file: bzImage
  modules: {from: modules, load: [nsm]}
command_line: console=ttyS0 quiet
enclave: enclave
profile: profile.json
root: {folder: root}
metadata: {name: test, version: "1"}
`

// Config has everything that an enclave on EC2 needs.
const Config = `# Linux/x86 6.12.41 Kernel Configuration
CONFIG_BLK_DEV_INITRD=y
CONFIG_VIRTIO_MMIO=y
CONFIG_VIRTIO_MMIO_CMDLINE_DEVICES=y
CONFIG_VSOCKETS=y
CONFIG_VIRTIO_VSOCKETS=y
CONFIG_NSM=m
CONFIG_DEVTMPFS=y
CONFIG_TMPFS=y
CONFIG_CGROUPS=y
CONFIG_MEMCG=y
CONFIG_CGROUP_PIDS=y
CONFIG_USER_NS=y
CONFIG_SECCOMP_FILTER=y
CONFIG_RD_GZIP=y
`

// Inputs writes image.yaml and all that it names into a folder, and gives the path of image.yaml.
func Inputs(t testing.TB, dir string) string {
	t.Helper()
	if err := Write(dir); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "image.yaml")
}

// Write writes what [Inputs] does.
func Write(dir string) error {
	program := string(Executable(elf.EM_X86_64))
	files := map[string]string{ //nolint:gosec // a passwd file without a password
		"image.yaml": Recipe, "bzImage": string(BzImage(Version, Config)), "profile.json": `{"realm": "test", "listen": "vsock"}` + "\n",
		"modules/modules.builtin":               "kernel/drivers/virtio/virtio_mmio.ko\n",
		"modules/kernel/drivers/nsm.ko":         string(Module("rng-core", "virtio_mmio")),
		"modules/kernel/drivers/rng-core.ko.gz": string(zip(Module())),
		"enclave/cloisterd":                     program, "enclave/walls": program, "enclave/policy": program,
		"enclave/executors/cloister-executor": program, "enclave/executors/python/manifest.json": "{}\n",
		"enclave/etc/passwd": "root:x:0:0::/:/sbin/nologin\n", "enclave/etc/hosts": "127.0.0.1 localhost\n",
		"enclave/profile.json": `{"realm": "local"}` + "\n",
		"root/etc/passwd":      "the source's own\n", "root/etc/os-release": "ID=test\n", "root/usr/bin/python3": program, "root/usr/lib/data": strings.Repeat("d", 3<<20),
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		path := filepath.Join(dir, name)
		mode := os.FileMode(0o644)
		if files[name] == program {
			mode = 0o755
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(files[name]), mode); err != nil {
			return err
		}
	}
	for link, target := range map[string]string{"root/bin": "usr/bin", "root/usr/bin/python": "python3"} {
		if err := os.Symlink(target, filepath.Join(dir, link)); err != nil {
			return err
		}
	}
	return nil
}
