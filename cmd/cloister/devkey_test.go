package main

import (
	"context"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cloister-run/cloister/enclave/devkit"
)

// simulated serves a KMS to this process until the test ends, and gives its home.
func simulated(t *testing.T) *devkit.Home {
	t.Helper()
	home, err := devkit.OpenHome(filepath.Join(t.TempDir(), "dev"))
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("AWS_ENDPOINT_URL_KMS", "http://"+listener.Addr().String())
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() {
		served <- devkit.NewKMS(home, slog.New(slog.NewTextHandler(io.Discard, nil))).Serve(ctx, listener)
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return home
}

// become is who this process is to the KMS.
func become(t *testing.T, home *devkit.Home, id string) {
	t.Helper()
	account, err := home.Account(id)
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("AWS_ACCESS_KEY_ID", account.AccessKeyID)
	t.Setenv("AWS_SECRET_ACCESS_KEY", account.SecretAccessKey)
	t.Setenv("AWS_REGION", "local")
}

// TestAnOwnersFirstSeal: the policy that is printed is one that a key takes, its owner can seal
// under that key, and nobody else can.
func TestAnOwnersFirstSeal(t *testing.T) {
	v := newVendor(t)
	home := simulated(t)
	become(t, home, "111122223333")
	pcr := strings.Repeat("a1", 48)
	status, policy, text := cloister(t, "key-policy", "print", "--partition", "cloister-dev", "--account", "111122223333",
		"--user", "444455556666", "--pcr0", pcr, "--pcr1", pcr, "--pcr2", pcr)
	if status != 0 {
		t.Fatalf("status %d: %s", status, text)
	}
	v.write(t, "policy.json", policy)
	status, key, text := cloister(t, "dev", "key", "--policy", v.path("policy.json"))
	if status != 0 || !strings.HasPrefix(key, "arn:cloister-dev:kms:local:111122223333:key/") || strings.Count(key, "\n") != 1 {
		t.Fatalf("status %d: %q %s", status, key, text)
	}
	v.write(t, "bundle.yaml", strings.Replace(vendorBundle, sealKey, strings.TrimSpace(key), 1))
	if status, _, text := cloister(t, "seal", v.path("bundle.yaml"), "-o", v.path("mine.sealed")); status != 0 {
		t.Fatalf("status %d: %s", status, text)
	}
	if status, out, text := cloister(t, "inspect", v.path("mine.sealed")); status != 0 || !strings.Contains(out, strings.TrimSpace(key)) {
		t.Errorf("status %d: %s%s", status, out, text)
	}
	become(t, home, "444455556666")
	status, _, text = cloister(t, "seal", v.path("bundle.yaml"), "-o", v.path("theirs.sealed"))
	if _, err := os.Lstat(v.path("theirs.sealed")); status != 4 || !strings.Contains(text, "AccessDeniedException") || !os.IsNotExist(err) {
		t.Errorf("a stranger: status %d, %v: %s", status, err, text)
	}
}

// TestDevKeyFailures: each says what to do.
func TestDevKeyFailures(t *testing.T) {
	home := simulated(t)
	become(t, home, "111122223333")
	dir := t.TempDir()
	write := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	malformed := write("malformed.json", `{"Version": "2012-10-17"}`)
	for name, row := range map[string]struct {
		args   []string
		env    string
		status int
		says   string
	}{
		"no policy":         {nil, "", 2, "no key policy is named"},
		"no such file":      {[]string{"--policy", filepath.Join(dir, "none")}, "", 2, "no such file"},
		"a policy too long": {[]string{"--policy", write("long.json", strings.Repeat(" ", 40_000))}, "", 2, "is over"},
		"no policy of KMS":  {[]string{"--policy", malformed}, "", 2, "cloister key-policy print"},
		"nobody there":      {[]string{"--policy", malformed}, "http://127.0.0.1:1", 5, "cloister dev kms"},
		"no endpoint":       {[]string{"--policy", malformed}, "ftp://x", 2, "AWS_ENDPOINT_URL_KMS"},
	} {
		t.Run(name, func(t *testing.T) {
			if row.env != "" {
				t.Setenv("AWS_ENDPOINT_URL_KMS", row.env)
			}
			status, out, text := cloister(t, append([]string{"dev", "key"}, row.args...)...)
			if status != row.status || out != "" || !strings.Contains(text, row.says) || !strings.Contains(text, "cloister: hint: ") {
				t.Errorf("status %d: %s%s", status, out, text)
			}
		})
	}
}
