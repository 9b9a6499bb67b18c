package main

import (
	"context"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/cloister-run/cloister/enclave/devkit"
)

// home is the simulation's, of the tests of this binary.
func home(ts *testscript.TestScript) *devkit.Home {
	h, err := devkit.OpenHome(filepath.Join(ts.Getenv("XDG_STATE_HOME"), "cloister", "dev"))
	ts.Check(err)
	return h
}

// serveKMS is `kms`: the simulated KMS answers until the script ends, and cloister knows where.
func serveKMS(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 0 {
		ts.Fatalf("usage: kms")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	ctx, stop := context.WithCancel(context.Background())
	served, kms := make(chan error, 1), devkit.NewKMS(home(ts), slog.New(slog.DiscardHandler))
	go func() { served <- kms.Serve(ctx, l) }()
	ts.Defer(func() {
		stop()
		ts.Check(<-served)
	})
	ts.Setenv("AWS_ENDPOINT_URL_KMS", "http://"+l.Addr().String())
}

// becomeAccount is `account ID`: from now on cloister has the credentials of that account.
func becomeAccount(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: account ID")
	}
	a, err := home(ts).Account(args[0])
	ts.Check(err)
	ts.Setenv("AWS_ACCESS_KEY_ID", a.AccessKeyID)
	ts.Setenv("AWS_SECRET_ACCESS_KEY", a.SecretAccessKey)
}

// fill is `fill WORD FILE…`: WORD becomes what the last command printed.
func fill(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: fill WORD FILE…")
	}
	for _, name := range args[1:] {
		text := strings.ReplaceAll(ts.ReadFile(name), args[0], strings.TrimSpace(ts.ReadFile("stdout")))
		ts.Check(os.WriteFile(ts.MkAbs(name), []byte(text), 0o600))
	}
}

// flip is `flip FILE OUT AT`: OUT is FILE with a bit of the byte AT changed; AT counts from the end if
// it is negative.
func flip(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: flip FILE OUT AT")
	}
	at, err := strconv.Atoi(args[2])
	ts.Check(err)
	content := []byte(ts.ReadFile(args[0]))
	if at < 0 {
		at += len(content)
	}
	content[at] ^= 1
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), content, 0o600))
}

// cut is `cut FILE OUT BYTES`: OUT is FILE without all but its first BYTES, or without its last ones if
// that is negative.
func cut(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: cut FILE OUT BYTES")
	}
	n, err := strconv.Atoi(args[2])
	ts.Check(err)
	content := []byte(ts.ReadFile(args[0]))
	if n < 0 {
		n += len(content)
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), content[:n], 0o600))
}
