package build_test

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cloister-run/cloister/enclave/image/build"
	"github.com/cloister-run/cloister/enclave/image/build/buildtest"
	"github.com/cloister-run/cloister/enclave/image/eif"
	"github.com/cloister-run/cloister/enclave/image/ramdisk"
)

// commandLine is that of buildtest.Recipe.
const commandLine = "console=ttyS0 quiet"

// measured are the two strings of bytes that PCR0, PCR1 and PCR2 fix: the kernel, the command line and the first ramdisk,
// one after the other, and the second ramdisk. starts are where the command line and the ramdisk begin.
type measured struct {
	boots, second []byte
	starts        [2]int
}

func taken(t *testing.T, raw []byte) measured {
	t.Helper()
	img, err := eif.Read(bytes.NewReader(raw), int64(len(raw)))
	if err != nil {
		t.Fatal(err)
	}
	parts := map[eif.Kind][][]byte{}
	for _, s := range img.Sections {
		data, err := io.ReadAll(img.Data(s))
		if err != nil {
			t.Fatal(err)
		}
		parts[s.Kind] = append(parts[s.Kind], data)
	}
	kernel, line, first := parts[eif.Kernel][0], parts[eif.CommandLine][0], parts[eif.Ramdisk][0]
	return measured{slices.Concat(kernel, line, first), parts[eif.Ramdisk][1], [2]int{len(kernel), len(kernel) + len(line)}}
}

// unpacked is what a kernel has of ramdisks that begin at an offset: it goes on until what comes is no archive, and a
// name without the folders above it is left out.
func (m measured) unpacked(from int, more ...[]byte) map[string]ramdisk.Kind {
	found := map[string]ramdisk.Kind{".": ramdisk.Folder}
	r := ramdisk.NewReader(bytes.NewReader(append(slices.Clone(m.boots[from:]), slices.Concat(more...)...)), 1<<30)
	for {
		h, err := r.Next()
		if err != nil {
			return found
		}
		if found[filepath.Dir(h.Name)] == ramdisk.Folder {
			found[h.Name] = h.Kind
		}
	}
}

// boots says whether there is an init that leads to a file.
func boots(found map[string]ramdisk.Kind) bool {
	return found["init"] == ramdisk.File || found["init"] == ramdisk.Symlink && found["cloister/cloisterd"] == ramdisk.File
}

// archives are the offsets at which a kernel would begin to unpack something: zeros in front are passed over.
func (m measured) archives() (offsets []int) {
	for _, magic := range []string{"07070", "\x1f\x8b"} {
		for at := 0; ; at++ {
			next := bytes.Index(m.boots[at:], []byte(magic))
			if next < 0 {
				break
			}
			at += next
			offsets = append(offsets, at)
		}
	}
	return offsets
}

