// Package wire is what the pool of policy workers and a worker say to each other, over a Unix
// socket: JSON messages with bytes and, from the pool alone, a descriptor beside them.
//
// The pool sends one [Load] and then one [Control] after the other. To a question it answers
// [Call]s until one is the last. A worker runs what others wrote, so the pool bounds all that it
// reads from one and takes no descriptor from it.
package wire

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cloister-run/cloister/policies/abi"
)

// Bounds of a message.
const (
	// MaxMessage bounds a message of the pool, MaxCall one of a worker.
	MaxMessage = 64 << 20
	MaxCall    = 256 << 10
	// MaxModule bounds the bytes beside a Load, MaxChunk those beside a Call.
	MaxModule = 1 << 30
	MaxChunk  = 1 << 20
)

// Load is the module to load, which stands beside it. Its answer is a Loaded.
type Load struct {
	Limits Limits `json:"limits"`
}

// Limits are those of package policies that are set for a worker; zero means its default.
type Limits struct {
	ModuleBytes  int64         `json:"module_bytes,omitempty"`
	MemoryBytes  int64         `json:"memory_bytes,omitempty"`
	RequestBytes int64         `json:"request_bytes,omitempty"`
	CompileTime  time.Duration `json:"compile_time,omitempty"`
	DecideTime   time.Duration `json:"decide_time,omitempty"`
}

// Loaded says what the module declares, or why it is none.
type Loaded struct {
	Manifest json.RawMessage `json:"manifest,omitempty"`
	Error    string          `json:"error,omitempty"`
}

// Control is a configuration to check, whose answer is a Checked, or a question.
type Control struct {
	Config json.RawMessage `json:"config,omitempty"`
	Ask    *Ask            `json:"ask,omitempty"`
}

// Checked says what is wrong with a configuration.
type Checked struct {
	Error string `json:"error,omitempty"`
}

// Ask is a request, which stands beside it, and which files the policy finds.
type Ask struct {
	Point abi.Point `json:"point"`
	// Reading is the time on top of the limit, [abi.Request.ReadTime].
	Reading   time.Duration `json:"reading"`
	Artifacts bool          `json:"artifacts"`
	Own       bool          `json:"own"`
	Redacted  bool          `json:"redacted"`
}

// Op is what a worker calls for.
type Op string

// The calls. All but the last one have an [Answer].
const (
	Open    Op = "open"    // Tree and Name; a file's descriptor comes with the answer
	Lstat   Op = "lstat"   // Tree and Name
	ReadDir Op = "readdir" // Tree and Name; at most Most entries
	Mkdir   Op = "mkdir"   // Name
	Create  Op = "create"  // Name; the answer has the File
	Write   Op = "write"   // File, and the bytes
	Close   Op = "close"   // File
	Done    Op = "done"    // the decision, or Error
)

// Tree is one of the two that a policy reads.
type Tree string

// The trees.
const (
	Artifacts Tree = "artifacts"
	Own       Tree = "own"
)

// Call is what a worker wants during a decision.
type Call struct {
	Op    Op     `json:"op"`
	Tree  Tree   `json:"tree,omitempty"`
	Name  string `json:"name,omitempty"`
	Most  int    `json:"most,omitempty"`
	File  int    `json:"file,omitempty"`
	Error string `json:"error,omitempty"`
}

// Answer is what a Call gets.
type Answer struct {
	Errno   syscall.Errno `json:"errno,omitempty"`
	Info    *Info         `json:"info,omitempty"`
	Entries []Info        `json:"entries,omitempty"`
	File    int           `json:"file,omitempty"`
}

// Info describes a file. It is an [fs.FileInfo] without times and owners.
type Info struct {
	Base string      `json:"name"`
	Len  int64       `json:"size"`
	Kind fs.FileMode `json:"mode"`
}

var _ fs.FileInfo = Info{}

// Describe makes an Info.
func Describe(i fs.FileInfo) Info {
	return Info{Base: i.Name(), Len: i.Size(), Kind: i.Mode().Type() | 0o400}
}

// Name is the base name.
func (i Info) Name() string { return i.Base }

// Size is the length in bytes.
func (i Info) Size() int64 { return i.Len }

// Mode is the kind of file.
func (i Info) Mode() fs.FileMode { return i.Kind }

// ModTime is no time.
func (Info) ModTime() time.Time { return time.Time{} }

// IsDir reports whether it is a folder.
func (i Info) IsDir() bool { return i.Kind.IsDir() }

// Sys is nil.
func (Info) Sys() any { return nil }

// Conn carries messages. One goroutine at a time uses it; Close may be called by any.
type Conn struct{ unix *net.UnixConn }

