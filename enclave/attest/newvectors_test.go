package attest_test

import (
	"bytes"
	"encoding/base64"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// newVectors is not called update: keys and signatures are random, so that what it writes is new every time.
var newVectors = flag.Bool("new-vectors", false, "make testdata/root.pem and testdata/documents anew, under another root")

// readOwn reads the form of testdata/documents: headers, an empty line, base64.
func readOwn(t testing.TB, text string) own {
	t.Helper()
	head, body, ok := strings.Cut(text, "\n\n")
	if !ok {
		t.Fatal("no empty line after the headers")
	}
	var v own
	for line := range strings.Lines(head) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		switch name {
		case "expect":
			v.expect = value
		case "at":
			at, err := time.Parse(time.RFC3339Nano, value)
			if err != nil {
				t.Fatal(err)
			}
			v.at = at
		case "comment":
		default:
			t.Fatalf("header %q", line)
		}
	}
	var err error
	if v.bytes, err = base64.StdEncoding.DecodeString(strings.ReplaceAll(body, "\n", "")); err != nil {
		t.Fatal(err)
	}
	if v.expect == "" || v.at.IsZero() {
		t.Fatal("no header expect or at")
	}
	return v
}

// TestNewVectors writes them, if it is told to.
func TestNewVectors(t *testing.T) {
	if !*newVectors {
		t.Skip("only with -new-vectors")
	}
	ca := newCA(t)
	other := newCA(t)
	debug := claims()
	debug.PCRs = measured()
	for i := range 3 {
		debug.PCRs[i] = register(0)
	}
	image := claims()
	image.PCRs[1] = register(7)
	short := claims()
	delete(short.PCRs, 2)
	nothing := claims()
	nothing.UserData, nothing.Nonce, nothing.PublicKey = nil, nil, nil
	good := sign(t, ca, claims())
	flipped := bytes.Clone(good)
	flipped[len(flipped)-1] ^= 1
	for _, v := range []struct {
		name, expect, comment string
		late                  time.Duration
		doc                   []byte
	}{
		{"good", "success", "every field", 0, good},
		{"good-nulls", "success", "nothing asked for", 0, sign(t, ca, nothing)},
		{"good-tagged", "success", "with the tag of COSE_Sign1", 0, append([]byte{0xd2}, good...)},
		{"good-late", "success", "two hours later", 2 * time.Hour, good},
		{"expired", "time", "four hours later", 4 * time.Hour, good},
		{"future", "time", "ten minutes before it was made", -10 * time.Minute, good},
		{"bad-signature", "signature", "one bit of s", 0, flipped},
		{"trailing", "cose", "a byte more", 0, append(bytes.Clone(good), 0)},
		{"other-root", "root", "of another development authority", 0, sign(t, other, claims())},
		{"debug", "debug", "PCR0 to PCR2 are zero", 0, sign(t, ca, debug)},
		{"pcr-mismatch", "pcr1", "of another kernel", 0, sign(t, ca, image)},
		{"pcr-missing", "pcr2", "without PCR2", 0, sign(t, ca, short)},
		{"nitrotpm", "nitrotpm", "of an instance's NitroTPM", 0, edited(t, ca, rename("pcrs", "nitrotpm_pcrs"))},
		{"unsigned-header", "cose", "an unprotected header", 0, bytes.Replace(good, []byte("\x44\xa1\x01\x38\x22\xa0"), []byte("\x44\xa1\x01\x38\x22\xa1\x01\x00"), 1)},
	} {
		text := fmt.Sprintf("expect: %s\nat: %s\ncomment: %s\n\n", v.expect, moment.Add(v.late).Format(time.RFC3339Nano), v.comment)
		for line := range bytesIn(base64.StdEncoding.EncodeToString(v.doc), 96) {
			text += line + "\n"
		}
		if err := os.WriteFile("testdata/documents/"+v.name+".txt", []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile("testdata/root.pem", ca.PEM(), 0o644); err != nil {
		t.Fatal(err)
	}
}

// bytesIn yields text in pieces of a length.
func bytesIn(text string, n int) func(func(string) bool) {
	return func(yield func(string) bool) {
		for len(text) > 0 {
			piece := text[:min(n, len(text))]
			if text = text[len(piece):]; !yield(piece) {
				return
			}
		}
	}
}
