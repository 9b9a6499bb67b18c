// Package attesttest is the conformance suite for attest.Device: the real one on /dev/nsm, a
// simulated one over a socket, and any other behave alike as far as an enclave can tell.
//
// It is for tests only.
package attesttest

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/cloister-run/cloister/enclave/attest"
)

// firstFree is the first register that the hypervisor leaves unlocked.
const firstFree = 16

// Config says what is tested. Every field is required.
type Config struct {
	// Open gives a device of an enclave that has just booted: registers 0 to 15 locked, PCR0 to
	// PCR2 measured, 16 to 31 zero and unlocked. It is called once for each test.
	Open func(t *testing.T) attest.Device
	// Root is what its documents are under.
	Root attest.Root
	// Now is the time by the device's clock.
	Now func() time.Time
}

// Run runs the suite.
func Run(t *testing.T, cfg Config) {
	for name, test := range map[string]func(*testing.T, suite){
		"TestADocumentSaysWhatWasAsked":     aDocumentSaysWhatWasAsked,
		"TestADocumentHoldsLockedRegisters": aDocumentHoldsLockedRegisters,
		"TestLimitsOfARequest":              limitsOfARequest,
		"TestARegisterExtends":              aRegisterExtends,
		"TestALockedRegisterStays":          aLockedRegisterStays,
		"TestIndicesAreBounded":             indicesAreBounded,
		"TestRandomFills":                   randomFills,
		"TestAContextThatEndedAsksNothing":  aContextThatEndedAsksNothing,
		"TestManyAtOnce":                    manyAtOnce,
	} {
		t.Run(name, func(t *testing.T) {
			device := cfg.Open(t)
			t.Cleanup(func() {
				if err := device.Close(); err != nil {
					t.Error(err)
				}
			})
			test(t, suite{cfg, device})
		})
	}
}

type suite struct {
	cfg    Config
	device attest.Device
}

