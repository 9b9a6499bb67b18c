package devkit_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/service/kms"

	"github.com/cloister-run/cloister/enclave/devkit"
)

// signed is a request of an account, as the SDK would sign it at that time.
func signed(t testing.TB, url string, a devkit.Account, action, body string, at time.Time) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+"/", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-amz-json-1.1")
	r.Header.Set("X-Amz-Target", "TrentService."+action)
	sign(t, r, a, body, at)
	return r
}

func sign(t testing.TB, r *http.Request, a devkit.Account, body string, at time.Time) {
	t.Helper()
	sum := sha256.Sum256([]byte(body))
	credentials := aws.Credentials{AccessKeyID: a.AccessKeyID, SecretAccessKey: a.SecretAccessKey}
	if err := v4.NewSigner().SignHTTP(context.Background(), credentials, r, hex.EncodeToString(sum[:]), "kms", region, at); err != nil {
		t.Fatal(err)
	}
}

// answer is what came back.
type answer struct {
	status int
	header http.Header
	body   string
	// Type is AWS's name of an error; the message comes under either name.
	Type    string `json:"__type"`
	Message string `json:"message"`
}

func send(t testing.TB, r *http.Request) answer {
	t.Helper()
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	a := answer{status: response.StatusCode, header: response.Header, body: string(body)}
	if len(body) > 0 {
		if err := json.Unmarshal(body, &a); err != nil {
			t.Fatalf("%s: %v", body, err)
		}
	}
	http.DefaultClient.CloseIdleConnections()
	return a
}

// TestSignatures: nothing is answered that the account did not sign, now, for this service.
func TestSignatures(t *testing.T) {
	w := newWorld(t)
	a := w.account(owner)
	authorization := func(from, to string) func(*http.Request) {
		return func(r *http.Request) {
			old := r.Header.Get("Authorization")
			if !strings.Contains(old, from) {
				t.Fatalf("%q is not in %q", from, old)
			}
			r.Header.Set("Authorization", strings.Replace(old, from, to, 1))
		}
	}
	header := func(name, value string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set(name, value) }
	}
	now := time.Now()
	for name, row := range map[string]struct {
		edit       func(*http.Request)
		code, says string
	}{
		"as it was signed":      {func(*http.Request) {}, "", ""},
		"spaces that mean none": {authorization(", ", ",  "), "", ""},
		"no signature":          {func(r *http.Request) { r.Header.Del("Authorization") }, "MissingAuthenticationTokenException", ""},
		"another algorithm":     {authorization("AWS4-HMAC-SHA256", "AWS4-ECDSA"), "IncompleteSignatureException", "AWS4-HMAC-SHA256"},
		"no credential":         {authorization("Credential=", "Credentials="), "IncompleteSignatureException", "'Credential'"},
		"no signed headers":     {authorization("SignedHeaders=", "Signed="), "IncompleteSignatureException", "'SignedHeaders'"},
		"no signature value":    {authorization("Signature=", "Sig="), "IncompleteSignatureException", "'Signature'"},
		"no pair":               {authorization(", ", ", x, "), "IncompleteSignatureException", "equal-sign"},
		"a short scope":         {authorization("/aws4_request", ""), "IncompleteSignatureException", "5"},
		"another terminator":    {authorization("/aws4_request", "/aws5_request"), "InvalidSignatureException", "terminator"},
		"another service":       {authorization("/kms/", "/s3/"), "InvalidSignatureException", "service"},
		"another region":        {authorization("/local/", "/local2/"), "InvalidSignatureException", "does not match"},
		"what is no region":     {authorization("/local/", "/LOCAL/"), "InvalidSignatureException", "region"},
		"another date":          {authorization("/"+now.UTC().Format("20060102")+"/", "/20200101/"), "InvalidSignatureException", "Date"},
		"a short signature":     {func(r *http.Request) { h := r.Header.Get("Authorization"); r.Header.Set("Authorization", h[:len(h)-2]) }, "IncompleteSignatureException", "64"},
		"a bit of the signature": {func(r *http.Request) {
			h := r.Header.Get("Authorization")
			last := map[bool]string{true: "0", false: "1"}[h[len(h)-1] != '0']
			r.Header.Set("Authorization", h[:len(h)-1]+last)
		}, "InvalidSignatureException", "does not match"},
		"an unknown access key":         {authorization(a.AccessKeyID, "AKIA"+strings.Repeat("A", 16)), "UnrecognizedClientException", "invalid"},
		"a key with other random bytes": {authorization(a.AccessKeyID, a.AccessKeyID[:len(a.AccessKeyID)-4]+"AAAA"), "UnrecognizedClientException", "invalid"},
		"a key that is no such thing":   {authorization(a.AccessKeyID, "me"), "UnrecognizedClientException", "invalid"},
		"another account's key":         {authorization(a.AccessKeyID, w.account(stranger).AccessKeyID), "InvalidSignatureException", "does not match"},
		"a session token":               {func(r *http.Request) { r.Header.Set("X-Amz-Security-Token", "token"); sign(t, r, a, "{}", now) }, "UnrecognizedClientException", "invalid"},
		"a token not signed":            {header("X-Amz-Security-Token", "token"), "InvalidSignatureException", "SignedHeader"},
		"another action":                {header("X-Amz-Target", "TrentService.CreateKey"), "InvalidSignatureException", "does not match"},
		"the action not signed":         {authorization(";x-amz-target", ""), "InvalidSignatureException", "SignedHeader"},
		"the type not signed":           {authorization("content-type;", ""), "InvalidSignatureException", "SignedHeader"},
		"the host not signed":           {authorization("host;", ""), "InvalidSignatureException", "Host"},
		"another host":                  {func(r *http.Request) { r.Host = "kms.local.amazonaws.com" }, "InvalidSignatureException", "does not match"},
		"another body":                  {func(r *http.Request) { r.Body = io.NopCloser(strings.NewReader("[]")) }, "InvalidSignatureException", "does not match"},
		"no date":                       {func(r *http.Request) { r.Header.Del("X-Amz-Date") }, "IncompleteSignatureException", "X-Amz-Date"},
		"no time":                       {header("X-Amz-Date", "now"), "IncompleteSignatureException", "ISO-8601"},
		"another time":                  {header("X-Amz-Date", now.UTC().Add(time.Second).Format("20060102T150405Z")), "InvalidSignatureException", ""},
		"4 minutes old":                 {func(r *http.Request) { sign(t, r, a, "{}", now.Add(-4*time.Minute)) }, "", ""},
		"6 minutes old":                 {func(r *http.Request) { sign(t, r, a, "{}", now.Add(-6*time.Minute)) }, "InvalidSignatureException", "expired"},
		"4 minutes ahead":               {func(r *http.Request) { sign(t, r, a, "{}", now.Add(4*time.Minute)) }, "", ""},
		"6 minutes ahead":               {func(r *http.Request) { sign(t, r, a, "{}", now.Add(6*time.Minute)) }, "InvalidSignatureException", "not yet current"},
		"one more header signed":        {func(r *http.Request) { r.Header.Set("X-Other", "1"); sign(t, r, a, "{}", now) }, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			r := signed(t, w.url, a, "ListKeys", "{}", now)
			row.edit(r)
			got := send(t, r)
			if got.Type != row.code || !strings.Contains(got.Message, row.says) || (got.status == 200) != (row.code == "") {
				t.Errorf("%d %s", got.status, got.body)
			}
			if strings.Contains(got.body, a.SecretAccessKey) || got.header.Get("X-Amzn-Requestid") == "" {
				t.Errorf("%v %s", got.header, got.body)
			}
		})
	}
}

