package kernel_test

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"context"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io/fs"
	"maps"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

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

func packed(t *testing.T, kind string, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	switch kind {
	case "gz":
		w := gzip.NewWriter(&b)
		_, _ = w.Write(data)
		_ = w.Close()
	case "xz":
		w, err := xz.NewWriter(&b)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = w.Write(data)
		_ = w.Close()
	case "zst":
		w, err := zstd.NewWriter(&b)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = w.Write(data)
		_ = w.Close()
	}
	return b.Bytes()
}

func TestModules(t *testing.T) {
	dir := fstest.MapFS{
		"modules.builtin":                 {Data: []byte("kernel/drivers/char/hw_random/rng-core.ko\nkernel/fs/ext4/ext4.ko\n")},
		"kernel/nsm.ko.xz":                {Data: packed(t, "xz", buildtest.Module("rng-core"))},
		"kernel/net/vsock.ko.gz":          {Data: packed(t, "gz", buildtest.Module())},
		"kernel/net/vsock-common.ko.zst":  {Data: packed(t, "zst", buildtest.Module("vsock"))},
		"kernel/net/vsock_virtio.ko":      {Data: buildtest.Module("vsock_common", "vsock")},
		"kernel/net/vsock_virtio.korean":  {Data: []byte("no module")},
		"kernel/circle/a.ko":              {Data: buildtest.Module("b")},
		"kernel/circle/b.ko":              {Data: buildtest.Module("a")},
		"kernel/twice.ko":                 {Data: buildtest.Module()},
		"updates/twice.ko":                {Data: buildtest.Module()},
		"kernel/orphan.ko":                {Data: buildtest.Module("nobody")},
		"kernel/text.ko":                  {Data: []byte("hello")},
		"kernel/damaged.ko.gz":            {Data: []byte{0x1f, 0x8b, 8}},
		"kernel/bomb.ko.gz":               {Data: packed(t, "gz", append([]byte("\x7fELF"), make([]byte, 64<<20)...))},
		"kernel/bare.ko":                  {Data: buildtest.Executable(62)},
		"kernel/ill.ko":                   {Data: []byte("\x7fELF but no more")},
		"kernel/another.ko.lzo":           {Data: []byte("x")},
		"kernel/drivers/ext4.ko/not-file": {Data: []byte("x")},
	}
	modules, err := kernel.Modules(t.Context(), dir, []string{"vsock-virtio", "nsm", "vsock", "ext4"})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, m := range modules {
		names = append(names, m.Name)
		if !bytes.HasPrefix(m.Data, []byte("\x7fELF")) {
			t.Errorf("%s is packed", m.Name)
		}
	}
	if want := []string{"vsock", "vsock_common", "vsock_virtio", "nsm"}; !slices.Equal(names, want) {
		t.Errorf("%q", names)
	}
	for name, want := range map[string]string{
		"absent": `no module "absent"`, "a": "depends on itself", "twice": "more than once: kernel/twice.ko, updates/twice.ko", "orphan": `no module "nobody", which "orphan"`,
		"text": "it is no module", "damaged": "unpacking", "bomb": "over 64 MiB", "bare": "no .modinfo", "ill": "get it again", "another": ".lzo",
	} {
		_, err := kernel.Modules(t.Context(), dir, []string{name})
		wrong, ok := errors.AsType[*kernel.Error](err)
		if !ok || !strings.Contains(wrong.Reason+wrong.Hint, want) {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
	}
	for _, name := range []string{"modules.builtin", "kernel/text.ko"} {
		pipe := fstest.MapFS{"kernel/text.ko": {}, name: {Mode: fs.ModeNamedPipe}}
		_, err := kernel.Modules(t.Context(), later{pipe}, []string{"text"})
		if wrong, ok := errors.AsType[*kernel.Error](err); !ok || !strings.Contains(wrong.Reason, name+" is no regular file") {
			t.Errorf("a FIFO %s: %v", name, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := kernel.Modules(ctx, dir, nil); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if _, err := kernel.Modules(t.Context(), unreadable{dir}, nil); !errors.Is(err, fs.ErrPermission) {
		t.Error(err)
	}
}

// later is a folder that is listed with files only.
type later struct{ fstest.MapFS }

func (l later) ReadDir(name string) ([]fs.DirEntry, error) {
	all, err := l.MapFS.ReadDir(name)
	for i, entry := range all {
		if !entry.IsDir() {
			all[i] = file{entry}
		}
	}
	return all, err
}

type file struct{ fs.DirEntry }

func (file) Type() fs.FileMode { return 0 }

type unreadable struct{ fs.FS }

func (unreadable) Open(string) (fs.File, error) { return nil, fs.ErrPermission }

// bigXZ is a stream of a block that asks for a dictionary, as package lzma numbers its size, and holds nothing.
func bigXZ(dictionary byte, blocks int) []byte {
	sum := func(b []byte) []byte { return binary.LittleEndian.AppendUint32(b, crc32.ChecksumIEEE(b)) }
	stream := append([]byte("\xfd7zXZ\x00"), sum([]byte{0, 1})...)
	for range blocks {
		stream = append(stream, sum([]byte{2, 0, 0x21, 1, dictionary, 0, 0, 0})...)
		stream = append(stream, 0, 0, 0, 0, 0, 0, 0, 0) // the end of its chunks, three zeros, the checksum of nothing
	}
	return append(stream, 0)
}

// TestDictionaries: what is allocated for a module is bounded, whatever its header says.
func TestDictionaries(t *testing.T) {
	inKernel := func(payload []byte) []byte {
		b := buildtest.BzImage("6.1", "")
		at := (int(b[0x1f1])+1)*512 + int(binary.LittleEndian.Uint32(b[0x248:]))
		binary.LittleEndian.PutUint32(b[0x24c:], uint32(len(payload)))
		return append(b[:at], payload...)
	}
	for rule, test := range map[string]struct {
		data []byte
		want string
	}{
		"4 GiB": {bigXZ(40, 1), "a dictionary of 4095 MiB; 64 are allowed"}, "96 MiB": {bigXZ(29, 1), "a dictionary of 96 MiB"},
		"many of 64 MiB": {bigXZ(28, 1000), "dictionaries of over 512 MiB"}, "64 MiB": {bigXZ(28, 1), "it is no module"},
		"another filter": {bigXZ(0xff, 1), "unpacking"},
		"in a block behind one that is not large": {slices.Concat(bigXZ(0, 1)[:32], bigXZ(40, 1)[12:]), "a dictionary of 4095 MiB"},
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := kernel.Modules(t.Context(), fstest.MapFS{"a.ko.xz": {Data: test.data}}, []string{"a"})
		_ = kernel.Embedded(bytes.NewReader(inKernel(test.data)), 1<<20, false)
		runtime.ReadMemStats(&after)
		if wrong, ok := errors.AsType[*kernel.Error](err); !ok || !strings.Contains(wrong.Reason, test.want) {
			t.Errorf("%s: %v, want %q", rule, err, test.want)
		}
		if took := after.TotalAlloc - before.TotalAlloc; took > 2*600<<20 {
			t.Errorf("%s: %d MiB were allocated", rule, took>>20)
		}
	}
	if c := kernel.Embedded(bytes.NewReader(inKernel(packed(t, "xz", buildtest.Image("6.1", buildtest.Config)))), 1<<20, false); c["NSM"] != "m" {
		t.Errorf("what is packed with xz: %v", c)
	}
}

// TestXZ: what is cut is refused, and what is damaged gives no other module.
func TestXZ(t *testing.T) {
	module := buildtest.Module()
	for kind, config := range map[string]xz.WriterConfig{
		"CRC32": {CheckSum: xz.CRC32}, "CRC64": {CheckSum: xz.CRC64}, "SHA-256": {CheckSum: xz.SHA256}, "blocks": {BlockSize: 100},
	} {
		var b bytes.Buffer
		config.DictCap = 1 << 16
		w, err := config.NewWriter(&b)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = w.Write(module)
		_ = w.Close()
		load := func(data []byte) ([]kernel.Module, error) {
			return kernel.Modules(t.Context(), fstest.MapFS{"a.ko.xz": {Data: data}}, []string{"a"})
		}
		if got, err := load(b.Bytes()); err != nil || len(got) != 1 || !bytes.Equal(got[0].Data, module) {
			t.Errorf("%s: %v", kind, err)
		}
		index := b.Len() - 12 - (int(binary.LittleEndian.Uint32(b.Bytes()[b.Len()-8:]))+1)*4 // its size is in the footer
		for i := range index {
			damaged := bytes.Clone(b.Bytes())
			damaged[i] ^= 0x10
			if got, err := load(damaged); err == nil && !bytes.Equal(got[0].Data, module) {
				t.Errorf("%s: damaged at %d, and taken", kind, i)
			}
			if _, err := load(b.Bytes()[:i]); err == nil {
				t.Errorf("%s: cut at %d, and taken", kind, i)
			}
		}
	}
}

// large is a module of about 70 KB whose section of names or whose .modinfo, by index, says that it unpacks to 1 GiB, or
// that it is as long.
func large(t *testing.T, index int, flags uint64) []byte {
	t.Helper()
	module := buildtest.Module("rng-core")
	var zeros bytes.Buffer // as zlib packs them
	w := zlib.NewWriter(&zeros)
	for range 1 << 6 {
		_, _ = w.Write(make([]byte, 1<<20))
	}
	_ = w.Close()
	at := binary.LittleEndian.Uint64(module[0x28:]) + uint64(index)*64 // its header
	data := binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(nil, 1), 1<<26), 1)
	data = append(data, zeros.Bytes()...)
	binary.LittleEndian.PutUint64(module[at+8:], flags)
	binary.LittleEndian.PutUint64(module[at+24:], uint64(len(module)))
	binary.LittleEndian.PutUint64(module[at+32:], uint64(len(data)))
	if flags == 0 {
		binary.LittleEndian.PutUint64(module[at+32:], 1<<30)
	}
	return append(module, data...)
}

// TestASectionIsInItsModule: what a module says of its sections makes nobody allocate more than it has.
func TestASectionIsInItsModule(t *testing.T) {
	const compressed = 0x800 // SHF_COMPRESSED
	put := func(at int, v ...byte) []byte {
		module := buildtest.Module("rng-core")
		copy(module[at:], v)
		return module
	}
	headers := int(binary.LittleEndian.Uint64(buildtest.Module("rng-core")[0x28:]))
	shared := buildtest.Module("rng-core") // many sections, and a name of a megabyte for each
	{
		names := make([]byte, 0, 1<<20)
		for len(names) < 1<<20-1 {
			names = append(names, 'x')
		}
		at := len(shared)
		shared = append(append(shared, names...), 0)
		table := make([]byte, 0, 64*10_000)
		for range 10_000 {
			table = append(table, make([]byte, 64)...)
		}
		binary.LittleEndian.PutUint32(table[4:], 3) // SHT_STRTAB
		binary.LittleEndian.PutUint64(table[24:], uint64(at))
		binary.LittleEndian.PutUint64(table[32:], 1<<20)
		binary.LittleEndian.PutUint64(shared[0x28:], uint64(len(shared)))
		binary.LittleEndian.PutUint16(shared[0x3c:], 10_000)
		binary.LittleEndian.PutUint16(shared[0x3e:], 0)
		shared = append(shared, table...)
	}
	for rule, test := range map[string]struct {
		data []byte
		want string
	}{
		"names that are compressed":   {large(t, 2, compressed), "cut, damaged"},
		".modinfo is compressed":      {large(t, 1, compressed), "leaves the file, or is compressed"},
		"names of 1 GiB":              {large(t, 2, 0), "cut, damaged"},
		".modinfo of 1 GiB":           {large(t, 1, 0), "leaves the file, or is compressed"},
		"ten thousand long names":     {shared, "no .modinfo"},
		".modinfo of nothing":         {put(headers+64+4, 8), "leaves the file, or is compressed"}, // SHT_NOBITS
		"headers behind the end":      {put(0x28, 0xff, 0xff, 0xff), "cut, damaged"},
		"headers before all":          {put(0x28, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff), "cut, damaged"},
		"more headers than there are": {put(0x3c, 0xff, 0xff), "cut, damaged"},
		"headers of another size":     {put(0x3a, 40), "cut, damaged"},
		"no section":                  {put(0x3c, 0, 0), "no .modinfo"},
		"names that are not there":    {put(0x3e, 3), "no .modinfo"},
		"32 bits":                     {put(4, 1), "64 bits"},
		"the other end first":         {put(5, 2), "64 bits"},
		"a name behind all":           {put(headers+64, 0xff, 0xff, 0xff, 0xff), "no .modinfo"},
		"cut":                         {buildtest.Module()[:60], "cut, damaged"},
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := kernel.Modules(t.Context(), fstest.MapFS{"a.ko": {Data: test.data}}, []string{"a"})
		runtime.ReadMemStats(&after)
		if wrong, ok := errors.AsType[*kernel.Error](err); !ok || !strings.Contains(wrong.Reason, test.want) {
			t.Errorf("%s: %v, want %q", rule, err, test.want)
		}
		if took := after.TotalAlloc - before.TotalAlloc; took > 32<<20 {
			t.Errorf("%s: %d MiB were allocated", rule, took>>20)
		}
	}
}

// TestModulesAreBoundedTogether, too.
func TestModulesAreBoundedTogether(t *testing.T) {
	dir := fstest.MapFS{"a.ko": {Data: buildtest.Module("b")}, "b.ko": {Data: buildtest.Module()}}
	both := len(dir["a.ko"].Data) + len(dir["b.ko"].Data)
	if found, err := kernel.ModulesUpTo(t.Context(), dir, []string{"a"}, both); err != nil || len(found) != 2 {
		t.Errorf("%d, %v", len(found), err)
	}
	_, err := kernel.ModulesUpTo(t.Context(), dir, []string{"a"}, both-1)
	if wrong, ok := errors.AsType[*kernel.Error](err); !ok || !strings.Contains(wrong.Reason, "the modules are over") {
		t.Error(err)
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

// FuzzModule: no module makes anything panic.
func FuzzModule(f *testing.F) {
	f.Add(buildtest.Module("b", "c"), ".ko")
	f.Add([]byte{0x1f, 0x8b, 8}, ".ko.gz")
	f.Add([]byte("\xfd7zXZ\x00"), ".ko.xz")
	f.Add(bigXZ(0, 2), ".ko.xz")
	f.Add([]byte{0x28, 0xb5, 0x2f, 0xfd}, ".ko.zst")
	f.Fuzz(func(t *testing.T, data []byte, suffix string) {
		if !fs.ValidPath("a" + suffix) {
			return
		}
		_, err := kernel.Modules(t.Context(), fstest.MapFS{"a" + suffix: {Data: data}}, []string{"a"})
		if _, ok := errors.AsType[*kernel.Error](err); err != nil && !ok {
			t.Fatal(err)
		}
	})
}
