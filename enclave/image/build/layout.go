package build

import (
	"strings"

	"github.com/cloister-run/cloister/enclave/image"
	"github.com/cloister-run/cloister/enclave/image/ramdisk"
	"github.com/cloister-run/cloister/enclave/image/rootfs"
)

// layFirst is the ramdisk that boots: init, what is mounted over, and the folder of the enclave.
func layFirst(enclave *rootfs.Tree) []ramdisk.Entry {
	dir, root := inside(image.Dir), inside(image.Root)
	entries := []ramdisk.Entry{
		{Name: inside(image.Init), Node: &ramdisk.Node{Kind: ramdisk.Symlink, Mode: 0o777, Target: dir + "/" + image.Daemon}},
		// What init writes to, until it mounts a /dev of its own; the kernel opens it (init/main.c, console_on_rootfs).
		{Name: "dev/console", Node: &ramdisk.Node{Kind: ramdisk.Device, Mode: 0o600, Major: 5, Minor: 1}}, // Documentation/admin-guide/devices.txt
		// What Go's runtime opens before main where a machine has no console.
		{Name: "dev/null", Node: &ramdisk.Node{Kind: ramdisk.Device, Mode: 0o666, Major: 1, Minor: 3}},
		folder("tmp", 0o1777), folder(dir, 0o755), folder(root, 0o755),
	}
	made := map[string]bool{}
	for _, name := range []string{"dev", "proc", "sys", inside(image.Run), inside(image.State)} {
		for at := range parents(name) {
			if !made[at] {
				made[at] = true
				entries = append(entries, folder(at, 0o755))
			}
		}
	}
	return append(entries, enclave.Entries(dir)...)
}

// laySecond is the ramdisk of the executors' root.
func laySecond(root *rootfs.Tree) []ramdisk.Entry {
	dir := inside(image.Root)
	return append(root.Entries(dir), folder(dir, 0o755))
}

func folder(name string, mode uint32) ramdisk.Entry {
	return ramdisk.Entry{Name: name, Node: &ramdisk.Node{Kind: ramdisk.Folder, Mode: mode}}
}

// inside is a path of an image as an archive has it.
func inside(path string) string { return strings.TrimPrefix(path, "/") }

// parents are a name and those above it, the top first.
func parents(name string) func(func(string) bool) {
	return func(yield func(string) bool) {
		for i, c := range name {
			if c == '/' && !yield(name[:i]) {
				return
			}
		}
		yield(name)
	}
}
