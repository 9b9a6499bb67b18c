package host

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"

	"github.com/cloister-run/cloister/plugins/executor"
	"github.com/cloister-run/cloister/plugins/proto"
)

const (
	// maxHandshake bounds the line that a plugin writes first. A certificate on P-521 makes
	// it about 900 bytes long.
	maxHandshake = 4 << 10
	// maxChatter is how much of a plugin's stdout is read and thrown away after that line;
	// then the pipe is closed. It is a courtesy to plugins that print, and no channel.
	maxChatter = 1 << 20
	// coreProtocol is go-plugin's own version (plugin.CoreProtocolVersion).
	coreProtocol = "1"
	// minCertificate is the length below which go-plugin takes a handshake's certificate for
	// something else, and would go on without pinning it (go-plugin client.go, Start).
	minCertificate = 51
)

// handshake is a plugin's stdout as go-plugin may see it: one line that was bounded and
// checked, and then the end. It exists because go-plugin puts what it reads into its errors
// and reads for ever.
type handshake struct {
	pipe *os.File

	mu    sync.Mutex
	line  *bytes.Reader
	cause error
}

// Read gives the handshake's line once it was checked, and io.EOF after it or without it.
// One goroutine of go-plugin reads.
func (h *handshake) Read(p []byte) (int, error) {
	h.mu.Lock()
	line := h.line
	h.mu.Unlock()
	if line == nil {
		raw, err := readLine(h.pipe)
		if err == nil {
			err = checkHandshake(raw)
		}
		h.mu.Lock()
		if err != nil {
			raw, h.cause = nil, err
		}
		line = bytes.NewReader(raw)
		h.line = line
		h.mu.Unlock()
		go h.discard()
	}
	return line.Read(p)
}

// Close is go-plugin's to call; the pipe is closed by discard.
func (h *handshake) Close() error { return nil }

// problem is what was wrong with the handshake; nil while nothing is known to be.
func (h *handshake) problem() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.cause
}

// discard ends when the plugin does, or when it talked too much.
func (h *handshake) discard() {
	defer h.pipe.Close()
	_, _ = io.CopyN(struct{ io.Writer }{io.Discard}, h.pipe, maxChatter)
}

// readLine reads up to the first newline, which it keeps.
func readLine(r io.Reader) ([]byte, error) {
	buf := make([]byte, maxHandshake)
	n := 0
	for n < len(buf) {
		m, err := r.Read(buf[n:])
		if i := bytes.IndexByte(buf[n:n+m], '\n'); i >= 0 {
			return buf[:n+i+1], nil
		}
		n += m
		if err != nil {
			return nil, fmt.Errorf("%w: it ended before its handshake", executor.ErrGone)
		}
	}
	return nil, fmt.Errorf("%w: its handshake is longer than %d bytes", executor.ErrGone, maxHandshake)
}

// checkHandshake checks the line "core|protocol|network|address|transport|certificate[|…]".
// The address is checked where it is opened, by sockets.
func checkHandshake(raw []byte) error {
	line := strings.TrimSuffix(string(raw), "\n")
	for _, c := range []byte(line) {
		if c < 0x20 || c > 0x7e {
			return breach("its handshake is not printable text")
		}
	}
	parts := strings.Split(line, "|")
	if len(parts) < 6 || len(parts) > 7 {
		return breach("its handshake has %d parts, not 6 or 7", len(parts))
	}
	if parts[0] != coreProtocol {
		return breach("its handshake is not version %s of go-plugin's", coreProtocol)
	}
	version, err := strconv.ParseUint(parts[1], 10, 16)
	switch {
	case err != nil:
		return breach("its protocol version is no number")
	case version != proto.Version:
		return breach("it speaks executor protocol %d, this enclave speaks %d", version, proto.Version)
	case parts[4] != "grpc":
		return breach("it does not speak gRPC")
	case len(parts[5]) < minCertificate:
		return breach("its handshake has no certificate")
	}
	return nil
}

// breach is executor.ErrGone with what the plugin did wrong, in words of the host's own.
func breach(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{executor.ErrGone}, args...)...)
}

var errNotStarted = errors.New("was not started")
