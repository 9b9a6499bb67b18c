package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"maps"
	"math/big"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cloister-run/cloister/enclave/attest"
	"github.com/cloister-run/cloister/enclave/image/build/buildtest"
	"github.com/cloister-run/cloister/enclave/image/eif"
	"github.com/cloister-run/cloister/enclave/image/ramdisk"
)

// TestImageInspect prints what is attested apart from what is not, and steers no terminal.
func TestImageInspect(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.eif")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	pcrs, err := eif.Write(t.Context(), f, eif.Spec{Memory: 1 << 30, CPUs: 2}, []eif.Part{
		eif.Bytes(eif.Kernel, []byte("kernel")), eif.Bytes(eif.CommandLine, []byte("quiet \x1b[2J\nPCR0      forged\n"+strings.Repeat("x", maxText))),
		eif.Bytes(eif.Metadata, []byte("{\"ImageName\":\n\"claims\"}")), eif.Bytes(eif.Ramdisk, []byte("disk")),
	})
	if err != nil || f.Close() != nil {
		t.Fatal(err)
	}
	var out, errs strings.Builder
	if status := run(t.Context(), []string{"image", "inspect", path}, &out, &errs); status != int(statusDone) {
		t.Fatalf("%d: %s", status, errs.String())
	}
	for _, want := range []string{
		"for       x86_64, NOT ATTESTED\n", "boots     quiet �[2J�PCR0      forged�xxx", "xxx… (cut here)\n", "section   0: kernel, 6 bytes at 560\n", "PCR0      " + pcrs.PCR0.String() + "\n",
		"signed    by nobody: there is no PCR8\n",
		"asks for  1 GiB and 2 CPUs, NOT ATTESTED\n", `metadata  NOT ATTESTED: {"ImageName":�"claims"}` + "\n",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	raw[len(raw)-1]++
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	errs.Reset()
	if status := run(t.Context(), []string{"image", "inspect", path}, &out, &errs); status != int(statusUsage) || !strings.Contains(errs.String(), "it is damaged") {
		t.Errorf("%d: %s", status, errs.String())
	}
	binary.BigEndian.PutUint16(raw[26:], 1000)
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	errs.Reset()
	if status := run(t.Context(), []string{"image", "inspect", path}, &out, &errs); status != int(statusUsage) || !strings.Contains(errs.String(), "1000 sections") {
		t.Errorf("%d: %s", status, errs.String())
	}
}

// writeImage writes an image of a kernel, a command line and ramdisks.
func writeImage(t *testing.T, kernel []byte, commandLine string, ramdisks ...[]byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "x.eif")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	parts := []eif.Part{eif.Bytes(eif.Kernel, kernel), eif.Bytes(eif.CommandLine, []byte(commandLine))}
	for _, r := range ramdisks {
		parts = append(parts, eif.Bytes(eif.Ramdisk, r))
	}
	if _, err := eif.Write(t.Context(), f, eif.Spec{}, parts); err != nil || f.Close() != nil {
		t.Fatal(err)
	}
	return path
}

// writeRamdisk makes one of empty files; a name that ends in a slash is a folder's.
func writeRamdisk(t *testing.T, names ...string) []byte {
	t.Helper()
	var entries []ramdisk.Entry
	for _, name := range names {
		n := &ramdisk.Node{Kind: ramdisk.File, Mode: 0o644, Open: func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("")), nil }}
		if folder, ok := strings.CutSuffix(name, "/"); ok {
			name, n = folder, &ramdisk.Node{Kind: ramdisk.Folder, Mode: 0o755}
		}
		entries = append(entries, ramdisk.Entry{Name: name, Node: n})
	}
	var b bytes.Buffer
	if err := ramdisk.Write(t.Context(), &b, entries); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestImageInspectWarns of what the PCRs of an image hide.
