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
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"github.com/cloister-run/cloister/enclave/image/build/buildtest"
	"github.com/cloister-run/cloister/enclave/image/kernel"
)

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
