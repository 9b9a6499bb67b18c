package nitro_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cloister-run/cloister/enclave/image"
	"github.com/cloister-run/cloister/enclave/image/eif"
	"github.com/cloister-run/cloister/enclave/launch/nitro"
)

// machine is a parent instance: a nitro-cli, and sockets that stand in for AF_VSOCK.
type machine struct {
	fake
	cfg   nitro.Config
	admit func(cid uint32) bool // of the door
	at    string                // where the door is
	taken bool                  // its port
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	dir, err := os.MkdirTemp("", "nitro") // a short name: a socket's is limited
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) }) // whatever still holds an enclave ends with it
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	m := &machine{fake: fake{dir}, at: filepath.Join(dir, "door")}
	m.cfg = nitro.Config{
		Path: filepath.Join(dir, "nitro-cli"), Image: filepath.Join(dir, "x.eif"), CPUs: 2, Memory: 4096, Regions: []string{"eu-central-1"},
	}
	if err := os.Symlink(self, m.cfg.Path); err != nil {
		t.Fatal(err)
	}
	m.write(t, "an application")
	return m
}

// write makes the machine's image.
func (m *machine) write(t *testing.T, application string) {
	t.Helper()
	f, err := os.Create(m.cfg.Image)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	_, err = eif.Write(t.Context(), f, eif.Spec{Memory: 1 << 30, CPUs: 2}, []eif.Part{
		eif.Bytes(eif.Kernel, []byte("kernel")), eif.Bytes(eif.CommandLine, []byte("console=ttyS0")),
		eif.Bytes(eif.Ramdisk, []byte("init")), eif.Bytes(eif.Ramdisk, []byte(application)),
	})
	if err != nil {
		t.Fatal(err)
	}
}

