package devkit_test

import (
	"bytes"
	"maps"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
)

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
