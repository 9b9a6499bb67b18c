package devkit_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"golang.org/x/sys/unix"

	"github.com/cloister-run/cloister/enclave/devkit"
)

// TestDefaultHome: where state belongs.
func TestDefaultHome(t *testing.T) {
	t.Setenv("HOME", "/home/somebody")
	for state, want := range map[string]string{
		"/var/state": "/var/state/cloister/dev", "": "/home/somebody/.local/state/cloister/dev", "relative": "/home/somebody/.local/state/cloister/dev",
	} {
		t.Setenv("XDG_STATE_HOME", state)
		if got, err := devkit.DefaultHome(); err != nil || got != want {
			t.Errorf("%q: %q, %v", state, got, err)
		}
	}
	t.Setenv("XDG_STATE_HOME", "")
	t.Setenv("HOME", "")
	if got, err := devkit.DefaultHome(); err == nil {
		t.Errorf("no home: %q", got)
	}
}

// TestFirstStartsAgree: on one root and one secret for each account.
func TestFirstStartsAgree(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	var group sync.WaitGroup
	roots, secrets := make([]string, 8), make([]string, 8)
	for i := range roots {
		group.Go(func() {
			home, err := devkit.OpenHome(dir)
			if err != nil {
				t.Error(err)
				return
			}
			account, err := home.Account(owner)
			if err != nil {
				t.Error(err)
			}
			roots[i], secrets[i] = string(home.CA().PEM()), account.AccessKeyID+account.SecretAccessKey
		})
	}
	group.Wait()
	for i := range roots {
		if roots[i] != roots[0] || secrets[i] != secrets[0] || secrets[i] == "" {
			t.Errorf("%d: another root or secret", i)
		}
	}
}

// TestNoEditIsLost: of two that change one key at once, in two processes as far as files can tell.
func TestNoEditIsLost(t *testing.T) {
	w := newWorld(t)
	arn := w.create(administers())
	other, err := devkit.OpenHome(w.home.Dir())
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(devkit.NewKMS(other, slog.New(slog.DiscardHandler)))
	defer server.Close()
	there := w.client(owner, func(o *kms.Options) { o.BaseEndpoint = &server.URL })
	var group sync.WaitGroup
	last := ""
	group.Go(func() {
		for i := range 30 {
			last = administers(fmt.Sprintf(`{"Sid":"%d","Effect":"Deny","Principal":"*","Action":"kms:Decrypt","Resource":"*"}`, i))
			if _, err := w.client(owner).PutKeyPolicy(context.Background(), &kms.PutKeyPolicyInput{KeyId: &arn, Policy: &last}); err != nil {
				t.Error(err)
			}
		}
	})
	group.Go(func() {
		for range 15 {
			_, enabling := there.EnableKey(context.Background(), &kms.EnableKeyInput{KeyId: &arn})
			_, disabling := there.DisableKey(context.Background(), &kms.DisableKeyInput{KeyId: &arn})
			if err := errors.Join(enabling, disabling); err != nil {
				t.Error(err)
			}
			out, err := there.DescribeKey(context.Background(), &kms.DescribeKeyInput{KeyId: &arn})
			if err != nil || out.KeyMetadata.Enabled {
				t.Errorf("enabled again: %v", err)
			}
		}
	})
	group.Wait()
	out, err := there.GetKeyPolicy(t.Context(), &kms.GetKeyPolicyInput{KeyId: &arn})
	if err != nil || *out.Policy != last {
		t.Errorf("another policy: %v", err)
	}
}

