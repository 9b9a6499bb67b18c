package eif_test

import (
	"bytes"
	"context"
	"crypto/sha512"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cloister-run/cloister/enclave/image/eif"
)

// build writes an image into memory.
func build(t testing.TB, spec eif.Spec, parts ...eif.Part) ([]byte, eif.PCRs) {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "x.eif"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	pcrs, err := eif.Write(t.Context(), f, spec, parts)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	return raw, pcrs
}

func read(raw []byte) (*eif.Image, error) { return eif.Read(bytes.NewReader(raw), int64(len(raw))) }

func noise(n int) []byte {
	data := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{}).Read(data)
	return data
}

// x is X(m) of AWS's measurements: a register of zeros extended by the digest of m.
func x(parts ...[]byte) (p eif.PCR) {
	sum := sha512.Sum384(bytes.Join(parts, nil))
	return sha512.Sum384(append(make([]byte, 48), sum[:]...))
}

func TestWhatIsWrittenIsReadAndMeasuredAsAWSDoes(t *testing.T) {
	kernel, line, first, second, third := noise(3<<20+17), []byte("console=ttyS0"), noise(1<<20), noise(5), noise(2<<20)
	raw, pcrs := build(t, eif.Spec{ARM: true, Memory: 1 << 30, CPUs: 2},
		eif.Bytes(eif.Kernel, kernel), eif.Bytes(eif.CommandLine, line), eif.Bytes(eif.Metadata, []byte("{}")),
		eif.Bytes(eif.Ramdisk, first), eif.Bytes(eif.Ramdisk, second), eif.Bytes(eif.Ramdisk, third))
	img, err := read(raw)
	if err != nil {
		t.Fatal(err)
	}
	if !img.ARM || img.Memory != 1<<30 || img.CPUs != 2 || len(img.Sections) != 6 {
		t.Errorf("%+v", img)
	}
	if got, err := io.ReadAll(img.Data(img.Sections[1])); err != nil || string(got) != string(line) {
		t.Errorf("%q, %v", got, err)
	}
	want := eif.PCRs{PCR0: x(kernel, line, first, second, third), PCR1: x(kernel, line, first), PCR2: x(second, third)}
	if pcrs != want {
		t.Errorf("written as %v, want %v", pcrs, want)
	}
	if got, err := img.Measure(t.Context()); err != nil || got != want {
		t.Errorf("read as %v, %v, want %v", got, err, want)
	}
	covered := append(slices.Clone(raw[:544]), raw[548:]...)
	if sum := crc32.ChecksumIEEE(covered); sum != binary.BigEndian.Uint32(raw[544:]) {
		t.Errorf("its CRC is %x, and that of its bytes %x", raw[544:548], sum)
	}
}

// The empty register is AWS's: what an image without further ramdisks has as PCR2.
func TestTheEmptyRegister(t *testing.T) {
	const empty = "21b9efbc184807662e966d34f390821309eeac6802309798826296bf3e8bec7c10edb30948c90ba67310f7b964fc500a"
	_, pcrs := build(t, eif.Spec{}, eif.Bytes(eif.Kernel, []byte("k")), eif.Bytes(eif.CommandLine, nil), eif.Bytes(eif.Ramdisk, nil))
	if pcrs.PCR2.String() != empty {
		t.Errorf("%s", pcrs.PCR2)
	}
}

// small is an image of a few bytes: 548 of header, and three sections.
func small(t testing.TB) []byte {
	raw, _ := build(t, eif.Spec{}, eif.Bytes(eif.Kernel, []byte("kernel")), eif.Bytes(eif.CommandLine, []byte("line")), eif.Bytes(eif.Ramdisk, []byte("disk")))
	return raw
}

