package build

import (
	"strings"

	"github.com/cloister-run/cloister/enclave/image"
	"github.com/cloister-run/cloister/enclave/image/ramdisk"
	"github.com/cloister-run/cloister/enclave/image/rootfs"
)

// layFirst is the ramdisk that boots: init, what is mounted over, and Cloister's own files of the folder of the enclave.
//
// PCR0 and PCR1 are hashes over kernel, command line and first ramdisk, one after the other and without their lengths
// (eif.PCRs): whoever starts an image may move the two boundaries, and nothing that is attested changes. So it
// holds nothing whose bytes somebody else chose, who would put a command line and an archive into a file of theirs, to be
// booted in the place of this one. And its order counts. It begins with the folder of the daemon and the daemon, without
// which init leads nowhere: a ramdisk that begins later brings up nothing. It ends with the command line, which the daemon
// holds against that of the running kernel (package machine): a boundary in front of the ramdisk that was moved stops it, and
// who takes the command line from here has nothing left to boot.
func layFirst(enclave *rootfs.Tree, commandLine string) []ramdisk.Entry {
	dir, root := inside(image.Dir), inside(image.Root)
	daemon := dir + "/" + image.Daemon
	entries := []ramdisk.Entry{
		folder(dir, 0o755),
		{Name: daemon, Node: enclave.Find(image.Daemon)},
		{Name: inside(image.Init), Node: &ramdisk.Node{Kind: ramdisk.Symlink, Mode: 0o777, Target: daemon}},
		folder("tmp", 0o1777), folder(root, 0o755), folder("dev", 0o755),
		// What init writes to, until it mounts a /dev of its own; the kernel opens it (init/main.c, console_on_rootfs).
		{Name: "dev/console", Node: &ramdisk.Node{Kind: ramdisk.Device, Mode: 0o600, Major: 5, Minor: 1}}, // Documentation/admin-guide/devices.txt
		// What Go's runtime opens before main where a machine has no console.
		{Name: "dev/null", Node: &ramdisk.Node{Kind: ramdisk.Device, Mode: 0o666, Major: 1, Minor: 3}},
	}
	made := map[string]bool{}
	for _, name := range []string{"proc", "sys", inside(image.Run), inside(image.State)} {
		for at := range parents(name) {
			if !made[at] {
				made[at] = true
				entries = append(entries, folder(at, 0o755))
			}
		}
	}
	for _, e := range enclave.Entries(dir) {
		if e.Name != daemon {
			entries = append(entries, e)
		}
	}
	return append(entries, ramdisk.Entry{Name: dir + "/" + image.CommandLine, Node: content([]byte(commandLine))})
}

// laySecond is the ramdisk of executors and of their root. PCR2 is a hash of its own, so that its boundary cannot be moved.
func laySecond(root *rootfs.Tree, executors []ramdisk.Entry) []ramdisk.Entry {
	at := inside(image.Root)
	entries := append(root.Entries(at), folder(at, 0o755), folder(inside(image.Dir), 0o755))
	for _, e := range executors {
		entries = append(entries, ramdisk.Entry{Name: inside(image.Dir) + "/" + e.Name, Node: e.Node})
	}
	return entries
}

// shadowing finds a name of the second ramdisk that could take the place of something in the first, over which it is
// unpacked. No tree has such names; the boundary is not left to that.
func shadowing(second []ramdisk.Entry) (name string, found bool) {
	dir, root := inside(image.Dir), inside(image.Root)
	executors := dir + "/" + image.Executors
	for _, e := range second {
		folder := e.Kind == ramdisk.Folder && (e.Name == dir || e.Name == root || e.Name == executors)
		if !folder && !strings.HasPrefix(e.Name, root+"/") && !strings.HasPrefix(e.Name, executors+"/") {
			return e.Name, true
		}
	}
	return "", false
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
