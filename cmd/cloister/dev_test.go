package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// develops runs `cloister dev` and gives its status and what it printed.
func develops(t *testing.T, args ...string) (int, string, string) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	status := run(t.Context(), append([]string{"dev"}, args...), &stdout, &stderr)
	return status, stdout.String(), stderr.String()
}

// TestDevAccount: lines for a shell, the same every time, and nothing else on standard output.
func TestDevAccount(t *testing.T) {
	home := filepath.Join(t.TempDir(), "dev")
	status, first, text := develops(t, "account", "111122223333", "--home", home)
	form := regexp.MustCompile(`^export AWS_ACCESS_KEY_ID=(AKIA[A-Z2-7]{16}) AWS_SECRET_ACCESS_KEY=([A-Za-z0-9+/]{40}) AWS_REGION=local AWS_DEFAULT_REGION=local\nunset AWS_SESSION_TOKEN\n$`)
	match := form.FindStringSubmatch(first)
	if status != 0 || match == nil || !strings.Contains(text, "SIMULATED") || strings.Contains(text, "AKIA") {
		t.Fatalf("status %d: %s%s", status, first, text)
	}
	if _, again, _ := develops(t, "account", "111122223333", "--home", home); again != first {
		t.Errorf("first %q, then %q", first, again)
	}
	if _, other, _ := develops(t, "account", "444455556666", "--home", home); other == first {
		t.Error("two accounts have the same credentials")
	}
	status, out, _ := develops(t, "account", "111122223333", "--home", home, "--region", "eu-west-2", "--json")
	var report map[string]any
	if err := json.Unmarshal([]byte(out), &report); err != nil || status != 0 || report["simulated"] != true || report["access_key_id"] != match[1] ||
		report["secret_access_key"] != match[2] || report["arn"] != "arn:cloister-dev:iam::111122223333:root" || report["region"] != "eu-west-2" {
		t.Errorf("status %d: %s", status, out)
	}
}

// TestDevAccountDefaultHome: where state belongs.
func TestDevAccountDefaultHome(t *testing.T) {
	state := t.TempDir()
	t.Setenv("XDG_STATE_HOME", state)
	if status, _, text := develops(t, "account", "111122223333"); status != 0 {
		t.Fatalf("status %d: %s", status, text)
	}
	if _, err := os.Stat(filepath.Join(state, "cloister", "dev", "accounts", "111122223333.json")); err != nil {
		t.Error(err)
	}
}

// TestDevKMS: it says where it listens, answers, writes a line for what it was asked, and ends well when
// it is interrupted.
func TestDevKMS(t *testing.T) {
	for name, row := range map[string]struct {
		args       []string
		form, line string
	}{
		"text": {nil, `^simulated KMS at (http://127\.0\.0\.1:[0-9]+)\nexport AWS_ENDPOINT_URL_KMS=http://127\.0\.0\.1:[0-9]+\n$`, "outcome=UnknownOperationException"},
		"json": {[]string{"--json"}, `"simulated": true,\s+"endpoint": "(http://127\.0\.0\.1:[0-9]+)"`, `"outcome":"UnknownOperationException"`},
	} {
		t.Run(name, func(t *testing.T) {
			home := filepath.Join(t.TempDir(), "dev")
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			read, write := io.Pipe()
			var stderr bytes.Buffer
			ended := make(chan int, 1)
			go func() {
				ended <- run(ctx, append([]string{"dev", "kms", "--listen", "127.0.0.1:0", "--home", home}, row.args...), write, &stderr)
				write.Close()
			}()
			said := ""
			lines := bufio.NewReader(read)
			for !strings.HasSuffix(said, "}\n") && strings.Count(said, "\n") < 2 || strings.HasPrefix(said, "{") && !strings.HasSuffix(said, "}\n") {
				line, err := lines.ReadString('\n')
				if said += line; err != nil {
					t.Fatalf("%q: %v: status %d: %s", said, err, <-ended, &stderr)
				}
			}
			match := regexp.MustCompile(row.form).FindStringSubmatch(said)
			if match == nil {
				t.Fatalf("it says %q", said)
			}
			answer, err := http.Post(match[1]+"/", "application/x-amz-json-1.1", strings.NewReader("{}"))
			if err != nil {
				t.Fatal(err)
			}
			answer.Body.Close()
			http.DefaultClient.CloseIdleConnections()
			cancel(errInterrupted)
			if status := <-ended; status != 0 {
				t.Errorf("status %d", status)
			}
			if answer.StatusCode != 400 || !strings.Contains(stderr.String(), row.line) || name == "text" && !strings.Contains(stderr.String(), "SIMULATED") {
				t.Errorf("status %d: %s", answer.StatusCode, &stderr)
			}
		})
	}
}

// TestDevFailures: each says what to do.
func TestDevFailures(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	home, open, file := filepath.Join(t.TempDir(), "dev"), t.TempDir(), filepath.Join(t.TempDir(), "file")
	if err := os.Chmod(open, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, row := range map[string]struct {
		status int
		args   []string
		says   string
	}{
		"the address is taken":    {5, []string{"kms", "--listen", taken.Addr().String(), "--home", home}, "--listen 127.0.0.1:0"},
		"what is no address":      {5, []string{"kms", "--listen", "nowhere", "--home", home}, "--listen nowhere"},
		"others may look into it": {2, []string{"kms", "--home", open}, "chmod 700"},
		"a home that is a file":   {2, []string{"account", "111122223333", "--home", file}, "not a directory"},
		"no account":              {2, []string{"account", "--home", home}, "0 accounts are named"},
		"what is no account":      {2, []string{"account", "me", "--home", home}, "12 digits"},
		"what is no region":       {2, []string{"account", "111122223333", "--region", "a b", "--home", home}, "is no region"},
		"an argument too many":    {2, []string{"kms", "x"}, "takes no arguments"},
		"no such command":         {2, []string{"kmss"}, "cloister dev --help"},
	} {
		t.Run(name, func(t *testing.T) {
			status, out, text := develops(t, row.args...)
			if status != row.status || !strings.Contains(text, row.says) || out != "" {
				t.Errorf("status %d: %s%s", status, out, text)
			}
		})
	}
}
