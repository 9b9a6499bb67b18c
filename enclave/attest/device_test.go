package attest_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/hf/nsm/request"
	"github.com/hf/nsm/response"
	"go.uber.org/goleak"

	"github.com/cloister-run/cloister/enclave/attest"
	"github.com/cloister-run/cloister/enclave/attest/attesttest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve has a handler answer on a socket until the test ends.
func serve(t testing.TB, h attest.Handler) (path string) {
	t.Helper()
	path = filepath.Join(socketFolder(t), "nsm")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error)
	go func() { served <- attest.Serve(ctx, listener, h) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return path
}

// socketFolder has a short name: a socket's path has at most 107 bytes.
func socketFolder(t testing.TB) string {
	t.Helper()
	folder, err := os.MkdirTemp("", "nsm")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(folder) })
	return folder
}

// TestSocketConforms: the device over a socket, by the suite for every device.
func TestSocketConforms(t *testing.T) {
	ca := newCA(t)
	attesttest.Run(t, attesttest.Config{
		Open: func(t *testing.T) attest.Device {
			f := newFakeNSM(t)
			f.ca = ca
			return attest.OpenSocket(serve(t, f))
		},
		Root: ca.Root(),
		Now:  func() time.Time { return moment },
	})
}

// TestDevice: where there is no /dev/nsm, that is said; where there is one, it gives entropy. The suite
// locks registers for good, so it runs on a real one only in an enclave made for that.
func TestDevice(t *testing.T) {
	device, err := attest.OpenDevice()
	if _, missing := os.Stat("/dev/nsm"); missing != nil {
		if !errors.Is(err, attest.ErrNoDevice) || !errors.Is(err, os.ErrNotExist) || device != nil {
			t.Errorf("%v, %v", device, err)
		}
		return
	}
	if err != nil {
		t.Skipf("SKIPPED: /dev/nsm is there, and not for this user: %v", err)
	}
	defer device.Close()
	if err := device.Random(t.Context(), make([]byte, 16)); err != nil {
		t.Error(err)
	}
}

func TestNobodyAtTheSocket(t *testing.T) {
	device := attest.OpenSocket(filepath.Join(socketFolder(t), "none"))
	if doc, err := device.Attest(t.Context(), attest.Request{}); err == nil || doc != nil {
		t.Error("a document")
	}
}

// answering is a module that always says the same.
type answering response.Response

func (a answering) Answer(context.Context, request.Request) response.Response {
	return response.Response(a)
}

// TestAnAnswerMustFit: another module's answer, too short, too long, or a refusal.
func TestAnAnswerMustFit(t *testing.T) {
	short := make([]byte, 47)
	for name, answer := range map[string]response.Response{
		"of another kind":   {DescribeNSM: &response.DescribeNSM{}},
		"a short register":  {DescribePCR: &response.DescribePCR{Data: short}},
		"a short extension": {ExtendPCR: &response.ExtendPCR{Data: short}},
		"no document":       {Attestation: &response.Attestation{}},
		"no randomness":     {GetRandom: &response.GetRandom{}},
		"LockPCR":           {LockPCR: &response.LockPCR{}},
	} {
		device := attest.OpenSocket(serve(t, answering(answer)))
		for call, err := range everyCall(t, device) {
			if !errors.Is(err, attest.ErrAnswer) {
				t.Errorf("%s: %s: %v", name, call, err)
			}
		}
	}
	device := attest.OpenSocket(serve(t, answering{Error: "InternalError"}))
	for call, err := range everyCall(t, device) {
		var refusal *attest.Refusal
		if !errors.As(err, &refusal) || refusal.Code != "InternalError" || errors.Is(err, attest.ErrLocked) {
			t.Errorf("%s: %v", call, err)
		}
	}
	for _, answer := range []response.Response{{}, {Attestation: &response.Attestation{Document: make([]byte, 0x3000)}}} {
		device := attest.OpenSocket(serve(t, answering(answer)))
		var refusal *attest.Refusal
		if _, err := device.Attest(t.Context(), attest.Request{}); !errors.As(err, &refusal) {
			t.Errorf("%v", err)
		}
	}
}

func everyCall(t *testing.T, device attest.Device) map[string]error {
	t.Helper()
	p := bytes.Repeat([]byte{1}, 8)
	doc, attested := device.Attest(t.Context(), attest.Request{})
	described, locked, describing := device.DescribePCR(t.Context(), 1)
	extended, extending := device.ExtendPCR(t.Context(), 16, []byte("x"))
	calls := map[string]error{
		"Attest": attested, "DescribePCR": describing, "ExtendPCR": extending,
		"LockPCRs": device.LockPCRs(t.Context(), 32), "Random": device.Random(t.Context(), p),
	}
	if doc != nil || !described.IsZero() || locked || !extended.IsZero() || !bytes.Equal(p, make([]byte, 8)) {
		t.Errorf("something came with an error: %x %s %t %s %x", doc, described, locked, extended, p)
	}
	return calls
}