// want tells the fake what to do.
func (m *machine) want(t *testing.T, name, value string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(m.dir, name), []byte(value), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (m *machine) start(ctx context.Context) (*nitro.Enclave, error) {
	return nitro.StartOn(ctx, m.cfg, func(port uint32, admit func(uint32) bool) (net.Listener, error) {
		if port != image.DoorPort || m.taken {
			return nil, fmt.Errorf("port %d: %w", port, syscall.EADDRINUSE)
		}
		m.admit = admit
		return net.Listen("unix", m.at)
	}, func(ctx context.Context, cid, port uint32) (net.Conn, error) {
		return nil, fmt.Errorf("dialled %d:%d", cid, port)
	})
}

// An enclave runs, is found to be the image, is reached at its CID, and ends; and so does the next one.
func TestAnEnclaveStartsAndStops(t *testing.T) {
	m := newMachine(t)
	for range 3 {
		e, err := m.start(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		running := m.enclaves()
		if len(running) != 1 || running[0].EnclaveID != e.ID() || e.CID() != 16 || running[0].NumberOfCPUs != 2 || running[0].MemoryMiB != 4096 {
			t.Errorf("%+v; %s, CID %d", running, e.ID(), e.CID())
		}
		if pcrs := e.PCRs(); len(pcrs) != 3 || pcrs[0].String() != running[0].Measurements["PCR0"] {
			t.Errorf("%v", pcrs)
		}
		if _, err := e.Dial(t.Context()); err == nil || err.Error() != "dialled 16:5005" {
			t.Error(err)
		}
		select {
		case <-e.Ended():
			t.Error("it has ended")
		default:
		}
		if err := errors.Join(e.Stop(), e.Stop()); err != nil {
			t.Error(err)
		}
		<-e.Ended()
		if left := m.enclaves(); len(left) != 0 {
			t.Errorf("left: %+v", left)
		}
	}
}

// The door admits this enclave alone, leads to the KMS of the configured regions alone, and is shut with it.
func TestTheDoorIsThisEnclavesAlone(t *testing.T) {
	m := newMachine(t)
	m.cfg.CID = 42
	e, err := m.start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for cid, want := range map[uint32]bool{42: true, 0: false, 1: false, 3: false, 16: false, 43: false} {
		if m.admit(cid) != want {
			t.Errorf("CID %d: %v", cid, !want)
		}
	}
	conn, err := net.Dial("unix", m.at)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, "CONNECT kms.us-east-1.amazonaws.com:443 HTTP/1.1\r\nHost: x\r\n\r\n")
	answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil || answer.StatusCode != http.StatusForbidden {
		t.Errorf("another region: %v, %v", answer, err)
	}
	_ = answer.Body.Close()
	if err := e.Stop(); err != nil {
		t.Error(err)
	}
	if _, err := net.Dial("unix", m.at); err == nil {
		t.Error("the door is open")
	}
}

func TestTheDoorLeadsToTheKMSOfItsRegions(t *testing.T) {
	got := strings.Join(nitro.KMSHosts([]string{"eu-central-1", "cn-north-1", "us-gov-west-1"}), " ")
	if got != "kms.eu-central-1.amazonaws.com:443 kms.cn-north-1.amazonaws.com.cn:443 kms.us-gov-west-1.amazonaws.com:443" {
		t.Error(got)
	}
}

// An enclave that ends by itself is noticed, its CID is nobody's any more, and it still has to be stopped.
func TestAnEnclaveThatEndsIsNoticed(t *testing.T) {
	m := newMachine(t)
	e, err := m.start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(m.enclaves()[0].ProcessID, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	<-e.Ended()
	if m.admit(e.CID()) {
		t.Error("its CID is still admitted, and may be another enclave's by now")
	}
	if err := e.Stop(); err != nil {
		t.Error(err)
	}
}

// Somebody else ended the enclave while it is being stopped: it is gone, which is what was wanted.
func TestStoppingWhatIsGone(t *testing.T) {
	m := newMachine(t)
	m.want(t, fails+"terminate-enclave", "no-such-enclave")
	e, err := m.start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(m.enclaves()[0].ProcessID, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := e.Stop(); err != nil {
		t.Error(err)
	}
}

// An enclave that cannot be ended is an error that says so.
func TestStoppingWhatIsNotOurs(t *testing.T) {
	m := newMachine(t)
	m.want(t, fails+"terminate-enclave", "not-yours")
	e, err := m.start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	err = e.Stop()
	if says, ok := errors.AsType[*nitro.Error](err); !ok || says.Code != "E38" || !strings.Contains(err.Error(), e.ID()) {
		t.Error(err)
	}
	if left, ok := errors.AsType[*nitro.LeftError](err); !ok || left.Left.ID != e.ID() || !strings.Contains(left.Cure(), "terminate-enclave --enclave-id "+e.ID()) {
		t.Error(err)
	}
	select {
	case <-e.Ended():
		t.Error("it has ended")
	default:
	}
}

// Nothing that is not the measured image, or not in the mode that was asked for, is left running.
func TestI5_WhatRunsIsWhatWasMeasured(t *testing.T) {
	for name, test := range map[string]struct {
		want, value string
		is          error
		says        string
	}{
		"debug mode":       {flags, "DEBUG_MODE", nitro.ErrDebug, "no key is released"},
		"unknown flags":    {flags, "SECRET_MODE", nitro.ErrDebug, "SECRET_MODE"},
		"no flags":         {flags, "", nitro.ErrDebug, ""},
		"another image":    {measures, strings.Repeat("ab", 48), nitro.ErrMismatch, "PCR0 of the image"},
		"zeros":            {measures, strings.Repeat("00", 48), nitro.ErrMismatch, "PCR0"},
		"half a register":  {measures, "ab", nitro.ErrMismatch, "PCR0"},
		"no register":      {measures, "", nitro.ErrMismatch, "PCR0"},
		"no measurements":  {forgets, "", nitro.ErrMismatch, "update it"},
		"no end of output": {floods, "", nil, "more than 1 MiB"},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t)
			m.want(t, test.want, test.value)
			e, err := m.start(t.Context())
			if e != nil || err == nil || test.is != nil && !errors.Is(err, test.is) || !strings.Contains(err.Error(), test.says) {
				t.Errorf("%v, %v", e, err)
			}
			if left := m.enclaves(); len(left) != 0 {
				t.Errorf("left: %+v", left)
			}
		})
	}
}

