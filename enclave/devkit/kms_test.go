package devkit_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"github.com/cloister-run/cloister/enclave/attest"
	"github.com/cloister-run/cloister/enclave/attest/devca"
	"github.com/cloister-run/cloister/enclave/devkit"
	"github.com/cloister-run/cloister/enclave/keys"
)

// image is the condition that asks for the image of measured().
func image() string {
	return fmt.Sprintf(`{"StringEqualsIgnoreCase":{"kms:RecipientAttestation:ImageSha384":%q}}`, register(1))
}

// TestADataKeyReachesItsEnclave: from the owner's SDK to the enclave's client, often enough for both
// forms of the envelope, and to nobody outside.
func TestADataKeyReachesItsEnclave(t *testing.T) {
	w := newWorld(t)
	arn := w.create(administers(mayDecrypt(owner, image())))
	want, blob := w.generate(arn)
	client, _ := w.enclave(owner, w.nsm(measured()))
	seen := map[string]bool{}
	for range 12 {
		got, id, err := client.Decrypt(t.Context(), arn, blob, bound)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) || len(id) != 36 || seen[id] {
			t.Fatalf("%d bytes, request %q", len(got), id)
		}
		seen[id] = true
	}
	_, err := w.client(owner).Decrypt(t.Context(), &kms.DecryptInput{KeyId: aws.String(arn), CiphertextBlob: blob, EncryptionContext: bound})
	if got := code(t, err); got != "AccessDeniedException" {
		t.Errorf("outside of an enclave: %q", got)
	}
}

// TestI5_AKeyIsReleasedOnlyToItsImage: what an enclave is, and what the policy asks of it.
func TestI5_AKeyIsReleasedOnlyToItsImage(t *testing.T) {
	w := newWorld(t)
	zero := attest.PCR{}.String()
	pcr := func(i int, value attest.PCR) string {
		return fmt.Sprintf(`{"StringEquals":{"kms:RecipientAttestation:PCR%d":%q}}`, i, value)
	}
	other := measured()
	other[0] = register(9)
	for name, row := range map[string]struct {
		condition string
		pcrs      attest.PCRSet
		lock      string // what PCR16 is extended by before all are locked
		released  bool
	}{
		"its image":                        {image(), measured(), "", true},
		"another image":                    {image(), other, "", false},
		"its PCR2":                         {pcr(2, register(3)), measured(), "", true},
		"another PCR2":                     {pcr(2, register(1)), measured(), "", false},
		"a register that is absent":        {pcr(20, register(1)), measured(), "", false},
		"a register that is zero":          {`{"StringEquals":{"kms:RecipientAttestation:PCR5":"` + zero + `"}}`, measured(), "", false},
		"a debug enclave's image":          {`{"StringEquals":{"kms:RecipientAttestation:ImageSha384":"` + zero + `"}}`, attest.PCRSet{}, "", false},
		"a debug enclave, nothing asked":   {`{}`, attest.PCRSet{}, "", false},
		"PCR16 absent, as asked":           {`{"Null":{"kms:RecipientAttestation:PCR16":"true"}}`, measured(), "", true},
		"PCR16 used, absence asked":        {`{"Null":{"kms:RecipientAttestation:PCR16":"true"}}`, measured(), "used", false},
		"PCR16 used, presence asked":       {`{"Null":{"kms:RecipientAttestation:PCR16":"false"}}`, measured(), "used", true},
		"PCR16 absent, presence asked":     {`{"Null":{"kms:RecipientAttestation:PCR16":"false"}}`, measured(), "", false},
		"PCR16 as asked":                   {pcr(16, attest.PCR{}.Extend([]byte("used"))), measured(), "used", true},
		"PCR16 extended by something else": {pcr(16, attest.PCR{}.Extend([]byte("used"))), measured(), "more", false},
	} {
		t.Run(name, func(t *testing.T) {
			arn := w.create(administers(mayDecrypt(owner, row.condition)))
			want, blob := w.generate(arn)
			client, device := w.enclave(owner, w.nsm(row.pcrs))
			if row.lock != "" {
				_, err := device.ExtendPCR(t.Context(), 16, []byte(row.lock))
				if err := errors.Join(err, device.LockPCRs(t.Context(), 32)); err != nil {
					t.Fatal(err)
				}
			}
			got, _, err := client.Decrypt(t.Context(), arn, blob, bound)
			if row.released && (err != nil || !bytes.Equal(got, want)) || !row.released && !errors.Is(err, keys.ErrRefused) {
				t.Errorf("%d bytes: %v", len(got), err)
			}
		})
	}
}

// recipient asks with a document of the test's making.
func (w *world) recipient(arn string, blob, document []byte) (*kms.DecryptOutput, error) {
	return w.client(owner).Decrypt(context.Background(), &kms.DecryptInput{KeyId: aws.String(arn), CiphertextBlob: blob, EncryptionContext: bound,
		Recipient: &types.RecipientInfo{AttestationDocument: document, KeyEncryptionAlgorithm: types.KeyEncryptionMechanismRsaesOaepSha256}})
}

