package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"encoding/json"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cloister-run/cloister/enclave/attest"
	"github.com/cloister-run/cloister/enclave/image/build/buildtest"
	"github.com/cloister-run/cloister/enclave/image/eif"
)

// TestImageInspect prints what is attested apart from what is not, and steers no terminal.
func TestImageInspect(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.eif")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	pcrs, err := eif.Write(t.Context(), f, eif.Spec{Memory: 1 << 30, CPUs: 2}, []eif.Part{
		eif.Bytes(eif.Kernel, []byte("kernel")), eif.Bytes(eif.CommandLine, []byte("quiet \x1b[2J")),
		eif.Bytes(eif.Metadata, []byte(`{"ImageName": "claims"}`)), eif.Bytes(eif.Ramdisk, []byte("disk")),
	})
	if err != nil || f.Close() != nil {
		t.Fatal(err)
	}
	var out, errs strings.Builder
	if status := run(t.Context(), []string{"image", "inspect", path}, &out, &errs); status != int(statusDone) {
		t.Fatalf("%d: %s", status, errs.String())
	}
	for _, want := range []string{
		"for       x86_64\n", "boots     quiet �[2J\n", "section   0: kernel, 6 bytes at 560\n", "PCR0      " + pcrs.PCR0.String() + "\n",
		"signed    by nobody: there is no PCR8\n",
		"asks for  1 GiB and 2 CPUs, NOT ATTESTED\n", `metadata  NOT ATTESTED: {"ImageName": "claims"}` + "\n",
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