// Pair makes a connection and the file of its other end, for the worker. The caller closes both.
func Pair() (*Conn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("worker: making a connection: %w", err)
	}
	other := os.NewFile(uintptr(fds[1]), "worker")
	conn, err := New(os.NewFile(uintptr(fds[0]), "worker"))
	if err != nil {
		_ = other.Close()
		return nil, nil, err
	}
	return conn, other, nil
}

// New takes over the file of a connected Unix socket.
func New(f *os.File) (*Conn, error) {
	defer f.Close()
	conn, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("worker: %w", err)
	}
	socket, ok := conn.(*net.UnixConn)
	if !ok {
		_ = conn.Close()
		return nil, errors.New("worker: not a Unix socket")
	}
	return &Conn{socket}, nil
}

// Close ends the connection, and whatever waits for it.
func (c *Conn) Close() error { return c.unix.Close() }

// headerBytes holds the lengths of the message and of what is beside it, and whether a
// descriptor is.
const headerBytes = 9

// Send sends a message, with bulk and, if it is not nil, a descriptor beside it.
func (c *Conn) Send(message any, bulk []byte, with syscall.Conn) error {
	text, err := json.Marshal(message)
	if err != nil {
		return fmt.Errorf("worker: %w", err)
	}
	frame := make([]byte, headerBytes, headerBytes+len(text)+len(bulk))
	binary.BigEndian.PutUint32(frame, uint32(len(text)))
	binary.BigEndian.PutUint32(frame[4:], uint32(len(bulk)))
	if with != nil {
		frame[8] = 1
		if err := c.sendWith(frame, with); err != nil {
			return err
		}
		frame = frame[:0]
	}
	frame = append(append(frame, text...), bulk...)
	_, err = c.unix.Write(frame)
	return err
}

// sendWith sends a header and a descriptor with it.
func (c *Conn) sendWith(header []byte, with syscall.Conn) error {
	raw, err := with.SyscallConn()
	if err != nil {
		return err
	}
	var sent error
	err = raw.Control(func(fd uintptr) {
		_, _, sent = c.unix.WriteMsgUnix(header, unix.UnixRights(int(fd)), nil)
	})
	return errors.Join(err, sent)
}

// Receive reads a message into the value that into points to, and what is beside it, both bounded.
// A descriptor is no part of what a worker may send; see [Conn.ReceiveFile].
func (c *Conn) Receive(into any, most, mostBulk int) ([]byte, error) {
	var header [headerBytes]byte
	if _, err := io.ReadFull(c.unix, header[:]); err != nil {
		return nil, err
	}
	if header[8] != 0 {
		return nil, errors.New("worker: a descriptor where none may be")
	}
	return c.rest(header, into, most, mostBulk)
}

// ReceiveFile is Receive for a message with a descriptor beside it, or none. The caller closes it.
func (c *Conn) ReceiveFile(into any, most, mostBulk int) ([]byte, *os.File, error) {
	var header [headerBytes]byte
	var file *os.File
	oob := make([]byte, unix.CmsgSpace(4))
	for at := 0; at < len(header); {
		n, oobn, _, _, err := c.unix.ReadMsgUnix(header[at:], oob)
		if n == 0 && err == nil {
			err = io.EOF
		}
		if err == nil && oobn > 0 && file == nil {
			file, err = received(oob[:oobn])
		}
		if err != nil {
			return nil, file, err
		}
		at += n
	}
	if (header[8] != 0) != (file != nil) {
		return nil, file, errors.New("worker: a descriptor is missing, or is one too many")
	}
	bulk, err := c.rest(header, into, most, mostBulk)
	return bulk, file, err
}

func received(oob []byte) (*os.File, error) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil || len(messages) != 1 {
		return nil, errors.New("worker: no descriptor where one is announced")
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return nil, errors.New("worker: not one descriptor")
	}
	return os.NewFile(uintptr(fds[0]), "received"), nil
}

func (c *Conn) rest(header [headerBytes]byte, into any, most, mostBulk int) ([]byte, error) {
	text, bulk := binary.BigEndian.Uint32(header[:]), binary.BigEndian.Uint32(header[4:])
	if int64(text) > int64(most) || int64(bulk) > int64(mostBulk) {
		return nil, fmt.Errorf("worker: a message of %d and %d bytes is over its limits", text, bulk)
	}
	frame := make([]byte, int(text)+int(bulk))
	if _, err := io.ReadFull(c.unix, frame); err != nil {
		return nil, err
	}
	if err := json.Unmarshal(frame[:text], into); err != nil {
		return nil, fmt.Errorf("worker: %w", err)
	}
	return frame[text:], nil
}
