// Command hostile is what a policy worker could become once somebody took it over. Its module says
// what it does.
package main

import (
	"encoding/binary"
	"encoding/json"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cloister-run/cloister/policies/abi"
	"github.com/cloister-run/cloister/policies/worker/inside"
	"github.com/cloister-run/cloister/policies/worker/wire"
)

func main() {
	raw := os.NewFile(3, "control")
	dup, err := unix.Dup(3)
	check(err)
	conn, err := wire.New(os.NewFile(uintptr(dup), "control"))
	check(err)
	var load wire.Load
	module, err := conn.Receive(&load, wire.MaxMessage, wire.MaxModule)
	check(err)
	part, after, _ := strings.Cut(string(module), " ")
	if f := attempts[part]; f != nil {
		check(inside.Confine())
		f()
	}
	switch part {
	case "die":
		os.Exit(0)
	case "stall":
		time.Sleep(time.Hour)
	case "garbage":
		raw.Write([]byte("\x00\x00\x00\x04\x00\x00\x00\x00\x00nope"))
	case "huge":
		header := make([]byte, 9)
		binary.BigEndian.PutUint32(header, 1<<31)
		raw.Write(header)
		time.Sleep(time.Hour)
	case "manifest":
		check(conn.Send(wire.Loaded{Manifest: json.RawMessage(`{"abi":1,"name":"UPPER"}`)}, nil, nil))
	}
	manifest, err := json.Marshal(abi.Manifest{ABI: 1, Name: "hostile", Redacts: []abi.Channel{abi.AnyOutput}})
	check(err)
	check(conn.Send(wire.Loaded{Manifest: manifest}, nil, nil))
	for {
		var c wire.Control
		_, err := conn.Receive(&c, wire.MaxMessage, wire.MaxMessage)
		check(err)
		if c.Ask != nil {
			decide(raw, conn, part, after)
			continue
		}
		if part == "config" {
			os.Exit(1)
		}
		check(conn.Send(wire.Checked{}, nil, nil))
	}
}

// decide answers one request.
func decide(raw *os.File, conn *wire.Conn, part, after string) {
	yes, written := wire.Call{Op: wire.Done}, []byte(`{"allow":true}`)
	switch part {
	case "decide-die":
		os.Exit(1)
	case "decide-stall":
		time.Sleep(time.Hour)
	case "decide-garbage":
		raw.Write([]byte("\x00\x00\x00\x04\x00\x00\x00\x00\x00nope"))
	case "decide-huge":
		header := make([]byte, 9)
		binary.BigEndian.PutUint32(header[4:], 1<<30)
		raw.Write(header)
	case "decide-descriptor":
		check(conn.Send(yes, written, os.Stdin))
	case "decide-both":
		written = []byte(`{"allow":true,"code":"x"}`)
	case "decide-flood":
		for {
			if conn.Send(wire.Call{Op: wire.Lstat, Tree: wire.Artifacts, Name: "."}, nil, nil) != nil {
				return
			}
		}
	case "call": // one call, and allow if it is refused
		var c wire.Call
		check(json.Unmarshal([]byte(after), &c))
		check(conn.Send(c, nil, nil))
		var a wire.Answer
		_, got, err := conn.ReceiveFile(&a, wire.MaxMessage, 0)
		check(err)
		if a.Errno == 0 || got != nil {
			yes = wire.Call{Op: wire.Done, Error: "it was answered"}
		}
	case "create-many": // and close none
		for i := range 1000 {
			check(conn.Send(wire.Call{Op: wire.Create, Name: "outputs.file" + strings.Repeat("x", i)}, nil, nil))
			var a wire.Answer
			_, _, err := conn.ReceiveFile(&a, wire.MaxMessage, 0)
			check(err)
			if a.Errno != 0 && i == 64 {
				_ = conn.Send(yes, written, nil)
				return
			}
		}
		yes = wire.Call{Op: wire.Done, Error: "more or fewer than 64 files are open"}
	case "write-descriptor": // opens what it may read, and writes to it
		check(inside.Confine()) // as a worker is: an ordinary user's has the owner's rights
		check(conn.Send(wire.Call{Op: wire.Open, Tree: wire.Artifacts, Name: "outputs.file"}, nil, nil))
		var a wire.Answer
		_, got, err := conn.ReceiveFile(&a, wire.MaxMessage, 0)
		check(err)
		if _, err := unix.Write(int(got.Fd()), []byte("x")); err == nil {
			yes = wire.Call{Op: wire.Done, Error: "it was written to"}
		}
	}
	_ = conn.Send(yes, written, nil)
}

// attempts are what a confined worker tries. One that returns lived.
var attempts = map[string]func(){
	"nothing": func() {},
	"socket":  func() { unix.Syscall(unix.SYS_SOCKET, unix.AF_UNIX, unix.SOCK_STREAM, 0) },
	"vsock":   func() { unix.Syscall(unix.SYS_SOCKET, unix.AF_VSOCK, unix.SOCK_STREAM, 0) },
	"pair":    func() { unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0) },
	"connect": func() { unix.Connect(3, &unix.SockaddrUnix{Name: "/x"}) },
	"open":    func() { os.Open("/") },
	"create":  func() { os.Create("/tmp/x") },
	"stat":    func() { os.Stat("/") },
	"proc":    func() { os.ReadFile("/proc/self/maps") },
	"exec":    func() { unix.Exec("/policy", nil, nil) },
	"fork":    func() { os.StartProcess("/policy", nil, &os.ProcAttr{}) },
	"kill":    func() { unix.Kill(1, 0) },
	"ptrace":  func() { unix.PtraceAttach(1) },
	"mount":   func() { unix.Mount("", "/", "", 0, "") },
	"memfd":   func() { unix.MemfdCreate("x", 0) },
	"shm":     func() { unix.SysvShmGet(1, 1, 0o600) },
	"prctl":   func() { unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0) },
	"unshare": func() { unix.Unshare(unix.CLONE_NEWUSER) },

	"chmod":    func() { unix.Fchmod(3, 0o777) },
	"truncate": func() { unix.Ftruncate(3, 0) },
	"reopen":   func() { os.OpenFile("/proc/self/fd/3", os.O_RDWR, 0) },
}

func check(err error) {
	if err != nil {
		os.Exit(9)
	}
}
