package kernel_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cloister-run/cloister/enclave/image/build/buildtest"
	"github.com/cloister-run/cloister/enclave/image/kernel"
)

func check(data []byte, arm bool) (string, error) {
	return kernel.Check(bytes.NewReader(data), int64(len(data)), arm)
}

func TestCheck(t *testing.T) {
	x86, arm := buildtest.BzImage("6.12.41-a", ""), buildtest.Image("6.6.1-b", "")
	if version, err := check(x86, false); err != nil || version != "6.12.41-a" {
		t.Errorf("%q, %v", version, err)
	}
	if version, err := check(arm, true); err != nil || version != "6.6.1-b" {
		t.Errorf("%q, %v", version, err)
	}
	silent := bytes.Clone(x86)
	copy(silent[0x20e:], "\x00\x00")
	if version, err := check(silent, false); err != nil || version != "" {
		t.Errorf("%q, %v", version, err)
	}
	copy(silent[0x20e:], "\xff\xff") // behind its end
	if version, err := check(silent[:0x300], false); err != nil || version != "" {
		t.Errorf("%q, %v", version, err)
	}
	if version, err := check(buildtest.BzImage("6.1\x1b[2J", ""), false); err != nil || version != "" {
		t.Errorf("%q, %v", version, err)
	}
	for rule, test := range map[string]struct {
		data []byte
		arm  bool
		want string
	}{
		"nothing": {nil, false, "no kernel"}, "text": {[]byte("hello"), true, "no kernel"}, "a bzImage for arm64": {x86, true, "for x86_64"},
		"an Image for x86_64": {arm, false, "for arm64"}, "vmlinux": {[]byte("\x7fELF and so on"), false, "an ELF file"},
		"vmlinuz of arm64": {[]byte{0x1f, 0x8b, 8, 0}, true, "compressed with gzip"}, "EFI": {[]byte("MZ and so on"), true, "an EFI program"},
		"cut": {x86[:0x203], false, "no kernel"},
	} {
		_, err := check(test.data, test.arm)
		if wrong, ok := errors.AsType[*kernel.Error](err); !ok || !strings.Contains(wrong.Reason, test.want) {
			t.Errorf("%s: %v", rule, err)
		}
	}
}

// TestExtent: a bzImage says how long it is, with what signs it; nothing else does.
func TestExtent(t *testing.T) {
	plain := buildtest.BzImage("6.1", "")
	signed := func(change func([]byte)) []byte { // as sbsign does it
		b := bytes.Clone(plain)
		copy(b, "MZ")
		binary.LittleEndian.PutUint32(b[0x3c:], 0x40)
		copy(b[0x40:], "PE\x00\x00")
		header := b[0x40+24:]
		binary.LittleEndian.PutUint16(header, 0x20b)
		binary.LittleEndian.PutUint32(header[108:], 6)
		binary.LittleEndian.PutUint32(header[144:], uint32(len(plain)))
		binary.LittleEndian.PutUint32(header[148:], 1472)
		change(b)
		return b
	}
	size := int64(len(plain))
	for rule, test := range map[string]struct {
		data []byte
		want int64
	}{
		"plain":                   {plain, size},
		"with more behind":        {append(bytes.Clone(plain), 1), size},
		"cut":                     {plain[:len(plain)-1], size},
		"signed":                  {signed(func([]byte) {}), size + 1472},
		"no sectors means four":   {func() []byte { b := bytes.Clone(plain); b[0x1f1] = 0; return b }(), size - 4*512},
		"no program of EFI":       {signed(func(b []byte) { b[0] = 0 }), size},
		"a PE header behind all":  {signed(func(b []byte) { binary.LittleEndian.PutUint32(b[0x3c:], 1<<32-1) }), size},
		"another magic":           {signed(func(b []byte) { b[0x40] = 'N' }), size},
		"a header of 32 bits":     {signed(func(b []byte) { b[0x40+24] = 0x0b; b[0x40+25] = 1 }), size},
		"no place for signatures": {signed(func(b []byte) { b[0x40+24+108] = 4 }), size},
		"an old protocol":         {func() []byte { b := bytes.Clone(plain); copy(b[0x206:], "\x03\x02"); return b }(), 0},
		"arm64":                   {buildtest.Image("6.1", ""), 0},
		"text":                    {[]byte("hello"), 0},
		"nothing":                 {nil, 0},
	} {
		if got, err := kernel.Extent(bytes.NewReader(test.data)); err != nil || got != test.want {
			t.Errorf("%s: %d, %v, want %d", rule, got, err, test.want)
		}
	}
}

// What the documentation says that a kernel needs is what is looked for.
func TestTheDocumentListsTheOptions(t *testing.T) {
	text, err := os.ReadFile("../../../docs/enclave-image.md")
	if err != nil {
		t.Fatal(err)
	}
	_, list, found := strings.Cut(string(text), "Built in must be ")
	list, _, ends := strings.Cut(list, "`cloister image build`")
	if !found || !ends {
		t.Fatal("the list is not where it was")
	}
	builtIn, modules, _ := strings.Cut(list, "RD_GZIP for compressed ramdisks.")
	option := regexp.MustCompile(`\b[A-Z][A-Z0-9_]{2,}\b`)
	documented := func(text string) []string { return slices.Sorted(slices.Values(option.FindAllString(text, -1))) }
	var needed, loadable []string
	none, module := kernel.Config{"X": "y"}, kernel.Config{}
	for _, lack := range none.Lacks(kernel.Use{Gzip: true}) {
		name := regexp.MustCompile(`CONFIG_([A-Z0-9_]+)`).FindStringSubmatch(lack)[1]
		module[name] = "m"
		needed = append(needed, name)
	}
	for _, lack := range module.Lacks(kernel.Use{Gzip: true}) {
		if strings.Contains(lack, "as a module") {
			loadable = append(loadable, regexp.MustCompile(`CONFIG_([A-Z0-9_]+)`).FindStringSubmatch(lack)[1])
		}
	}
	slices.Sort(loadable)
	if got := documented(modules); !slices.Equal(got, loadable) {
		t.Errorf("documented as possible modules: %q; looked for: %q", got, loadable)
	}
	needed = slices.Sorted(slices.Values(slices.DeleteFunc(needed, func(name string) bool { return slices.Contains(loadable, name) })))
	if got := documented(builtIn + "RD_GZIP"); !slices.Equal(got, needed) {
		t.Errorf("documented: %q; looked for: %q", got, needed)
	}
}

