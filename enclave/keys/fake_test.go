package keys_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/cloister-run/cloister/enclave/attest"
	"github.com/cloister-run/cloister/enclave/attest/devca"
	"github.com/cloister-run/cloister/enclave/keys"
)

const (
	devKey = "arn:aws:kms:eu-west-2:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
	simKey = "arn:cloister-dev:kms:local:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
	simID  = "6a1b3c5d-0000-4000-8000-000000000001"
)

var (
	wrapped     = []byte("wrapped under the owner's key")
	bound       = map[string]string{"cloister:bundle": "00ff", "cloister:asset": "digits"}
	credentials = keys.Credentials{AccessKeyID: "AKIDGIVEN", SecretAccessKey: "secretgiven", SessionToken: "tokengiven"}
)

// module plays the NSM: its documents are real ones under a development CA.
type module struct {
	ca   *devca.CA
	pcrs attest.PCRSet
}

var _ attest.Attester = (*module)(nil)

func (m *module) Attest(_ context.Context, r attest.Request) ([]byte, error) {
	return m.ca.Sign(devca.Claims{ModuleID: "i-1-enc1", Time: time.Now(), PCRs: m.pcrs,
		UserData: r.UserData, Nonce: r.Nonce, PublicKey: r.PublicKey})
}

func register(b byte) attest.PCR { return attest.PCR(bytes.Repeat([]byte{b}, 48)) }

func measured() attest.PCRSet {
	return attest.PCRSet{0: register(1), 1: register(2), 2: register(3)}
}

// request is what came in.
type request struct {
	KeyID               string `json:"KeyId"`
	EncryptionAlgorithm string
	CiphertextBlob      []byte
	EncryptionContext   map[string]string
	Recipient           struct {
		AttestationDocument    []byte
		KeyEncryptionAlgorithm string
	}
	header   http.Header
	host     string
	document *attest.Document
}

// fake plays a KMS: what it takes and gives is what the KMS API says, what it checks is the
// attestation document.
type fake struct {
	t        testing.TB
	nsm      *module
	url      string
	reach    func(ctx context.Context) (net.Conn, error)
	roots    *x509.CertPool
	dataKey  []byte
	override func(w http.ResponseWriter, r *request, n int) bool

	mu       sync.Mutex
	requests []*request
	dialed   []string
}

// newFake listens: with TLS for the name, or without for none.
func newFake(t testing.TB, name string) *fake {
	t.Helper()
	f := makeFake(t)
	server := httptest.NewUnstartedServer(f)
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	if name == "" {
		server.Start()
	} else {
		var certificate tls.Certificate
		certificate, f.roots = newCertificate(t, name)
		server.TLS = &tls.Config{Certificates: []tls.Certificate{certificate}}
		server.StartTLS()
	}
	t.Cleanup(server.Close)
	f.url = server.URL
	address := server.Listener.Addr().String()
	f.reach = func(ctx context.Context) (net.Conn, error) { return (&net.Dialer{}).DialContext(ctx, "tcp", address) }
	return f
}

// newStillFake is one without TLS, for a bubble of synctest: in memory, where the bubble sees
// that nothing happens any more.
func newStillFake(t testing.TB) *fake {
	t.Helper()
	f := makeFake(t)
	l := &pipes{conns: make(chan net.Conn), closed: make(chan struct{})}
	server := &http.Server{Handler: f}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	t.Cleanup(func() {
		_ = server.Close()
		<-served
	})
	f.url, f.reach = "http://kms.test", l.dial
	return f
}

func makeFake(t testing.TB) *fake {
	t.Helper()
	ca, err := devca.New(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return &fake{t: t, nsm: &module{ca: ca, pcrs: measured()}, dataKey: random(32)}
}

// pipes is a listener in memory.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { p.once.Do(func() { close(p.closed) }); return nil }
func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipes", Net: "unix"} }

func (p *pipes) dial(ctx context.Context) (net.Conn, error) {
	ours, theirs := net.Pipe()
	select {
	case p.conns <- theirs:
		return ours, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func newCertificate(t testing.TB, name string) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{name}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}

// dial takes whatever is asked for to the fake, as the host may.
func (f *fake) dial(ctx context.Context, _, address string) (net.Conn, error) {
	f.mu.Lock()
	f.dialed = append(f.dialed, address)
	f.mu.Unlock()
	return f.reach(ctx)
}

// config is one for this fake, that of AWS if it speaks TLS.
func (f *fake) config() keys.Config {
	c := keys.Config{Attester: f.nsm, Dial: f.dial, Roots: f.roots, Partition: "aws", Pause: time.Millisecond}
	if f.roots == nil {
		c.Partition, c.Endpoint = keys.PartitionDev, f.url
	}
	return c
}

func (f *fake) client(edit ...func(*keys.Config)) *keys.Client {
	f.t.Helper()
	c := f.config()
	for _, e := range edit {
		e(&c)
	}
	kms, err := keys.New(c)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { _ = kms.Close() })
	client, err := kms.Login(credentials)
	if err != nil {
		f.t.Fatal(err)
	}
	return client
}

func (f *fake) seen() []*request {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.requests
}

func (f *fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	if err != nil {
		return
	}
	in := &request{header: r.Header, host: r.Host}
	f.mu.Lock()
	f.requests = append(f.requests, in)
	n := len(f.requests)
	f.mu.Unlock()
	if r.Method != http.MethodPost || r.URL.Path != "/" || r.Header.Get("X-Amz-Target") != "TrentService.Decrypt" {
		refuse(w, 400, "UnknownOperationException")
		return
	}
	if err := json.Unmarshal(body, in); err != nil {
		refuse(w, 400, "SerializationException")
		return
	}
	in.document, err = attest.Verify(in.Recipient.AttestationDocument,
		attest.Options{At: time.Now(), Root: f.nsm.ca.Root(), PCRs: measured(), Kind: attest.KindKMS})
	if f.override != nil && f.override(w, in, n) {
		return
	}
	if err != nil {
		refuse(w, 400, "AccessDeniedException")
		return
	}
	reply(w, f.good(in))
}

// good is what the KMS answers.
func (f *fake) good(in *request) map[string]any {
	return map[string]any{"KeyId": in.KeyID, "EncryptionAlgorithm": "SYMMETRIC_DEFAULT",
		"CiphertextForRecipient": seal(in.publicKey(f.t), f.dataKey)}
}

func (r *request) publicKey(t testing.TB) *rsa.PublicKey {
	key, err := x509.ParsePKIXPublicKey(r.document.PublicKey)
	if err != nil {
		t.Error(err)
		return nil
	}
	return key.(*rsa.PublicKey)
}

func reply(w http.ResponseWriter, body any) {
	w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	w.Header().Set("X-Amzn-Requestid", simID)
	_ = json.NewEncoder(w).Encode(body)
}

func refuse(w http.ResponseWriter, status int, code string) {
	w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	w.Header().Set("X-Amzn-Requestid", simID)
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]string{"__type": code, "message": "because\nof it"})
}