// raw serves one connection with bytes of the test's choice.
func raw(t *testing.T, peer func(net.Conn)) string {
	t.Helper()
	path := filepath.Join(socketFolder(t), "nsm")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	var done sync.WaitGroup
	done.Go(func() {
		conn, err := listener.Accept()
		if err == nil {
			peer(conn)
			conn.Close()
		}
	})
	t.Cleanup(func() { listener.Close(); done.Wait() })
	return path
}

func frame(data string) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(data))), data...)
}

// TestNothingIsSentAfterTheContext: the device file cannot be interrupted, so this is asked before.
func TestNothingIsSentAfterTheContext(t *testing.T) {
	device := attest.NewNSM(func(request.Request) (response.Response, error) {
		t.Error("asked")
		return response.Response{}, nil
	})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := device.LockPCRs(ctx, 32); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// TestABrokenServer: what is no frame, or no answer, is an error soon and costs no memory.
func TestABrokenServer(t *testing.T) {
	for name, answer := range map[string][]byte{
		"nothing":              nil,
		"half a length":        {0, 0},
		"a length of nothing":  frame(""),
		"a length of 4 GiB":    {0xff, 0xff, 0xff, 0xff},
		"a length of 12289":    {0, 0, 0x30, 1},
		"less than its length": append([]byte{0, 0, 0, 9}, "\xa1"...),
		"no CBOR":              frame("\xff"),
		"a byte more":          frame("\x68LockPCRs\x00"),
		"an unknown answer":    frame("\x65Other"),
		"an empty map":         frame("\xa0"),
		"too deep":             frame(strings.Repeat("\x81", 1000) + "\x00"),
	} {
		path := raw(t, func(c net.Conn) {
			header := make([]byte, 4)
			_, _ = io.ReadFull(c, header)
			_, _ = io.CopyN(io.Discard, c, int64(binary.BigEndian.Uint32(header)))
			_, _ = c.Write(answer)
		})
		if err := attest.OpenSocket(path).LockPCRs(t.Context(), 1); err == nil || len(err.Error()) > 300 {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestAServerThatHangs: the caller's deadline ends the wait.
func TestAServerThatHangs(t *testing.T) {
	release := make(chan struct{})
	path := raw(t, func(net.Conn) { <-release })
	defer close(release)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	if err := attest.OpenSocket(path).LockPCRs(ctx, 1); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}

// TestABrokenClient: what is no frame is hung up on; what is no request is refused; the next one is served.
func TestABrokenClient(t *testing.T) {
	path := serve(t, newFakeNSM(t))
	send := func(data []byte) []byte {
		conn, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_, _ = conn.Write(data)
		_ = conn.(*net.UnixConn).CloseWrite()
		answer, _ := io.ReadAll(conn) // a reset is as good as an end
		return answer
	}
	for _, data := range [][]byte{nil, {0, 0}, frame(""), {0xff, 0xff, 0xff, 0xff}, {0, 0, 0x10, 1}, append([]byte{0, 0, 0, 9}, 0xa1)} {
		if answer := send(data); len(answer) > 0 {
			t.Errorf("%x: %x", data, answer)
		}
	}
	refused := frame("\xa1\x65Error\x70InvalidOperation")
	for _, data := range noRequests {
		if answer := send(frame(data)); !bytes.Equal(answer, refused) {
			t.Errorf("%x: %q", data, answer)
		}
	}
	if err := attest.OpenSocket(path).Random(t.Context(), make([]byte, 8)); err != nil {
		t.Error(err)
	}
}

var noRequests = []string{
	"\xff", "\x00", "\xf6", "\xa0", "\x65Other", "\xa1\x65Other\xa0", "\x69GetRandom\x00",
	"\xa1\x69GetRandom\xa0", "\xa2\x67LockPCR\xa1\x65index\x00\x68LockPCRs\xa1\x65range\x00",
	"\xa1\x68LockPCRs\xa1\x65Range\x00", "\xa1\x68LockPCRs\xa2\x65range\x00\x65range\x00",
	"\xa1\x68LockPCRs\xa2\x65range\x00\x64more\x00", "\xa1\x68LockPCRs\xa1\x65range\x1a\x00\x01\x00\x00",
	"\xa1\x68LockPCRs\xa1\x65range\x20", "\xa1\x6bAttestation\x00",
}

// slow is a module that waits.
type slow struct{ release, asked chan struct{} }

func (s slow) Answer(ctx context.Context, _ request.Request) response.Response {
	s.asked <- struct{}{}
	select {
	case <-s.release:
	case <-ctx.Done():
	}
	return response.Response{LockPCRs: &response.LockPCRs{}}
}

// TestServingIsBounded: at most 32 at once, and the end of the context ends them all.
func TestServingIsBounded(t *testing.T) {
	s := slow{make(chan struct{}), make(chan struct{}, 100)}
	path := serve(t, s)
	var group sync.WaitGroup
	for range 40 {
		group.Go(func() {
			if err := attest.OpenSocket(path).LockPCRs(t.Context(), 1); err != nil {
				t.Error(err)
			}
		})
	}
	for range 32 {
		<-s.asked
	}
	select {
	case <-s.asked:
		t.Error("more than 32 are served at once")
	case <-time.After(50 * time.Millisecond):
	}
	close(s.release)
	group.Wait()
}

func TestServeEndsWithItsContext(t *testing.T) {
	listener, err := net.Listen("unix", filepath.Join(socketFolder(t), "nsm"))
	if err != nil {
		t.Fatal(err)
	}
	s := slow{make(chan struct{}), make(chan struct{}, 1)}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error)
	go func() { served <- attest.Serve(ctx, listener, s) }()
	asking := make(chan error)
	go func() { asking <- attest.OpenSocket(listener.Addr().String()).LockPCRs(context.Background(), 1) }()
	<-s.asked
	cancel()
	if err := <-served; err != nil {
		t.Error(err)
	}
	<-asking // answered or not
	listener.Close()
	if err := attest.Serve(t.Context(), listener, s); err == nil {
		t.Error("a closed listener is served")
	}
}

// TestTheMessagesAreTheNSMs: byte for byte what serde and hf/nsm write for them, so that any
// implementation of the NSM API can be the far end.
func TestTheMessagesAreTheNSMs(t *testing.T) {
	for want, r := range map[string]request.Request{
		"69476574 52616e646f6d":                          &request.GetRandom{},
		"a1 684c6f636b50435273 a1 6572616e6765 1820":     &request.LockPCRs{Range: 32},
		"a1 6b4465736372696265504352 a1 65696e646578 10": &request.DescribePCR{Index: 16},
	} {
		got, err := cbor.Marshal(r.Encoded())
		if err != nil || hex.EncodeToString(got) != strings.ReplaceAll(want, " ", "") {
			t.Errorf("%x, not %s: %v", got, want, err)
		}
	}
	for want, r := range map[string]response.Response{
		"67LockPCR": {LockPCR: &response.LockPCR{}}, "68LockPCRs": {LockPCRs: &response.LockPCRs{}},
		"a1 65Error 6dReadOnlyIndex":          {Error: response.ECReadOnlyIndex},
		"a1 69GetRandom a1 66random 4107":     {GetRandom: &response.GetRandom{Random: []byte{7}}},
		"a1 6bAttestation a1 68document 4107": {Attestation: &response.Attestation{Document: []byte{7}}},
		"a1 69ExtendPCR a1 64data 4107":       {ExtendPCR: &response.ExtendPCR{Data: []byte{7}}},
	} {
		got := attest.Answer(t.Context(), answering(r), []byte("\x69GetRandom"))
		if spelt(got) != strings.ReplaceAll(want, " ", "") {
			t.Errorf("%s, not %s", spelt(got), want)
		}
		var back response.Response
		if err := cbor.Unmarshal(got, &back); err != nil {
			t.Errorf("%s: %v", want, err)
		}
	}
}

// spelt writes letters as they are and the rest in hexadecimal.
func spelt(data []byte) string {
	var text strings.Builder
	for i := 0; i < len(data); i++ {
		size := int(data[i] & 0x1f)
		if data[i]>>5 == 3 && i+1+size <= len(data) {
			text.WriteString(hex.EncodeToString(data[i:i+1]) + string(data[i+1:i+1+size]))
			i += size
			continue
		}
		text.WriteString(hex.EncodeToString(data[i : i+1]))
	}
	return text.String()
}

// FuzzAnswer: whatever comes in, one answer goes out, within the driver's bounds, which hf/nsm reads.
func FuzzAnswer(f *testing.F) {
	for _, data := range noRequests {
		f.Add([]byte(data))
	}
	for _, r := range []request.Request{
		&request.GetRandom{}, &request.DescribeNSM{}, &request.LockPCR{Index: 16}, &request.LockPCRs{Range: 32},
		&request.DescribePCR{Index: 3}, &request.ExtendPCR{Index: 16, Data: []byte("clean")},
		&request.Attestation{Nonce: []byte("nonce")},
	} {
		data, err := cbor.Marshal(r.Encoded())
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	module := newFakeNSM(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		out := attest.Answer(t.Context(), module, data)
		var answer response.Response
		if err := cbor.Unmarshal(out, &answer); err != nil || len(out) > 0x3000 {
			t.Fatalf("%x: %v", out, err)
		}
		if answer == (response.Response{}) {
			t.Fatalf("%x says nothing", out)
		}
	})
}

// FuzzSocket: a server that sends anything at all gets an error or a document out of it, and no panic.
func FuzzSocket(f *testing.F) {
	f.Add(frame("\xa1\x6bAttestation\xa1\x68document\x41\x07"))
	f.Add(frame("\xa1\x65Error\x6dReadOnlyIndex"))
	f.Add(frame("\x68LockPCRs"))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, data []byte) {
		answer, err := attest.ReadAnswer(data)
		if err != nil && answer != (response.Response{}) {
			t.Fatalf("%+v with %v", answer, err)
		}
	})
}