func TestEmbeddedConfiguration(t *testing.T) {
	for name, data := range map[string][]byte{"x86_64": buildtest.BzImage("6.1", buildtest.Config), "arm64": buildtest.Image("6.1", buildtest.Config)} {
		c := kernel.Embedded(bytes.NewReader(data), int64(len(data)), name == "arm64")
		if c["NSM"] != "m" || c["MEMCG"] != "y" || c["NET"] != "" {
			t.Errorf("%s: %v", name, c)
		}
	}
	without := buildtest.BzImage("6.1", "")
	for rule, data := range map[string][]byte{"none": without, "cut": without[:len(without)-20], "short": without[:0x249], "text": []byte("hello")} {
		if c := kernel.Embedded(bytes.NewReader(data), int64(len(data)), false); c != nil {
			t.Errorf("%s: %v", rule, c)
		}
	}
}

func TestLacks(t *testing.T) {
	all, err := kernel.ParseConfig(strings.NewReader(buildtest.Config))
	if err != nil {
		t.Fatal(err)
	}
	if lacks := all.Lacks(kernel.Use{Gzip: true, Modules: []string{"nsm"}}); len(lacks) > 0 {
		t.Errorf("%q", lacks)
	}
	for option := range all {
		c := kernel.Config{}
		for name, value := range all {
			if name != option {
				c[name] = value
			}
		}
		use := kernel.Use{Gzip: true, Modules: []string{"nsm"}}
		if option == "NSM" {
			use.Modules = nil
		}
		if lacks := c.Lacks(use); len(lacks) != 1 || !strings.Contains(lacks[0], "lacks CONFIG_"+option+":") {
			t.Errorf("%s: %q", option, lacks)
		}
	}
	for rule, test := range map[string]struct {
		arm     bool
		options kernel.Config
		own     bool
	}{
		"none on x86_64":         {false, kernel.Config{"CMDLINE_BOOL": "y", "CMDLINE": `""`}, false},
		"one on x86_64":          {false, kernel.Config{"CMDLINE_BOOL": "y", "CMDLINE": `"quiet"`}, true},
		"a default one on arm64": {true, kernel.Config{"CMDLINE": `"quiet"`, "CMDLINE_FROM_BOOTLOADER": "y"}, false},
		"one on arm64":           {true, kernel.Config{"CMDLINE": `"quiet"`, "CMDLINE_FORCE": "y"}, true},
	} {
		c := maps.Clone(all)
		maps.Copy(c, test.options)
		lacks := c.Lacks(kernel.Use{ARM: test.arm, Modules: []string{"nsm"}})
		if test.own != (len(lacks) == 1 && strings.Contains(lacks[0], "CONFIG_CMDLINE:")) || len(lacks) > 1 {
			t.Errorf("%s: %q", rule, lacks)
		}
	}
	delete(all, "VIRTIO_MMIO_CMDLINE_DEVICES")
	delete(all, "RD_GZIP")
	if lacks := all.Lacks(kernel.Use{ARM: true, Modules: []string{"nsm"}}); len(lacks) > 0 {
		t.Errorf("%q", lacks)
	}
	if _, err := kernel.ParseConfig(strings.NewReader("# CONFIG_NSM is not set\n")); err == nil {
		t.Error("a file without an option is a configuration")
	}
}

func TestEnded(t *testing.T) {
	now := time.Date(2026, 11, 29, 0, 0, 0, 0, time.UTC)
	for version, want := range map[string]string{
		"6.12.41-cloud-amd64": "", "6.18": "", "6.19.3": "", "7.2.1": "", "": "", "x.y": "", "6": "", "6.": "",
		"5.10.250": "until December 2026", "5.4.1": "has cared for 5.4 until December 2025", "4.14.256-209.484.amzn2.x86_64": "4.14 is no line", "6.17.1": "6.17 is no line",
	} {
		if got := kernel.Ended(version, now); (got == "") != (want == "") || !strings.Contains(got, want) {
			t.Errorf("%s: %q", version, got)
		}
	}
	if got := kernel.Ended("6.12.1", now.AddDate(3, 0, 0)); !strings.Contains(got, "has cared") {
		t.Error(got)
	}
}

// FuzzKernel: no file makes anything panic or run long.
func FuzzKernel(f *testing.F) {
	f.Add(buildtest.BzImage("6.12.1", "CONFIG_A=y\n"), false)
	f.Add(buildtest.Image("6.12.1", "CONFIG_A=y\n")[:1000], true)
	f.Fuzz(func(t *testing.T, data []byte, arm bool) {
		version, err := check(data, arm)
		if wrong, ok := errors.AsType[*kernel.Error](err); err != nil && !ok || len(version) > 256 {
			t.Fatal(version, err, wrong)
		}
		if err == nil {
			_ = kernel.Embedded(bytes.NewReader(data), int64(len(data)), arm)
		}
	})
}
