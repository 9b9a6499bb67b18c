package host_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"math/big"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
)

// A part is a handshake, from the plugin's point of view.
type part func()

// play plays one part in a process of its own. A part that is no handshake answers calls.
func play(name string) {
	if p, ok := handshakes()[name]; ok {
		p()
		return
	}
	serve(name)
}

func handshakes() map[string]part {
	// line prints a handshake in which fields were replaced, and stays.
	line := func(edits map[int]string) part {
		return func() {
			fields := []string{"1", "1", "unix", "/run/plugin/s", "grpc", certificate()}
			for _, i := range []int{0, 1, 2, 3, 4, 5, 6, 7} {
				edit, ok := edits[i]
				switch {
				case ok && i < len(fields):
					fields[i] = edit
				case ok:
					fields = append(fields, edit)
				}
			}
			fields = slices.DeleteFunc(fields, func(s string) bool { return s == "DELETE" })
			listen("s")
			fmt.Println(strings.Join(fields, "|"))
			hang()
		}
	}
	address := func(a string) part { return line(map[int]string{3: a}) }
	// at announces /run/plugin/s after it put something there.
	at := func(put func(name string)) part {
		return func() {
			put(os.Getenv("PLUGIN_UNIX_SOCKET_DIR") + "/s")
			fmt.Println("1|1|unix|/run/plugin/s|grpc|" + certificate())
			hang()
		}
	}
	return map[string]part{
		"ends":             func() {},
		"never answers":    hang,
		"half a line":      func() { fmt.Print("1|1|unix|" + secret); hang() },
		"half a line, end": func() { fmt.Print("1|1|unix|" + secret) },
		"no handshake":     func() { fmt.Println(secret); hang() },
		"a long line":      func() { fmt.Println(strings.Repeat(secret+" ", 1000)); hang() },
		"megabytes":        func() { flood(os.Stdout, secret, 8<<20); hang() },
		"not printable":    address("/run/plugin/s\x1b[2J"),
		"NUL in a name":    address("/run/plugin/s\x00"),
		"other core":       line(map[int]string{0: "2"}),
		"core in words":    line(map[int]string{0: secret}),
		"other protocol":   line(map[int]string{1: "2"}),
		"minus protocol":   line(map[int]string{1: "-1"}),
		"words protocol":   line(map[int]string{1: secret}),
		"net/rpc":          line(map[int]string{4: "netrpc"}),
		"no transport":     line(map[int]string{4: "DELETE", 5: "DELETE"}),
		"no certificate":   line(map[int]string{5: "DELETE"}),
		"empty cert":       line(map[int]string{5: ""}),
		"short cert":       line(map[int]string{5: strings.Repeat("A", 50)}),
		"no base64":        line(map[int]string{5: strings.Repeat("?"+secret, 10)}),
		"no DER":           line(map[int]string{5: base64.RawStdEncoding.EncodeToString([]byte(strings.Repeat(secret, 10)))}),
		"eight parts":      line(map[int]string{6: "false", 7: secret}),
		"tcp":              line(map[int]string{2: "tcp", 3: "127.0.0.1:1"}),
		"unixgram":         line(map[int]string{2: "unixgram"}),
		"outside":          address("/run/" + secret),
		"climbing":         address("/run/plugin/../plugin/s"),
		"deeper":           address("/run/plugin/sub/s"),
		"the folder":       address("/run/plugin/"),
		"dot":              address("/run/plugin/."),
		"dot dot":          address("/run/plugin/.."),
		"relative":         address("s"),
		"abstract":         address("@s"),
		"long name":        address("/run/plugin/" + strings.Repeat("s", 256)),
		"nothing there":    address("/run/plugin/" + secret),
		"a link":           at(func(name string) { listen("real"); must(os.Symlink("real", name)) }),
		"a pipe":           at(func(name string) { must(unix.Mkfifo(name, 0o666)) }),
		"a file":           at(func(name string) { must(os.WriteFile(name, nil, 0o666)) }),
		"a folder":         at(func(name string) { must(os.Mkdir(name, 0o777)) }),

		// These pass the handshake and fail afterwards.
		"dies":       func() { listen("s"); fmt.Println("1|1|unix|/run/plugin/s|grpc|" + certificate()) },
		"mute":       line(nil),
		"no TLS":     func() { announce(nil) },
		"other cert": func() { _, other := pair(); announce(&other) },
	}
}

// announce serves gRPC, with a certificate that is not the one it announces, or with none.
func announce(cert *tls.Certificate) {
	var opts []grpc.ServerOption
	if cert != nil {
		opts = append(opts, grpc.Creds(credentials.NewServerTLSFromCert(cert)))
	}
	l := listen("s")
	fmt.Println("1|1|unix|/run/plugin/s|grpc|" + certificate())
	_ = grpc.NewServer(opts...).Serve(l)
}

func listen(name string) net.Listener {
	l, err := net.Listen("unix", os.Getenv("PLUGIN_UNIX_SOCKET_DIR")+"/"+name)
	must(err)
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	return l
}

func certificate() string {
	der, _ := pair()
	return base64.RawStdEncoding.EncodeToString(der)
}

func pair() ([]byte, tls.Certificate) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{"localhost"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	must(err)
	return der, tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// flood writes n bytes of a word over and over, or for ever if n is negative, or until nobody reads.
func flood(f *os.File, word string, n int) {
	page := []byte(strings.Repeat(word, 4096))
	for n != 0 {
		m := len(page)
		if n > 0 {
			m = min(n, m)
			n -= m
		}
		if _, err := f.Write(page[:m]); err != nil {
			return
		}
	}
}

// hang outlives every deadline of a test.
func hang() { time.Sleep(time.Hour) }

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(99)
	}
}