// TestI5_NoOtherBoundariesBoot takes an image of an executor and a root that carry a command line and an archive, and moves the
// boundaries of what is measured as one: of every ramdisk that can be had so, the genuine one alone brings up anything,
// and in front of that one there is no command line that the daemon takes but the genuine one.
func TestI5_NoOtherBoundariesBoot(t *testing.T) {
	var archive bytes.Buffer
	content := func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("evil")), nil }
	evil := []ramdisk.Entry{{Name: "init", Node: &ramdisk.Node{Kind: ramdisk.File, Mode: 0o755, Size: 4, Open: content}}}
	if err := ramdisk.Write(t.Context(), &archive, evil); err != nil {
		t.Fatal(err)
	}
	planted := append([]byte(commandLine+"\x00"), archive.Bytes()...)
	for name, change := range map[string][]string{"plain": {"", ""}, "gzip": {"metadata:", "compress: gzip\nmetadata:"}} {
		t.Run(name, func(t *testing.T) {
			recipe := buildtest.Inputs(t, t.TempDir())
			for _, path := range []string{"enclave/executors/python/data", "enclave/etc/data", "root/usr/lib/planted"} {
				if err := os.WriteFile(filepath.Join(filepath.Dir(recipe), path), planted, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			raw, _ := built(t, recipe, change...)
			m := taken(t, raw)
			if !boots(m.unpacked(m.starts[1], m.second)) {
				t.Fatal("the image itself does not boot")
			}
			for _, at := range append(m.archives(), len(m.boots)) {
				if found := m.unpacked(at, m.second); boots(found) != (at == m.starts[1]) {
					t.Errorf("a ramdisk that begins at %d of %v: %v", at, m.starts, found)
				}
			}
			m.checkCommandLines(t)
		})
	}
}

// checkCommandLines looks at each that ends where the ramdisk begins, and at each in the ramdisk. A kernel reads until a NUL.
func (m measured) checkCommandLines(t *testing.T) {
	t.Helper()
	for at := range m.starts[1] + 1 {
		line, _, _ := strings.Cut(string(m.boots[at:m.starts[1]]), "\x00")
		taken := line == commandLine || strings.HasPrefix(line, commandLine+" ")
		if taken != (at == m.starts[0]) {
			t.Errorf("a command line that begins at %d of %v: %q", at, m.starts, line)
		}
	}
	for at := m.starts[1]; ; at++ {
		next := bytes.Index(m.boots[at:], []byte(commandLine))
		if next < 0 {
			return
		}
		at += next
		for _, archive := range m.archives() {
			if archive > at && len(m.unpacked(archive)) > 1 {
				t.Errorf("the command line at %d leaves the ramdisk at %d: %v", at, archive, m.unpacked(archive))
			}
		}
	}
}

// TestI8_TheSecondRamdiskTakesNoPlaceOfTheFirst is about names, of which the kernel unpacks those of the second over the others.
func TestI8_TheSecondRamdiskTakesNoPlaceOfTheFirst(t *testing.T) {
	folder, file := &ramdisk.Node{Kind: ramdisk.Folder}, &ramdisk.Node{Kind: ramdisk.File}
	link := &ramdisk.Node{Kind: ramdisk.Symlink}
	for _, test := range []struct {
		ramdisk.Entry
		found bool
	}{
		{ramdisk.Entry{Name: "rootfs", Node: folder}, false},
		{ramdisk.Entry{Name: "rootfs/init", Node: file}, false},
		{ramdisk.Entry{Name: "cloister", Node: folder}, false},
		{ramdisk.Entry{Name: "cloister/executors", Node: folder}, false},
		{ramdisk.Entry{Name: "cloister/executors/cloisterd", Node: file}, false},
		{ramdisk.Entry{Name: "rootfs", Node: link}, true},
		{ramdisk.Entry{Name: "cloister", Node: link}, true},
		{ramdisk.Entry{Name: "cloister/executors", Node: link}, true},
		{ramdisk.Entry{Name: "cloister/executors-more", Node: folder}, true},
		{ramdisk.Entry{Name: "cloister/cloisterd", Node: file}, true},
		{ramdisk.Entry{Name: "cloister/cmdline", Node: file}, true},
		{ramdisk.Entry{Name: "init", Node: link}, true},
		{ramdisk.Entry{Name: "rootfs-more/x", Node: file}, true},
	} {
		if name, found := build.Shadowing([]ramdisk.Entry{{Name: "rootfs", Node: folder}, test.Entry}); found != test.found || found && name != test.Name {
			t.Errorf("%s %s: %q, %t", test.Kind, test.Name, name, found)
		}
	}
}

// TestOfRootsOnlyTheCertificatesAreCarried: what somebody wrote between them is nothing that boots.
func TestOfRootsOnlyTheCertificatesAreCarried(t *testing.T) {
	recipe := buildtest.Inputs(t, t.TempDir())
	roots, err := os.ReadFile("../../../deploy/aws/roots.pem")
	if err != nil {
		t.Fatal(err)
	}
	text := slices.Concat([]byte("before\x00"), roots, []byte("after\x00"))
	if err := os.WriteFile(filepath.Join(filepath.Dir(recipe), "roots.pem"), text, 0o600); err != nil {
		t.Fatal(err)
	}
	raw, _ := built(t, recipe, "profile:", "roots: roots.pem\nprofile:")
	m := taken(t, raw)
	first := m.boots[m.starts[1]:]
	if n := bytes.Count(first, []byte("-----BEGIN CERTIFICATE-----")); n != bytes.Count(roots, []byte("-----BEGIN ")) || n == 0 {
		t.Errorf("%d certificates", n)
	}
	for _, comment := range []string{"before\x00", "after\x00", "# Amazon Root CA 1"} {
		if bytes.Contains(first, []byte(comment)) {
			t.Errorf("%q is in the ramdisk", comment)
		}
	}
}