// TestAnEditWaits: for who holds the lock of the home.
func TestAnEditWaits(t *testing.T) {
	w := newWorld(t)
	arn, client := w.create(administers()), w.client(owner)
	file, err := os.OpenFile(filepath.Join(w.home.Dir(), devkit.LockFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() {
		_, err := client.DisableKey(context.Background(), &kms.DisableKeyInput{KeyId: &arn})
		done <- err
	}()
	select {
	case err := <-done:
		t.Fatalf("it did not wait: %v", err)
	case <-time.After(100 * time.Millisecond):
	}
	if err := errors.Join(unix.Flock(int(file.Fd()), unix.LOCK_UN), <-done); err != nil {
		t.Error(err)
	}
}

// TestCreateIsFirst: who comes second changes nothing, and leaves nothing behind.
func TestCreateIsFirst(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	first, second := devkit.Create(path, []byte("first")), devkit.Create(path, []byte("second"))
	data, err := os.ReadFile(path)
	if first != nil || !errors.Is(second, fs.ErrExist) || err != nil || string(data) != "first" {
		t.Errorf("%v, %v: %q", first, second, data)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("%v: %v", entries, err)
	}
}

// TestAnAccount: its parts, the same at every use.
func TestAnAccount(t *testing.T) {
	home := openHome(t)
	for _, id := range []string{owner, stranger, "000000000001", "999999999999"} {
		a, err := home.Account(id)
		if err != nil {
			t.Fatal(err)
		}
		again, err := home.Account(id)
		if err != nil || again != a {
			t.Errorf("%s: not the same again: %v", id, err)
		}
		if a.ID != id || a.ARN != "arn:cloister-dev:iam::"+id+":root" || !regexp.MustCompile(`^AKIA[A-Z2-7]{16}$`).MatchString(a.AccessKeyID) ||
			!regexp.MustCompile(`^[A-Za-z0-9+/]{40}$`).MatchString(a.SecretAccessKey) {
			t.Errorf("%s: %s, %q", id, a.ARN, a.AccessKeyID)
		}
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%d"} {
			if text := fmt.Sprintf(verb, a); strings.Contains(text, a.SecretAccessKey) {
				t.Errorf("%s shows the secret", verb)
			}
		}
		var text strings.Builder
		slog.New(slog.NewTextHandler(&text, nil)).Info("x", "account", a)
		if strings.Contains(text.String(), a.SecretAccessKey) {
			t.Error("a log shows the secret")
		}
	}
	for _, id := range []string{"", "1", "11112222333a", "1111222233334", "../111122223", "１１１１２２２２３３３３"} {
		if _, err := home.Account(id); err == nil {
			t.Errorf("%q is an account", id)
		}
	}
}

// TestModes: nobody else can look into a home, and one in which somebody can is refused.
func TestModes(t *testing.T) {
	w := newWorld(t)
	w.create(administers())
	dir := w.home.Dir()
	files := 0
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		want := fs.FileMode(0o600)
		if entry.IsDir() {
			want = 0o700
		} else {
			files++
		}
		if info.Mode().Perm() != want {
			t.Errorf("%s: %s", path, info.Mode())
		}
		return nil
	})
	if err != nil || files != 3 {
		t.Errorf("%d files: %v", files, err)
	}
	for _, folder := range []string{dir, filepath.Join(dir, "keys"), filepath.Join(dir, "accounts")} {
		if err := os.Chmod(folder, 0o750); err != nil {
			t.Fatal(err)
		}
		if home, err := devkit.OpenHome(dir); err == nil || home != nil || !strings.Contains(err.Error(), "chmod 700") {
			t.Errorf("%s: %v", folder, err)
		}
		if err := os.Chmod(folder, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(dir, "accounts", owner+".json")
	if err := os.Chmod(file, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := w.home.Account(owner); err == nil {
		t.Error("an account that others can read")
	}
}

// TestSpoiltFiles: are refused, left as they are, and never quoted.
func TestSpoiltFiles(t *testing.T) {
	w := newWorld(t)
	arn := w.create(administers())
	client, a := w.client(owner), w.account(owner)
	account, key := filepath.Join(w.home.Dir(), "accounts", owner+".json"), filepath.Join(w.home.Dir(), "keys", arn[len(arn)-36:]+".json")
	good := map[string][]byte{}
	for _, path := range []string{account, key} {
		data, err := os.ReadFile(path)
		if err != nil || !json.Valid(data) {
			t.Fatal(path, err)
		}
		good[path] = data
	}
	for name, spoil := range map[string]func([]byte) []byte{
		"empty":     func([]byte) []byte { return nil },
		"cut":       func(data []byte) []byte { return data[:len(data)-2] },
		"of others": func(data []byte) []byte { return []byte(strings.ReplaceAll(string(data), owner, stranger)) },
		"huge":      func(data []byte) []byte { return append(data, make([]byte, 256<<10)...) },
	} {
		if err := os.WriteFile(account, spoil(good[account]), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := w.home.Account(owner); err == nil || strings.Contains(err.Error(), a.SecretAccessKey) {
			t.Errorf("account %s: %v", name, err)
		}
		if err := os.WriteFile(account, good[account], 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(key, spoil(good[key]), 0o600); err != nil {
			t.Fatal(err)
		}
		want := "KMSInternalException"
		if name == "of others" {
			want = "NotFoundException"
		}
		if _, err := client.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: &arn}); code(t, err) != want {
			t.Errorf("key %s: %v", name, err)
		}
		if err := os.WriteFile(key, good[key], 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := client.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: &arn}); err != nil {
		t.Error(err)
	}
}