func TestImageInspectWarns(t *testing.T) {
	kernel := buildtest.BzImage("6.12.1", "")
	arm := buildtest.Image("6.12.1", "")
	first := writeRamdisk(t, "cloister/", "cloister/cloisterd")
	good := writeRamdisk(t, "rootfs/", "rootfs/cloister", "cloister/", "cloister/executors/", "cloister/executors/python")
	// As writeRamdisk would not write it.
	twice := bytes.Replace(writeRamdisk(t, "rootfs/", "rootfs/a", "rootfs/b"), []byte("rootfs/b\x00"), []byte("rootfs/a\x00"), 1)
	for rule, test := range map[string]struct {
		kernel   []byte
		ramdisks [][]byte
		want     string
	}{
		"nothing":               {kernel, [][]byte{first, good}, ""},
		"one ramdisk":           {kernel, [][]byte{first}, ""},
		"a kernel of arm64":     {append(bytes.Clone(arm), 1), [][]byte{first, good}, ""},
		"what is no kernel":     {[]byte("kernel"), [][]byte{first, good}, ""},
		"a longer kernel":       {append(bytes.Clone(kernel), "quiet"...), [][]byte{first, good}, "have been shifted"},
		"a shorter kernel":      {kernel[:len(kernel)-1], [][]byte{first, good}, "have been shifted"},
		"a daemon in the root":  {kernel, [][]byte{first, writeRamdisk(t, "cloister/", "cloister/cloisterd", "cloister/profile.json")}, `ramdisk 1 holds "cloister/cloisterd" and 1 more, which`},
		"another init":          {kernel, [][]byte{first, writeRamdisk(t, "init")}, `ramdisk 1 holds "init", which`},
		"a file for cloister":   {kernel, [][]byte{first, writeRamdisk(t, "cloister")}, `ramdisk 1 holds "cloister", which`},
		"what only begins so":   {kernel, [][]byte{first, writeRamdisk(t, "rootfs2/")}, `ramdisk 1 holds "rootfs2", which`},
		"a name twice":          {kernel, [][]byte{first, twice}, `not unpack as it reads, and that may take the place of what boots: "rootfs/a" is there more than once`},
		"three ramdisks":        {kernel, [][]byte{first, good, good}, "it has 3 ramdisks"},
		"what cannot be read":   {kernel, [][]byte{first, []byte(strings.Repeat("x", 200))}, "ramdisk 1 cannot be looked through"},
		"only the second count": {kernel, [][]byte{writeRamdisk(t, "init"), good}, ""},
	} {
		status, out, errs := cloister(t, "image", "inspect", writeImage(t, test.kernel, "quiet", test.ramdisks...))
		if status != int(statusDone) || !strings.Contains(out, "PCR0") || strings.Count(errs, "cloister: warning: ") != min(1, len(test.want)) || !strings.Contains(errs, test.want) {
			t.Errorf("%s: %d, %s", rule, status, errs)
		}
	}
	var r imageReport
	_, out, _ := cloister(t, "image", "inspect", "--json", writeImage(t, kernel, "quiet", first, good, good))
	if err := json.Unmarshal([]byte(out), &r); err != nil || len(r.Warnings) != 1 || r.NotAttested.Architecture != "x86_64" {
		t.Errorf("%v, %s", err, out)
	}
}

// TestImageDiffOfShiftedSections: the first line says what no register does.
func TestImageDiffOfShiftedSections(t *testing.T) {
	first := writeRamdisk(t, "init")
	a, b := writeImage(t, []byte("kernel"), "quiet init=/evil", first), writeImage(t, []byte("kernelquiet "), "init=/evil", first)
	status, out, _ := cloister(t, "image", "diff", a, b)
	if status != int(statusFailed) || !strings.HasPrefix(out, "RECUT     PCR0 to PCR2 are the same, AND YET IT BOOTS OTHERWISE: ") || strings.Contains(out, "differs") {
		t.Errorf("%d, %s", status, out)
	}
	if _, out, _ := cloister(t, "image", "diff", "--json", a, b); !strings.Contains(out, `"recut": true`) {
		t.Error(out)
	}
}