// document asks for one and verifies it.
func (s suite) document(t *testing.T, r attest.Request) *attest.Document {
	t.Helper()
	data, err := s.device.Attest(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	doc, err := attest.Verify(data, attest.Options{At: s.cfg.Now(), Root: s.cfg.Root, Inspect: true})
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

func same(a, b []byte) bool { return bytes.Equal(a, b) && (a == nil) == (b == nil) }

func aDocumentSaysWhatWasAsked(t *testing.T, s suite) {
	full := bytes.Repeat([]byte{7}, attest.MaxPublicKey)
	for name, r := range map[string]attest.Request{
		"nothing": {},
		"some":    {UserData: []byte("user"), Nonce: []byte("nonce"), PublicKey: []byte("key")},
		"a nonce": {Nonce: []byte("nonce")},
		"a key":   {PublicKey: []byte("key")},
		"most":    {UserData: full[:attest.MaxUserData], Nonce: full[:attest.MaxNonce], PublicKey: full},
	} {
		doc := s.document(t, r)
		if !same(doc.UserData, r.UserData) || !same(doc.Nonce, r.Nonce) || !same(doc.PublicKey, r.PublicKey) {
			t.Errorf("%s: %q %q %q", name, doc.UserData, doc.Nonce, doc.PublicKey)
		}
	}
}

func aDocumentHoldsLockedRegisters(t *testing.T, s suite) {
	doc := s.document(t, attest.Request{})
	for i := range 32 {
		value, locked, err := s.device.DescribePCR(t.Context(), i)
		if err != nil {
			t.Fatal(err)
		}
		got, there := doc.PCRs[i]
		if locked != (i < firstFree) || there != locked || got != value {
			t.Errorf("PCR%d is %s, locked %t; the document has %s, %t", i, value, locked, got, there)
		}
	}
}

func limitsOfARequest(t *testing.T, s suite) {
	long := make([]byte, 1025)
	for name, r := range map[string]attest.Request{
		"user data":    {UserData: long[:attest.MaxUserData+1]},
		"nonce":        {Nonce: long[:attest.MaxNonce+1]},
		"public key":   {PublicKey: long},
		"an empty key": {PublicKey: []byte{}},
	} {
		if doc, err := s.device.Attest(t.Context(), r); err == nil || doc != nil {
			t.Errorf("%s: a document", name)
		}
	}
	for _, data := range [][]byte{nil, {}, long} {
		if _, err := s.device.ExtendPCR(t.Context(), firstFree, data); err == nil {
			t.Errorf("extended by %d bytes", len(data))
		}
	}
}

func aRegisterExtends(t *testing.T, s suite) {
	var want attest.PCR
	for _, word := range []string{"clean", "used"} {
		want = want.Extend([]byte(word))
		got, err := s.device.ExtendPCR(t.Context(), firstFree, []byte(word))
		if err != nil || got != want {
			t.Fatalf("%s: %s, not %s: %v", word, got, want, err)
		}
		got, locked, err := s.device.DescribePCR(t.Context(), firstFree)
		if err != nil || got != want || locked {
			t.Errorf("%s: %s, locked %t: %v", word, got, locked, err)
		}
	}
	if other, _, err := s.device.DescribePCR(t.Context(), firstFree+1); err != nil || !other.IsZero() {
		t.Errorf("PCR%d is %s: %v", firstFree+1, other, err)
	}
}

func aLockedRegisterStays(t *testing.T, s suite) {
	if _, err := s.device.ExtendPCR(t.Context(), 0, []byte("x")); !errors.Is(err, attest.ErrLocked) {
		t.Errorf("PCR0: %v", err)
	}
	want, err := s.device.ExtendPCR(t.Context(), firstFree, []byte("clean"))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.device.LockPCRs(t.Context(), 32); err != nil {
		t.Fatal(err)
	}
	if err := s.device.LockPCRs(t.Context(), 32); err != nil {
		t.Errorf("locked again: %v", err)
	}
	_, err = s.device.ExtendPCR(t.Context(), firstFree, []byte("used"))
	var refusal *attest.Refusal
	if !errors.Is(err, attest.ErrLocked) || !errors.As(err, &refusal) {
		t.Errorf("extended: %v", err)
	}
	if got, locked, err := s.device.DescribePCR(t.Context(), firstFree); err != nil || got != want || !locked {
		t.Errorf("%s, locked %t: %v", got, locked, err)
	}
	if doc := s.document(t, attest.Request{}); doc.PCRs[firstFree] != want || len(doc.PCRs) != 32 {
		t.Errorf("the document has %d registers, PCR%d %s", len(doc.PCRs), firstFree, doc.PCRs[firstFree])
	}
}

func indicesAreBounded(t *testing.T, s suite) {
	for _, i := range []int{-1, 32, 1 << 16, 1<<16 + firstFree} {
		if _, _, err := s.device.DescribePCR(t.Context(), i); err == nil {
			t.Errorf("described PCR%d", i)
		}
		if _, err := s.device.ExtendPCR(t.Context(), i, []byte("x")); err == nil {
			t.Errorf("extended PCR%d", i)
		}
	}
	for _, n := range []int{-1, 33, 1<<16 + 1} {
		if err := s.device.LockPCRs(t.Context(), n); err == nil {
			t.Errorf("locked %d", n)
		}
	}
}

func randomFills(t *testing.T, s suite) {
	for _, size := range []int{0, 1, 255, 256, 257, 1000} {
		a, b := make([]byte, size), make([]byte, size)
		if err := errors.Join(s.device.Random(t.Context(), a), s.device.Random(t.Context(), b)); err != nil {
			t.Fatal(err)
		}
		// Sixteen equal bytes of true randomness are seen once in 2^128 runs.
		if size >= 16 && (bytes.Equal(a, b) || bytes.Equal(a[:16], a[size-16:]) || bytes.Equal(a[size-16:], make([]byte, 16))) {
			t.Errorf("%d bytes: %x… and %x…", size, a[:16], b[:16])
		}
	}
}

func aContextThatEndedAsksNothing(t *testing.T, s suite) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, attested := s.device.Attest(ctx, attest.Request{})
	_, extended := s.device.ExtendPCR(ctx, firstFree, []byte("x"))
	random := s.device.Random(ctx, make([]byte, 1))
	for _, err := range []error{attested, extended, random} {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%v", err)
		}
	}
	if p, _, err := s.device.DescribePCR(t.Context(), firstFree); err != nil || !p.IsZero() {
		t.Errorf("PCR%d is %s: %v", firstFree, p, err)
	}
}

func manyAtOnce(t *testing.T, s suite) {
	var group sync.WaitGroup
	for i := range 16 {
		group.Go(func() {
			nonce := bytes.Repeat([]byte{byte(i)}, 32)
			data, err := s.device.Attest(t.Context(), attest.Request{Nonce: nonce})
			if err != nil {
				t.Error(err)
				return
			}
			o := attest.Options{At: s.cfg.Now(), Root: s.cfg.Root, Inspect: true, Nonce: nonce}
			if _, err := attest.Verify(data, o); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
}