func spki(t testing.TB, public any) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func rsaKey(t testing.TB, bits int) *rsa.PrivateKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// TestARecipientIsVerified: its document, by the clock of the KMS and the root of the home, and its key.
func TestARecipientIsVerified(t *testing.T) {
	w := newWorld(t)
	arn := w.create(administers(mayDecrypt(owner, `{}`)))
	_, blob := w.generate(arn)
	good := spki(t, &rsaKey(t, 2048).PublicKey)
	elliptical, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	anotherCA, err := devca.New(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	document := func(ca *devca.CA, age time.Duration, key []byte) []byte {
		t.Helper()
		doc, err := ca.Sign(devca.Claims{ModuleID: "i-1-enc1", Time: time.Now().Add(-age), PCRs: measured(), PublicKey: key})
		if err != nil {
			t.Fatal(err)
		}
		return doc
	}
	tampered := document(w.home.CA(), 0, good)
	tampered[len(tampered)/2] ^= 1
	for name, row := range map[string]struct {
		document []byte
		code     string
	}{
		"good":             {document(w.home.CA(), 0, good), ""},
		"4 minutes old":    {document(w.home.CA(), 4*time.Minute, good), ""},
		"6 minutes old":    {document(w.home.CA(), 6*time.Minute, good), "ValidationException"},
		"4 hours old":      {document(w.home.CA(), 4*time.Hour, good), "ValidationException"},
		"from the future":  {document(w.home.CA(), -6*time.Minute, good), "ValidationException"},
		"of another CA":    {document(anotherCA, 0, good), "ValidationException"},
		"tampered":         {tampered, "ValidationException"},
		"no document":      {[]byte("document"), "ValidationException"},
		"an empty one":     {nil, "ValidationException"},
		"no public key":    {document(w.home.CA(), 0, nil), "ValidationException"},
		"a short key":      {document(w.home.CA(), 0, spki(t, &rsaKey(t, 1024).PublicKey)), "ValidationException"},
		"an elliptic key":  {document(w.home.CA(), 0, spki(t, &elliptical.PublicKey)), "ValidationException"},
		"a key that is no": {document(w.home.CA(), 0, []byte("key")), "ValidationException"},
	} {
		t.Run(name, func(t *testing.T) {
			out, err := w.recipient(arn, blob, append([]byte{}, row.document...))
			if got := code(t, err); got != row.code {
				t.Errorf("%q: %v", got, err)
			}
			if err == nil && (len(out.Plaintext) > 0 || len(out.CiphertextForRecipient) == 0) {
				t.Errorf("%d bytes in plain, %d for the recipient", len(out.Plaintext), len(out.CiphertextForRecipient))
			}
		})
	}
}

// TestACiphertextIsBound: to its key, its encryption context and every byte of its own.
func TestACiphertextIsBound(t *testing.T) {
	w := newWorld(t)
	arn, other := w.create(administers(mayDecrypt(owner, `{}`))), w.create(administers(mayDecrypt(owner, `{}`)))
	want, blob := w.generate(arn)
	decrypt := func(key string, blob []byte, bound map[string]string) ([]byte, string) {
		in := &kms.DecryptInput{CiphertextBlob: blob, EncryptionContext: bound}
		if key != "" {
			in.KeyId = aws.String(key)
		}
		out, err := w.client(owner).Decrypt(t.Context(), in)
		if err != nil {
			return nil, code(t, err)
		}
		if *out.KeyId != arn || out.EncryptionAlgorithm != types.EncryptionAlgorithmSpecSymmetricDefault {
			t.Errorf("%s, %s", *out.KeyId, out.EncryptionAlgorithm)
		}
		return out.Plaintext, ""
	}
	for _, key := range []string{arn, "", arn[len(arn)-36:]} {
		if got, code := decrypt(key, blob, bound); !bytes.Equal(got, want) {
			t.Errorf("key %q: %s", key, code)
		}
	}
	if _, code := decrypt(other, blob, bound); code != "IncorrectKeyException" {
		t.Errorf("another key: %q", code)
	}
	elsewhere := w.client(owner, func(o *kms.Options) { o.Region = "eu-west-2" })
	if _, err := elsewhere.Decrypt(t.Context(), &kms.DecryptInput{CiphertextBlob: blob, EncryptionContext: bound}); code(t, err) != "AccessDeniedException" {
		t.Errorf("another region: %v", err)
	}
	for name, context := range map[string]map[string]string{
		"none":          nil,
		"one less":      {"cloister:bundle": "00ff"},
		"another value": {"cloister:bundle": "00fe", "cloister:asset": "digits"},
		"another name":  {"cloister:bundlf": "00ff", "cloister:asset": "digits"},
		"swapped":       {"cloister:bundle": "digits", "cloister:asset": "00ff"},
		"other bounds":  {"cloister:bundle": "00f", "fcloister:asset": "digits"},
		"one more":      {"cloister:bundle": "00ff", "cloister:asset": "digits", "": ""},
	} {
		if got, code := decrypt(arn, blob, context); got != nil || code != "InvalidCiphertextException" {
			t.Errorf("context: %s: %q", name, code)
		}
	}
	for i := range blob {
		bad := bytes.Clone(blob)
		bad[i] ^= 0x80
		if got, code := decrypt(arn, bad, bound); got != nil || code != "InvalidCiphertextException" && code != "IncorrectKeyException" {
			t.Errorf("byte %d: %q", i, code)
		}
		if got, code := decrypt("", bad, bound); got != nil || code != "InvalidCiphertextException" && code != "AccessDeniedException" {
			t.Errorf("byte %d, no key named: %q", i, code)
		}
	}
	for _, n := range []int{1, 16, 28, len(blob) - 1} {
		if got, code := decrypt(arn, blob[:n], bound); got != nil || code != "InvalidCiphertextException" {
			t.Errorf("%d bytes: %q", n, code)
		}
	}
	if got, code := decrypt(arn, append(bytes.Clone(blob), 0), bound); got != nil || code != "InvalidCiphertextException" {
		t.Errorf("a byte more: %q", code)
	}
}

// TestDataKeys: as long as is asked for, another each time, and for a recipient in no other form.
func TestDataKeys(t *testing.T) {
	w := newWorld(t)
	arn := w.create(administers())
	ask := func(edit func(*kms.GenerateDataKeyInput)) (*kms.GenerateDataKeyOutput, string) {
		in := &kms.GenerateDataKeyInput{KeyId: aws.String(arn), EncryptionContext: bound}
		edit(in)
		out, err := w.client(owner).GenerateDataKey(t.Context(), in)
		return out, code(t, err)
	}
	for size, edit := range map[int]func(*kms.GenerateDataKeyInput){
		32:   func(in *kms.GenerateDataKeyInput) { in.KeySpec = types.DataKeySpecAes256 },
		16:   func(in *kms.GenerateDataKeyInput) { in.KeySpec = types.DataKeySpecAes128 },
		1024: func(in *kms.GenerateDataKeyInput) { in.NumberOfBytes = aws.Int32(1024) },
	} {
		first, code := ask(edit)
		second, again := ask(edit)
		if code+again != "" || len(first.Plaintext) != size || bytes.Equal(first.Plaintext, second.Plaintext) || *first.KeyId != arn {
			t.Errorf("%d: %q", size, code+again)
		}
	}
	for name, edit := range map[string]func(*kms.GenerateDataKeyInput){
		"neither":  func(*kms.GenerateDataKeyInput) {},
		"both":     func(in *kms.GenerateDataKeyInput) { in.KeySpec = "AES_256"; in.NumberOfBytes = aws.Int32(32) },
		"none":     func(in *kms.GenerateDataKeyInput) { in.NumberOfBytes = aws.Int32(0) },
		"too many": func(in *kms.GenerateDataKeyInput) { in.NumberOfBytes = aws.Int32(1025) },
		"a spec":   func(in *kms.GenerateDataKeyInput) { in.KeySpec = "RSA_2048" },
	} {
		if _, code := ask(edit); code != "ValidationException" {
			t.Errorf("%s: %q", name, code)
		}
	}
	device := attest.OpenSocket(serve(t, w.nsm(measured())))
	document, err := attest.ForKMS(t.Context(), device, spki(t, &rsaKey(t, 2048).PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	out, refused := ask(func(in *kms.GenerateDataKeyInput) {
		in.KeySpec = "AES_256"
		in.Recipient = &types.RecipientInfo{AttestationDocument: document, KeyEncryptionAlgorithm: "RSAES_OAEP_SHA_256"}
	})
	if refused != "" || out.Plaintext != nil || len(out.CiphertextForRecipient) == 0 || len(out.CiphertextBlob) == 0 {
		t.Errorf("for a recipient: %q", refused)
	}
	if _, refused := ask(func(in *kms.GenerateDataKeyInput) { in.KeySpec = "AES_256"; in.DryRun = aws.Bool(true) }); refused != "DryRunOperationException" {
		t.Errorf("dry run: %q", refused)
	}
}

// TestTwoProcessesServeOneHome: what one made, the other uses.
func TestTwoProcessesServeOneHome(t *testing.T) {
	w := newWorld(t)
	again, err := devkit.OpenHome(w.home.Dir())
	if err != nil {
		t.Fatal(err)
	}
	arn := w.create(administers(mayDecrypt(owner, image())))
	want, blob := w.generate(arn)
	client, _ := w.enclave(owner, devkit.NewNSM(again.CA(), measured(), time.Now))
	got, _, err := client.Decrypt(t.Context(), arn, blob, bound)
	if err != nil || !bytes.Equal(got, want) {
		t.Error(err)
	}
}