// TestImageVerifySaysWhatItFound: PCR8 is of a file, and what the manifest alone says is printed as such.
func TestImageVerifySaysWhatItFound(t *testing.T) {
	dir := t.TempDir()
	recipe, out, stated := buildtest.Inputs(t, filepath.Join(dir, "inputs")), filepath.Join(dir, "x.eif"), filepath.Join(dir, "manifest.json")
	key, certificate := publisher(t, dir, elliptic.P384())
	for _, args := range [][]string{
		{"image", "build", recipe, "-o", out, "--sign-key", key, "--sign-cert", certificate}, {"image", "publish", recipe, out, "-o", stated, "--commit", "abcdef0"},
	} {
		if status, _, errs := cloister(t, args...); status != int(statusDone) {
			t.Fatal(errs)
		}
	}
	verified := regexp.MustCompile(`(?m)^PCR8      [0-9a-f]{96}$`)
	_, text, _ := cloister(t, "image", "verify", stated, "--recipe", recipe, out)
	if !verified.MatchString(text) || strings.Contains(text, "PCR8      as") || !strings.Contains(text, "\ncommit    abcdef0, as the manifest says, NOT VERIFIED\n") {
		t.Error(text)
	}
	_, text, _ = cloister(t, "image", "verify", stated, "--recipe", recipe)
	if verified.MatchString(text) || !regexp.MustCompile(`(?m)^PCR8      [0-9a-f]{96}, as the manifest says, NOT VERIFIED: name the image too$`).MatchString(text) {
		t.Error(text)
	}
	var r verifyReport
	_, text, _ = cloister(t, "image", "verify", "--json", stated, "--recipe", recipe)
	if err := json.Unmarshal([]byte(text), &r); err != nil || len(r.PCRs) != 3 || len(r.PCR8) != 96 || r.Commit != "abcdef0" || r.Image {
		t.Errorf("%v, %s", err, text)
	}
	r = verifyReport{}
	_, text, _ = cloister(t, "image", "verify", "--json", stated, "--recipe", recipe, out)
	if err := json.Unmarshal([]byte(text), &r); err != nil || len(r.PCRs) != 4 || r.PCR8 != "" || !r.Image {
		t.Errorf("%v, %s", err, text)
	}
}

// TestNothingGivenIsOverwritten: what a command reads stays, whatever it is told to write.
func TestNothingGivenIsOverwritten(t *testing.T) {
	dir := t.TempDir()
	recipe, out, link, list := buildtest.Inputs(t, t.TempDir()), filepath.Join(dir, "x.eif"), filepath.Join(dir, "link"), filepath.Join(dir, "list")
	key, certificate := publisher(t, dir, elliptic.P384())
	if status, _, errs := cloister(t, "image", "build", recipe, "-o", out); status != int(statusDone) {
		t.Fatal(errs)
	}
	here := filepath.Join(t.TempDir(), "here")
	if err := errors.Join(os.Symlink(dir, here), os.Link(key, link), os.WriteFile(list, []byte("{}"), 0o600), os.Link(list, list+"2")); err != nil {
		t.Fatal(err)
	}
	signed := []string{"image", "build", recipe, "--sign-key", key, "--sign-cert", certificate}
	for rule, args := range map[string][]string{
		"the key": append(signed, "-o", key), "the key by another name": append(signed, "-o", link), "the certificate": append(signed, "-o", certificate),
		"the key, for registers": append(signed, "-o", filepath.Join(dir, "new"), "--pcrs", key), "the recipe": append(signed, "-o", recipe),
		"one file twice": append(signed, "-o", filepath.Join(dir, "new"), "--pcrs", filepath.Join(here, "new")), "one that is there": append(signed, "-o", list, "--pcrs", list+"2"),
		"the published image": {"image", "publish", recipe, out, "-o", out}, "the same through a link": {"image", "publish", recipe, out, "-o", filepath.Join(here, "x.eif")},
	} {
		before := contents(t, dir)
		if status, _, errs := cloister(t, slices.Clone(args)...); status != int(statusUsage) || !strings.Contains(errs, "name another place") {
			t.Errorf("%s: %d, %s", rule, status, errs)
		}
		if !maps.Equal(before, contents(t, dir)) {
			t.Errorf("%s: something was written", rule)
		}
	}
}