func TestReadRefuses(t *testing.T) {
	put16 := func(at int, v uint16) func([]byte) []byte {
		return func(b []byte) []byte { binary.BigEndian.PutUint16(b[at:], v); return b }
	}
	put64 := func(at int, v uint64) func([]byte) []byte {
		return func(b []byte) []byte { binary.BigEndian.PutUint64(b[at:], v); return b }
	}
	section := func(kind uint16, data string) []byte {
		b := binary.BigEndian.AppendUint16(nil, kind)
		b = append(b, 0, 0)
		return append(binary.BigEndian.AppendUint64(b, uint64(len(data))), data...)
	}
	more := func(kinds ...uint16) func([]byte) []byte {
		return func(b []byte) []byte {
			for i, kind := range kinds {
				binary.BigEndian.PutUint64(b[28+8*(3+i):], uint64(len(b)))
				binary.BigEndian.PutUint64(b[28+256+8*(3+i):], 1)
				b = append(b, section(kind, "x")...)
			}
			binary.BigEndian.PutUint16(b[26:], uint16(3+len(kinds)))
			return b
		}
	}
	for _, test := range []struct {
		rule   string
		change func([]byte) []byte
		want   string
	}{
		{"nothing", func([]byte) []byte { return nil }, "ends in the header"},
		{"a part of a header", func(b []byte) []byte { return b[:547] }, "ends in the header"},
		{"another file", func(b []byte) []byte { b[0] = 'x'; return b }, "no enclave image"},
		{"an older version", put16(4, 2), "version 2 is not known"},
		{"a newer version", put16(4, 5), "version 5 is not known"},
		{"unknown flags", put16(6, 2), "flags 0x2"},
		{"no section", put16(26, 0), "0 sections"},
		{"too many sections", put16(26, 33), "33 sections"},
		{"a section fewer than there are", put16(26, 2), "places a section 2"},
		{"a section more than there are", put16(26, 4), "ends in the header of section 3"},
		{"cut in a section", func(b []byte) []byte { return b[:len(b)-1] }, "leaves the file"},
		{"something behind it", func(b []byte) []byte { return append(b, 0) }, "1 bytes follow"},
		{"an unknown kind", put16(548, 9), "unknown kind 9"},
		{"no kind", put16(548, 0), "unknown kind 0"},
		{"flags of a section", put16(550, 1), "flags 0x0001"},
		{"a kernel of an exabyte", put64(552, 1<<60), "at most"},
		{"a section of all that 64 bits hold", put64(552, 1<<64-1), "at most"},
		{"a kernel that leaves the file", put64(552, 1<<20), "leaves the file"},
		{"a table that lies about a place", put64(28, 549), "the header says at 549"},
		{"a table that lies about a size", put64(28+256, 7), "with 7"},
		{"a table that lies about no section", put64(28+8*31, 1), "places a section 31"},
		{"a table that lies about a size of no section", put64(28+256+8*31, 1), "places a section 31"},
		{"sections that overlap", put64(28+8, 548), "the header says at 548"},
		{"two kernels", more(1), "2 kernels"},
		{"two command lines", more(2), "2 command lines"},
		{"two signatures", more(4, 4), "2 signatures"},
		{"two metadata", more(5, 5), "2 metadata"},
		{"no kernel", put16(548, 3), "0 kernels"},
		{"a command line behind a ramdisk", func(b []byte) []byte { return put16(582, 2)(put16(566, 3)(b)) }, "a command line follows a ramdisk"},
		{"a kernel behind the command line", func(b []byte) []byte { return put16(566, 1)(put16(548, 2)(b)) }, "a kernel follows a command line"},
	} {
		_, err := read(test.change(small(t)))
		if wrong, ok := errors.AsType[*eif.Error](err); !ok || !strings.Contains(wrong.Reason, test.want) {
			t.Errorf("%s: %v, want %q", test.rule, err, test.want)
		}
	}
}

// I5: a byte of an image that is changed moves a PCR or breaks its CRC; with the CRC set right it moves one
// exactly where it is measured.
func TestI5_EveryByteCounts(t *testing.T) {
	good := small(t)
	img, err := read(good)
	if err != nil {
		t.Fatal(err)
	}
	want, err := img.Measure(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for at := range good {
		raw := slices.Clone(good)
		raw[at] ^= 1
		img, err := read(raw)
		if err != nil {
			continue // it is no image any more
		}
		if pcrs, err := img.Measure(t.Context()); err == nil {
			t.Errorf("byte %d: nothing is wrong, %v", at, pcrs)
		}
		binary.BigEndian.PutUint32(raw[544:], crc32.ChecksumIEEE(append(slices.Clone(raw[:544]), raw[548:]...)))
		if img, err = read(raw); err != nil {
			t.Fatal(err)
		}
		pcrs, err := img.Measure(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if moved, measured := pcrs != want, at >= 548; moved != measured {
			t.Errorf("byte %d: moved %v, measured %v", at, moved, measured)
		}
	}
}

func TestMeasuringCanBeCancelled(t *testing.T) {
	img, err := read(small(t))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("enough")
	cancel(why)
	if _, err := img.Measure(ctx); !errors.Is(err, why) {
		t.Error(err)
	}
}

func TestWriteRefuses(t *testing.T) {
	kernel, line, disk := eif.Bytes(eif.Kernel, nil), eif.Bytes(eif.CommandLine, nil), eif.Bytes(eif.Ramdisk, nil)
	fails := errors.New("the source is gone")
	for rule, test := range map[string]struct {
		parts []eif.Part
		want  string
	}{
		"no ramdisk":            {[]eif.Part{kernel, line}, "no ramdisk"},
		"too many sections":     {append(slices.Repeat([]eif.Part{disk}, 31), kernel, line), "33 sections"},
		"a long command line":   {[]eif.Part{kernel, eif.Bytes(eif.CommandLine, make([]byte, 64<<10+1)), disk}, "a command line of more than 65536 bytes"},
		"a source that is gone": {[]eif.Part{kernel, line, {Kind: eif.Ramdisk, Write: func(io.Writer) error { return fails }}}, "writing a ramdisk: the source is gone"},
	} {
		f, err := os.Create(filepath.Join(t.TempDir(), "x.eif"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := eif.Write(t.Context(), f, eif.Spec{}, test.parts); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", rule, err, test.want)
		}
		_ = f.Close()
	}
}

func FuzzRead(f *testing.F) {
	f.Add(small(f))
	f.Add([]byte(".eif"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		img, err := read(raw)
		if err != nil {
			return
		}
		covered := int64(548)
		for _, s := range img.Sections {
			covered += 12 + s.Size
			if n, err := io.Copy(io.Discard, img.Data(s)); err != nil || n != s.Size {
				t.Errorf("%+v: %d bytes, %v", s, n, err)
			}
		}
		if covered != int64(len(raw)) {
			t.Errorf("its sections are %d bytes of %d", covered, len(raw))
		}
		_, _ = img.Measure(t.Context())
	})
}