// TestAnswersAreInTheFormOfKMS: status, type, id and body.
func TestAnswersAreInTheFormOfKMS(t *testing.T) {
	w := newWorld(t)
	a := w.account(owner)
	arn := w.create(administers())
	_, blob := w.generate(arn)
	text, err := json.Marshal(map[string]any{"CiphertextBlob": blob, "EncryptionContext": bound, "KeyId": arn})
	if err != nil {
		t.Fatal(err)
	}
	unnamed := strings.Replace(string(text), `,"KeyId":"`+arn+`"`, "", 1)
	request := func(action, body string, edit ...func(*http.Request)) *http.Request {
		r := signed(t, w.url, a, action, body, time.Now())
		for _, e := range edit {
			e(r)
			sign(t, r, a, body, time.Now())
		}
		return r
	}
	for name, row := range map[string]struct {
		request *http.Request
		status  int
		body    string // begins
	}{
		"denied": {request("Decrypt", string(text)), 400, `{"Message":"User: arn:cloister-dev:iam::111122223333:root is not authorized to perform: kms:Decrypt on resource: ` +
			arn + ` because no resource-based policy allows the kms:Decrypt action","__type":"AccessDeniedException"}`},
		"denied, no key named": {request("Decrypt", unnamed), 400, `{"Message":"The ciphertext refers to a customer master key that does not exist, ` +
			`does not exist in this region, or you are not allowed to access.","__type":"AccessDeniedException"}`},
		"no key":             {request("DescribeKey", `{"KeyId":"`+arn[:len(arn)-36]+`00000000-0000-4000-8000-000000000000"}`), 400, `{"__type":"NotFoundException","message":"Key '` + arn[:len(arn)-36] + `00000000-0000-4000-8000-000000000000' does not exist"}`},
		"no such action":     {request("Explode", "{}"), 400, `{"__type":"UnknownOperationException"}`},
		"ReEncrypt":          {request("ReEncrypt", "{}"), 400, `{"__type":"UnknownOperationException"}`},
		"no action":          {request("", "{}"), 400, `{"__type":"UnknownOperationException"}`},
		"another method":     {request("ListKeys", "{}", func(r *http.Request) { r.Method = http.MethodPut }), 400, `{"__type":"UnknownOperationException"}`},
		"another path":       {request("ListKeys", "{}", func(r *http.Request) { r.URL.Path = "/x" }), 400, `{"__type":"UnknownOperationException"}`},
		"a query":            {request("ListKeys", "{}", func(r *http.Request) { r.URL.RawQuery = "a=b" }), 400, `{"__type":"UnknownOperationException"}`},
		"another type":       {request("ListKeys", "{}", func(r *http.Request) { r.Header.Set("Content-Type", "text/plain") }), 400, `{"__type":"SerializationException"`},
		"no JSON":            {request("ListKeys", "x"), 400, `{"__type":"SerializationException"`},
		"a list":             {request("ListKeys", "[]"), 400, `{"__type":"SerializationException"`},
		"a type that is not": {request("ListKeys", `{"Limit":"1"}`), 400, `{"__type":"SerializationException"`},
		"a parameter more":   {request("ListKeys", `{"Other":1}`), 400, `{"__type":"UnsupportedOperationException"`},
		"grants":             {request("DescribeKey", `{"KeyId":"x","GrantTokens":["x"]}`), 400, `{"__type":"UnsupportedOperationException"`},
		"names by case":      {request("Decrypt", `{"CiphertextBlob":"eA==","EncryptionContext":{"a":"1","A":"2"}}`), 400, `{"__type":"UnsupportedOperationException"`},
		"much context":       {request("Decrypt", `{"CiphertextBlob":"eA==","EncryptionContext":{"a":"`+strings.Repeat("x", 8192)+`"}}`), 400, `{"__type":"ValidationException"`},
		"no ciphertext":      {request("Decrypt", `{}`), 400, `{"__type":"ValidationException"`},
		"much ciphertext":    {request("Decrypt", `{"CiphertextBlob":"`+strings.Repeat("eHh4", 2049)+`"}`), 400, `{"__type":"ValidationException"`},
		"no plaintext":       {request("Encrypt", `{"KeyId":"`+arn+`"}`), 400, `{"__type":"ValidationException"`},
		"no key named":       {request("Encrypt", `{"Plaintext":"eA=="}`), 400, `{"__type":"ValidationException"`},
		"another algorithm":  {request("Encrypt", `{"Plaintext":"eA==","EncryptionAlgorithm":"RSAES_OAEP_SHA_256"}`), 400, `{"__type":"ValidationException"`},
		"another transport":  {request("Decrypt", `{"CiphertextBlob":"eA==","Recipient":{"AttestationDocument":"eA==","KeyEncryptionAlgorithm":"x"}}`), 400, `{"__type":"ValidationException"`},
		"a long description": {request("CreateKey", `{"Description":"`+strings.Repeat("x", 8193)+`"}`), 400, `{"__type":"ValidationException"`},
		"a policy's name":    {request("PutKeyPolicy", `{"KeyId":"`+arn+`","PolicyName":"x","Policy":"x"}`), 400, `{"__type":"ValidationException"`},
		"too large":          {request("ListKeys", strings.Repeat(" ", devkit.MaxBody+1)), 413, `{"__type":"RequestEntityTooLargeException"`},
		"as large as it may": {request("ListKeys", "{}"+strings.Repeat(" ", devkit.MaxBody-2)), 200, `{"Keys":[{"KeyArn":"` + arn},
		"an empty answer":    {request("EnableKey", `{"KeyId":"`+arn+`"}`), 200, ``},
	} {
		t.Run(name, func(t *testing.T) {
			got := send(t, row.request)
			if got.status != row.status || !strings.HasPrefix(got.body, row.body) || row.body == "" && got.body != "" {
				t.Errorf("%d %s", got.status, got.body)
			}
			if got.header.Get("Content-Type") != "application/x-amz-json-1.1" || len(got.header.Get("X-Amzn-Requestid")) != 36 {
				t.Errorf("%v", got.header)
			}
		})
	}
}

// TestOverload: whoever is too many is throttled, as AWS does it, and served later.
func TestOverload(t *testing.T) {
	w := newWorld(t)
	client := w.client(owner)
	release := w.kms.Busy()
	if _, err := client.ListKeys(t.Context(), &kms.ListKeysInput{}); code(t, err) != "ThrottlingException" {
		t.Errorf("%v", err)
	}
	release()
	if _, err := client.ListKeys(t.Context(), &kms.ListKeysInput{}); err != nil {
		t.Error(err)
	}
}

// TestTheClockOfTheKMSCounts: for signatures.
func TestTheClockOfTheKMSCounts(t *testing.T) {
	w := newWorld(t)
	w.kms.SetClock(func() time.Time { return time.Now().Add(time.Hour) })
	if _, err := w.client(owner).ListKeys(t.Context(), &kms.ListKeysInput{}); code(t, err) != "InvalidSignatureException" {
		t.Errorf("%v", err)
	}
}
