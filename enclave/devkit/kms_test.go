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
	"maps"
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

// TestAccounts: what another account may is for the policy to say, and nothing else.
func TestAccounts(t *testing.T) {
	w := newWorld(t)
	arn := w.create(administers(mayDecrypt(stranger, `{}`)))
	want, blob := w.generate(arn)
	for account, expected := range map[string]string{stranger: "", owner: "AccessDeniedException", "777788889999": "AccessDeniedException"} {
		for _, key := range []*string{aws.String(arn), nil} {
			out, err := w.client(account).Decrypt(t.Context(), &kms.DecryptInput{KeyId: key, CiphertextBlob: blob, EncryptionContext: bound})
			if got := code(t, err); got != expected || err == nil && !bytes.Equal(out.Plaintext, want) {
				t.Errorf("%s: %q", account, got)
			}
		}
	}
	if _, err := w.client(stranger).DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: aws.String(arn)}); code(t, err) != "AccessDeniedException" {
		t.Errorf("described: %v", err)
	}
	// The id alone is one of the caller's own.
	if _, err := w.client(stranger).Decrypt(t.Context(), &kms.DecryptInput{KeyId: aws.String(arn[len(arn)-36:]), CiphertextBlob: blob}); code(t, err) != "NotFoundException" {
		t.Errorf("by its id: %v", err)
	}
}

// TestKeysAreFound: by id or ARN, in their region.
func TestKeysAreFound(t *testing.T) {
	w := newWorld(t)
	arn := w.create(administers())
	id := arn[len(arn)-36:]
	elsewhere := func(o *kms.Options) { o.Region = "eu-west-2" }
	for name, row := range map[string]struct {
		key, code string
		edit      []func(*kms.Options)
	}{
		"its ARN":        {arn, "", nil},
		"its id":         {id, "", nil},
		"another region": {arn, "NotFoundException", []func(*kms.Options){elsewhere}},
		"an unknown id":  {"00000000-0000-4000-8000-000000000000", "NotFoundException", nil},
		"an unknown ARN": {arn[:len(arn)-1] + "x", "NotFoundException", nil},
		"of AWS":         {"arn:aws:kms:local:" + owner + ":key/" + id, "NotFoundException", nil},
		"of an account":  {"arn:cloister-dev:kms:local:" + stranger + ":key/" + id, "NotFoundException", nil},
		"an alias":       {"alias/mine", "NotFoundException", nil},
		"a path":         {"../accounts/" + owner, "NotFoundException", nil},
	} {
		out, err := w.client(owner, row.edit...).DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: aws.String(row.key)})
		if got := code(t, err); got != row.code || err == nil && *out.KeyMetadata.Arn != arn {
			t.Errorf("%s: %q", name, got)
		}
	}
}

