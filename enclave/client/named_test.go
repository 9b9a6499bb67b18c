package client_test

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/cloister-run/cloister/enclave/client"
)

// TestReadBounded: a file that is too large costs no more than one that is not.
func TestReadBounded(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "small"), "0123456789")
	if data, err := client.ReadBounded(filepath.Join(dir, "small"), 10); err != nil || string(data) != "0123456789" {
		t.Errorf("%q, %v", data, err)
	}
	if _, err := client.ReadBounded(filepath.Join(dir, "small"), 9); err == nil || err.Error() != "is over 9 bytes" {
		t.Errorf("a byte more: %v", err)
	}
	if _, err := client.ReadBounded(dir, 10); err == nil || err.Error() != "is no regular file" {
		t.Errorf("a folder: %v", err)
	}
	if _, err := client.ReadBounded(filepath.Join(dir, "none"), 10); !errors.Is(err, os.ErrNotExist) || strings.Contains(err.Error(), dir) {
		t.Errorf("none: %v", err)
	}
	large := filepath.Join(dir, "large")
	write(t, large, "")
	if err := os.Truncate(large, 64<<20); err != nil {
		t.Fatal(err)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := client.ReadBounded(large, 10)
	runtime.ReadMemStats(&after)
	if took := after.TotalAlloc - before.TotalAlloc; err == nil || took > 8<<20 {
		t.Errorf("%v, after %d bytes", err, took)
	}
}