// TestImageBuildSigns: what is signed has PCR8, and the PCRs of what is not.
func TestImageBuildSigns(t *testing.T) {
	dir := t.TempDir()
	recipe, out := buildtest.Inputs(t, filepath.Join(dir, "inputs")), filepath.Join(dir, "x.eif")
	key, certificate := publisher(t, dir, elliptic.P384())
	other, _ := publisher(t, t.TempDir(), elliptic.P384())
	weak, weakCertificate := publisher(t, t.TempDir(), elliptic.P224())
	status, plain, errs := cloister(t, "image", "build", recipe, "-o", out)
	if status != int(statusDone) {
		t.Fatal(errs)
	}
	status, signed, errs := cloister(t, "image", "build", recipe, "-o", out, "--sign-key", key, "--sign-cert", certificate, "--pcrs", filepath.Join(dir, "pcrs.json"))
	if status != int(statusDone) {
		t.Fatal(errs)
	}
	pcrs := func(text string) (lines []string) {
		for line := range strings.Lines(text) {
			if strings.HasPrefix(line, "PCR") {
				lines = append(lines, line)
			}
		}
		return lines
	}
	if a, b := pcrs(plain), pcrs(signed); len(a) != 3 || len(b) != 4 || !slices.Equal(a, b[:3]) || !strings.HasPrefix(b[3], "PCR8") {
		t.Errorf("%q, %q", a, b)
	}
	_, inspected, _ := cloister(t, "image", "inspect", out)
	if !slices.Equal(pcrs(inspected), pcrs(signed)) || !strings.Contains(inspected, "CN=publisher") {
		t.Error(inspected)
	}
	text, err := os.ReadFile(filepath.Join(dir, "pcrs.json"))
	if err != nil {
		t.Fatal(err)
	}
	var values map[string]string
	if err := json.Unmarshal(text, &values); err != nil {
		t.Fatal(err)
	}
	if set, err := attest.ParsePCRSet(values); err != nil || len(set) != 4 {
		t.Errorf("%v, %v", set, err)
	}
	for rule, pair := range map[string][2]string{
		"another key": {other, certificate}, "a weak key": {weak, weakCertificate}, "no key": {certificate, certificate}, "no certificate": {key, key},
		"no file": {filepath.Join(dir, "absent"), certificate}, "a recipe": {recipe, certificate},
	} {
		fresh := filepath.Join(t.TempDir(), "x.eif")
		if status, _, errs := cloister(t, "image", "build", recipe, "-o", fresh, "--sign-key", pair[0], "--sign-cert", pair[1]); status != int(statusUsage) {
			t.Errorf("%s: %d, %s", rule, status, errs)
		}
		if _, err := os.Stat(fresh); err == nil {
			t.Errorf("%s: an image is there", rule)
		}
	}
}

// publisher writes a key and its certificate.
func publisher(t *testing.T, dir string, curve elliptic.Curve) (keyFile, certificateFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "publisher"}, NotAfter: time.Now().Add(time.Hour)}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	keyFile, certificateFile = filepath.Join(dir, "key.pem"), filepath.Join(dir, "certificate.pem")
	text := append(pem.EncodeToMemory(&pem.Block{Type: "EC PARAMETERS", Bytes: []byte{5, 0}}), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: private})...)
	if err := errors.Join(os.WriteFile(keyFile, text, 0o600), os.WriteFile(certificateFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: raw}), 0o600)); err != nil {
		t.Fatal(err)
	}
	return keyFile, certificateFile
}