// TestAKeyIsDescribed: as KMS does it.
func TestAKeyIsDescribed(t *testing.T) {
	w := newWorld(t)
	out, err := w.client(owner).CreateKey(t.Context(), &kms.CreateKeyInput{Description: aws.String("digits"), KeySpec: "SYMMETRIC_DEFAULT", Origin: "AWS_KMS", KeyUsage: "ENCRYPT_DECRYPT"})
	if err != nil {
		t.Fatal(err)
	}
	m := out.KeyMetadata
	if *m.AWSAccountId != owner || *m.Description != "digits" || !m.Enabled || m.KeyState != "Enabled" || m.KeySpec != "SYMMETRIC_DEFAULT" ||
		m.KeyUsage != "ENCRYPT_DECRYPT" || m.Origin != "AWS_KMS" || time.Since(*m.CreationDate).Abs() > time.Minute ||
		*m.Arn != "arn:cloister-dev:kms:local:"+owner+":key/"+*m.KeyId {
		t.Errorf("%+v", m)
	}
	for name, in := range map[string]*kms.CreateKeyInput{
		"RSA":      {KeySpec: "RSA_2048"},
		"signing":  {KeyUsage: "SIGN_VERIFY"},
		"imported": {Origin: "EXTERNAL"},
		"regions":  {MultiRegion: aws.Bool(true)},
		"tags":     {Tags: []types.Tag{{TagKey: aws.String("a"), TagValue: aws.String("b")}}},
		"store":    {CustomKeyStoreId: aws.String("cks-1")},
	} {
		if _, err := w.client(owner).CreateKey(t.Context(), in); code(t, err) != "UnsupportedOperationException" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestADisabledKeyIsOfNoUse: until it is enabled.
func TestADisabledKeyIsOfNoUse(t *testing.T) {
	w := newWorld(t)
	arn := w.create(administers(mayDecrypt(owner, `{}`)))
	_, blob := w.generate(arn)
	uses := func() (codes [3]string) {
		_, err := w.client(owner).Decrypt(t.Context(), &kms.DecryptInput{CiphertextBlob: blob, EncryptionContext: bound})
		codes[0] = code(t, err)
		_, err = w.client(owner).Encrypt(t.Context(), &kms.EncryptInput{KeyId: aws.String(arn), Plaintext: []byte("x")})
		codes[1] = code(t, err)
		_, err = w.client(owner).GenerateDataKey(t.Context(), &kms.GenerateDataKeyInput{KeyId: aws.String(arn), KeySpec: "AES_256"})
		codes[2] = code(t, err)
		return codes
	}
	if got := uses(); got != [3]string{} {
		t.Errorf("enabled: %q", got)
	}
	if _, err := w.client(owner).DisableKey(t.Context(), &kms.DisableKeyInput{KeyId: aws.String(arn)}); err != nil {
		t.Fatal(err)
	}
	if got := uses(); got != [3]string{"DisabledException", "DisabledException", "DisabledException"} {
		t.Errorf("disabled: %q", got)
	}
	if _, err := w.client(owner).EnableKey(t.Context(), &kms.EnableKeyInput{KeyId: aws.String(arn)}); err != nil {
		t.Fatal(err)
	}
	if got := uses(); got != [3]string{} {
		t.Errorf("enabled again: %q", got)
	}
}

// TestPoliciesAreKept: read back as they were put, in force at once, and never one that locks out.
func TestPoliciesAreKept(t *testing.T) {
	w := newWorld(t)
	client := w.client(owner)
	arn := w.create(administers())
	_, blob := w.generate(arn)
	decrypts := func() string {
		_, err := client.Decrypt(t.Context(), &kms.DecryptInput{KeyId: aws.String(arn), CiphertextBlob: blob, EncryptionContext: bound})
		return code(t, err)
	}
	put := func(policy string, bypass bool) string {
		_, err := client.PutKeyPolicy(t.Context(), &kms.PutKeyPolicyInput{KeyId: aws.String(arn), PolicyName: aws.String("default"),
			Policy: aws.String(policy), BypassPolicyLockoutSafetyCheck: bypass})
		return code(t, err)
	}
	if got := decrypts(); got != "AccessDeniedException" {
		t.Errorf("before: %q", got)
	}
	policy := administers(mayDecrypt(owner, `{}`))
	if got := put(policy, false); got != "" {
		t.Fatal(got)
	}
	if got := decrypts(); got != "" {
		t.Errorf("after: %q", got)
	}
	out, err := client.GetKeyPolicy(t.Context(), &kms.GetKeyPolicyInput{KeyId: aws.String(arn), PolicyName: aws.String("default")})
	if err != nil || *out.Policy != policy || *out.PolicyName != "default" {
		t.Errorf("%v: %v", out, err)
	}
	if _, err := client.GetKeyPolicy(t.Context(), &kms.GetKeyPolicyInput{KeyId: aws.String(arn), PolicyName: aws.String("mine")}); code(t, err) != "NotFoundException" {
		t.Errorf("another name: %v", err)
	}
	lockOut := `{"Statement":[` + mayDecrypt(owner, `{}`) + `]}`
	unless := administers(`{"Effect":"Deny","Principal":"*","Action":"kms:Put*","Resource":"*","Condition":{"Null":{"kms:RecipientAttestation:PCR0":"true"}}}`)
	for name, bad := range map[string]string{"no policy": "policy", "locks out": lockOut, "locks out but for enclaves": unless} {
		if got := put(bad, false); got != "MalformedPolicyDocumentException" {
			t.Errorf("put %s: %q", name, got)
		}
		if _, err := client.CreateKey(t.Context(), &kms.CreateKeyInput{Policy: aws.String(bad)}); code(t, err) != "MalformedPolicyDocumentException" {
			t.Errorf("created with %s: %v", name, err)
		}
	}
	if got := put(lockOut, true); got != "" {
		t.Errorf("bypass: %q", got)
	}
	if got := put(policy, true); got != "AccessDeniedException" {
		t.Errorf("locked out: %q", got)
	}
}

// TestKeysAreListed: an account's own of one region, page by page.
func TestKeysAreListed(t *testing.T) {
	w := newWorld(t)
	want := map[string]bool{}
	for range 5 {
		want[w.create(administers())] = true
	}
	if _, err := w.client(stranger).CreateKey(t.Context(), &kms.CreateKeyInput{}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.client(owner, func(o *kms.Options) { o.Region = "eu-west-2" }).CreateKey(t.Context(), &kms.CreateKeyInput{}); err != nil {
		t.Fatal(err)
	}
	for _, limit := range []int32{1, 2, 5, 100} {
		got := map[string]bool{}
		pages := kms.NewListKeysPaginator(w.client(owner), &kms.ListKeysInput{Limit: aws.Int32(limit)})
		for pages.HasMorePages() {
			page, err := pages.NextPage(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if len(page.Keys) > int(limit) {
				t.Errorf("%d of %d", len(page.Keys), limit)
			}
			for _, key := range page.Keys {
				got[*key.KeyArn] = true
			}
		}
		if !maps.Equal(got, want) {
			t.Errorf("limit %d: %v", limit, got)
		}
	}
	for _, limit := range []int32{0, 1001} {
		if _, err := w.client(owner).ListKeys(t.Context(), &kms.ListKeysInput{Limit: aws.Int32(limit)}); code(t, err) != "ValidationException" {
			t.Errorf("limit %d: %v", limit, err)
		}
	}
	if _, err := w.client(owner).ListKeys(t.Context(), &kms.ListKeysInput{Marker: aws.String("x")}); code(t, err) != "InvalidMarkerException" {
		t.Errorf("%v", err)
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
