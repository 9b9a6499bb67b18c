// Command guest is the first process of a machine that tests boot: it answers commands over AF_VSOCK, a
// connection and a line for each.
package main

import (
	"bufio"
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cloister-run/cloister/enclave/attest"
	"github.com/cloister-run/cloister/enclave/image"
)

func main() {
	err := run()
	fmt.Println("guest:", err)
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
}

func run() error {
	for _, fs := range []string{"proc", "sysfs", "devtmpfs"} {
		dir := map[string]string{"proc": "/proc", "sysfs": "/sys", "devtmpfs": "/dev"}[fs]
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(fs, dir, fs, 0, ""); err != nil {
			return fmt.Errorf("mounting %s: %w", dir, err)
		}
	}
	modules, err := filepath.Glob(image.Dir + "/" + image.Modules + "/*.ko")
	if err != nil || len(modules) == 0 {
		return fmt.Errorf("no modules: %w", err)
	}
	for _, m := range modules {
		f, err := os.Open(m)
		if err != nil {
			return err
		}
		if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil {
			return fmt.Errorf("%s: %w", m, err)
		}
	}
	if second, err := os.ReadFile("/second"); err != nil || string(second) != "second ramdisk" {
		return fmt.Errorf("the second ramdisk: %q, %w", second, err)
	}
	l, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM, 0)
	if err != nil {
		return err
	}
	if err := unix.Bind(l, &unix.SockaddrVM{CID: unix.VMADDR_CID_ANY, Port: image.APIPort}); err != nil {
		return err
	}
	if err := unix.Listen(l, 128); err != nil {
		return err
	}
	if err := beat(); err != nil {
		return fmt.Errorf("heartbeat: %w", err)
	}
	for {
		fd, _, err := unix.Accept(l)
		if err != nil {
			return err
		}
		go func() {
			c := stream(fd)
			defer c.Close()
			if err := serve(c); err != nil {
				fmt.Println("guest: serving:", err)
			}
		}()
	}
}

// stream is a blocking socket.
type stream int

func (s stream) Read(p []byte) (int, error) {
	n, err := unix.Read(int(s), p)
	if n == 0 && err == nil && len(p) > 0 {
		return 0, io.EOF
	}
	return max(0, n), err
}

func (s stream) Write(p []byte) (n int, err error) {
	for n < len(p) && err == nil {
		var k int
		k, err = unix.Write(int(s), p[n:])
		n += max(0, k)
	}
	return n, err
}

func (s stream) CloseWrite() error { return unix.Shutdown(int(s), unix.SHUT_WR) }

// Close also wakes who reads: a blocking read would keep the socket open.
func (s stream) Close() error {
	_ = unix.Shutdown(int(s), unix.SHUT_RDWR)
	return unix.Close(int(s))
}

func dial(cid, port uint32) (stream, error) {
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM, 0)
	if err != nil {
		return 0, err
	}
	if err := unix.Connect(fd, &unix.SockaddrVM{CID: cid, Port: port}); err != nil {
		_ = unix.Close(fd)
		return 0, err
	}
	return stream(fd), nil
}

func beat() error {
	c, err := dial(image.ParentCID, image.HeartbeatPort)
	if err != nil {
		return err
	}
	defer c.Close()
	b := []byte{image.Heartbeat}
	if _, err := c.Write(b); err != nil {
		return err
	}
	_, err = io.ReadFull(c, b)
	return err
}

func serve(c stream) error {
	r := bufio.NewReader(c)
	line, err := r.ReadString('\n')
	if err == io.EOF {
		return nil // who only looked whether somebody is there
	}
	if err != nil {
		return err
	}
	words := strings.Fields(line)
	switch words[0] {
	case "echo":
		if _, err := io.CopyBuffer(struct{ io.Writer }{c}, struct{ io.Reader }{r}, make([]byte, 1<<16)); err != nil {
			return err
		}
		return c.CloseWrite()
	case "file":
		data, err := os.ReadFile(words[1])
		if err != nil {
			return err
		}
		_, err = c.Write(data)
		return err
	case "attest":
		return document(c, words[1])
	case "dial":
		return relay(c, r, words[1], words[2])
	case "exit":
		return unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	}
	return fmt.Errorf("command %q", line)
}

func document(c stream, nonce string) error {
	raw, err := hex.DecodeString(nonce)
	if err != nil {
		return err
	}
	device, err := attest.OpenDevice()
	if err != nil {
		return err
	}
	defer device.Close()
	d, err := device.Attest(context.Background(), attest.Request{Nonce: raw})
	if err != nil {
		return err
	}
	_, err = c.Write(d)
	return err
}

// relay says whether somebody answers at an address of the parent, then carries bytes.
func relay(c stream, r *bufio.Reader, cid, port string) error {
	host, err := strconv.Atoi(cid)
	if err != nil {
		return err
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		return err
	}
	far, err := dial(uint32(host), uint32(n))
	if _, err := fmt.Fprintln(c, err); err != nil {
		return err
	}
	if err != nil {
		return nil //nolint:nilerr // it was said
	}
	defer far.Close()
	go func() {
		_, _ = io.Copy(struct{ io.Writer }{far}, struct{ io.Reader }{r})
		_ = far.CloseWrite()
	}()
	_, err = io.Copy(struct{ io.Writer }{c}, struct{ io.Reader }{far})
	return err
}