func TestDebugModeIsAskedFor(t *testing.T) {
	m := newMachine(t)
	m.cfg.Debug = true
	e, err := m.start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if running := m.enclaves(); len(running) != 1 || running[0].Flags != "DEBUG_MODE" {
		t.Errorf("%+v", running)
	}
	// Its console is read until somebody has enough, or it ends.
	read, out := io.Pipe()
	ctx, stop := context.WithCancel(t.Context())
	console := make(chan error, 1)
	go func() { console <- e.Console(ctx, out) }()
	lines := bufio.NewReader(read)
	for _, want := range []string{"[    0.000000] Linux version\n", image.Ready + "\n"} {
		if got, err := lines.ReadString('\n'); got != want || err != nil {
			t.Errorf("%q, %v", got, err)
		}
	}
	stop()
	if err := <-console; err != nil {
		t.Error(err)
	}
	go func() { console <- e.Console(t.Context(), io.Discard) }()
	if err := errors.Join(e.Stop(), <-console); err != nil {
		t.Error(err)
	}
}

func TestNoConsoleWithoutDebugMode(t *testing.T) {
	m := newMachine(t)
	e, err := m.start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	if err := e.Console(t.Context(), &said); !errors.Is(err, nitro.ErrNoConsole) || said.Len() != 0 {
		t.Errorf("%q, %v", said.String(), err)
	}
	if err := e.Stop(); err != nil {
		t.Error(err)
	}
}

// A start that is given up leaves no enclave behind, though nitro-cli never told its name.
func TestAStartThatIsGivenUp(t *testing.T) {
	m := newMachine(t)
	m.want(t, hangs, "")
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		for len(m.enclaves()) == 0 {
			time.Sleep(time.Millisecond)
		}
		cancel()
	}()
	if e, err := m.start(ctx); e != nil || !errors.Is(err, context.Canceled) {
		t.Errorf("%v, %v", e, err)
	}
	if left := m.enclaves(); len(left) != 0 {
		t.Errorf("left: %+v", left)
	}
}

func TestWhatIsFoundBeforeAnythingRuns(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*machine)
		is     error
		says   string
	}{
		"no image":       {func(m *machine) { m.cfg.Image += "x" }, nitro.ErrImage, "no such file"},
		"no EIF":         {func(m *machine) { m.cfg.Image = m.cfg.Path }, nitro.ErrImage, "nitro-cli"},
		"the port":       {func(m *machine) { m.taken = true }, nitro.ErrDoor, "one enclave of Cloister at a time"},
		"no CPUs":        {func(m *machine) { m.cfg.CPUs = 0 }, nitro.ErrConfig, "CPUs"},
		"no memory":      {func(m *machine) { m.cfg.Memory = 63 }, nitro.ErrConfig, "Memory"},
		"a CID of vsock": {func(m *machine) { m.cfg.CID = 3 }, nitro.ErrConfig, "CID"},
		"any CID":        {func(m *machine) { m.cfg.CID = 1<<32 - 1 }, nitro.ErrConfig, "CID"},
		"no region":      {func(m *machine) { m.cfg.Regions = nil }, nitro.ErrConfig, "Regions"},
		"half a region":  {func(m *machine) { m.cfg.Regions = []string{"eu-central-1", "evil.example/"} }, nitro.ErrConfig, "Regions[1]"},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t)
			test.change(m)
			if e, err := m.start(t.Context()); e != nil || !errors.Is(err, test.is) || !strings.Contains(err.Error(), test.says) {
				t.Errorf("%v, %v", e, err)
			}
			if running := m.enclaves(); len(running) != 0 {
				t.Errorf("running: %+v", running)
			}
		})
	}
	m := newMachine(t)
	m.cfg.Path = ""
	t.Setenv("PATH", t.TempDir())
	_, err := m.start(t.Context())
	if says, ok := errors.AsType[*nitro.Error](err); !ok || !strings.Contains(says.Cure, "install") {
		t.Errorf("no nitro-cli: %v", err)
	}
}

// A CID that another enclave has is found before it is asked for, and the enclave is named.
func TestACIDIsTakenOnce(t *testing.T) {
	m := newMachine(t)
	m.cfg.CID = 16
	e, err := m.start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_, err = m.start(t.Context())
	if says, ok := errors.AsType[*nitro.Error](err); !ok || !strings.Contains(says.Cure, e.ID()) {
		t.Error(err)
	}
	if err := e.Stop(); err != nil {
		t.Error(err)
	}
}

// Somebody else's enclave that does not answer is of no concern.
func TestANeighborThatDoesNotAnswer(t *testing.T) {
	m := newMachine(t)
	m.want(t, neighbor, "")
	e, err := m.start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Stop(); err != nil {
		t.Error(err)
	}
}
