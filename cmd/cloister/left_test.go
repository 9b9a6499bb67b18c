package main

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cloister-run/cloister/enclave/launch/nitro"
)

// fakeNitroCLI is a nitro-cli that has one enclave, until that is terminated; verb fails, if one is named.
func fakeNitroCLI(t *testing.T, verb string) (path string, left nitro.Left) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "nitro-cli")
	left = nitro.Left{Path: path, Name: "cloister-0123", ID: "i-abc-enc12"}
	script := `#!/bin/sh
test "$1" != "` + verb + `" || { echo "[ E11 ] Socket error." >&2; exit 1; }
case $1 in
describe-enclaves) test -e $0.gone && echo '[]' || echo '[{"EnclaveName":"` + left.Name + `","EnclaveID":"` + left.ID + `","ProcessID":99,"EnclaveCID":16}]' ;;
terminate-enclave) test "$3" = ` + left.ID + ` && touch $0.gone ;;
esac
`
	if err := os.WriteFile(path, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	return path, left
}

// TestAnEnclaveThatLostItsKeeperIsEnded: a keeper that is killed leaves a Nitro Enclave. The next stop or start ends it, or says
// that it goes on.
func TestAnEnclaveThatLostItsKeeperIsEnded(t *testing.T) {
	for name, row := range map[string]struct {
		fails   string
		withID  bool
		want    status
		says    string
		remains bool
	}{
		"by its ID":           {"", true, statusDone, "stopped   keeper-test", false},
		"by its name":         {"", false, statusDone, "stopped   keeper-test", false},
		"nitro-cli fails":     {"terminate-enclave", true, statusUnavailable, "the enclave i-abc-enc12, named cloister-0123, may be left", true},
		"nobody knows its ID": {"describe-enclaves", false, statusUnavailable, "an enclave named cloister-0123 may be left", true},
	} {
		t.Run(name, func(t *testing.T) {
			started := false
			k := newTestKeeper(t, backendNitro, func(context.Context) (kept, error) { started = true; return newPlayed(), nil })
			path, left := fakeNitroCLI(t, row.fails)
			if !row.withID {
				left.ID = ""
			}
			k.state = standing{Name: k.name, Backend: backendNitro, Keeper: processID{os.Getpid(), 1}, Boots: 1, Nitro: &left}
			if err := k.write(); err != nil {
				t.Fatal(err)
			}
			var out, errs strings.Builder
			if got := run(t.Context(), []string{"enclave", "list"}, &out, &errs); got != 0 || !strings.Contains(out.String(), "keeper-test left nitro") {
				t.Errorf("%d, %s%s", got, out.String(), errs.String())
			}
			if _, err := findStanding(k.name); !errors.Is(err, errEnded) || !strings.Contains(asFailure(t.Context(), err).hint, "terminate-enclave") {
				t.Error(err)
			}
			got := run(t.Context(), []string{"enclave", "stop", k.name}, &out, &errs)
			_, ok := k.onRecord(t)
			_, gone := os.Stat(path + ".gone")
			if got != int(row.want) || !strings.Contains(out.String()+errs.String(), row.says) || ok != row.remains || (gone == nil) == row.remains {
				t.Errorf("%d, %s%s; on record: %v, gone: %v", got, out.String(), errs.String(), ok, gone == nil)
			}
			if !row.remains {
				_ = os.Remove(path + ".gone")
				if err := k.write(); err != nil {
					t.Fatal(err)
				}
			}
			ctx, cancel := context.WithCancel(t.Context())
			k.ready = func() error { cancel(); return nil }
			_, isLeft := errors.AsType[*nitro.LeftError](k.run(ctx))
			if _, ok = k.onRecord(t); isLeft != row.remains || started == row.remains || ok != row.remains {
				t.Errorf("a start says that it is left: %v, starts another: %v, and has it on record: %v", isLeft, started, ok)
			}
		})
	}
}

// TestWhoeverStopsAnEnclaveIsToldThatItGoesOn: "stopped" is said of an enclave that is.
func TestWhoeverStopsAnEnclaveIsToldThatItGoesOn(t *testing.T) {
	for name, row := range map[string]struct {
		leaves string // in the record's place
		want   status
		says   string
	}{
		"it goes on": {`s.Failure`, statusUnavailable, "the enclave i-1-enc2 may be left"},
		"it ended":   {"", statusDone, "stopped   keeper-test"},
	} {
		t.Run(name, func(t *testing.T) {
			k := newTestKeeper(t, backendNitro, nil)
			keeper := exec.Command("sh", "-c", `trap 'test -z "$2" || mv "$2" "$1"; test -n "$2" || rm "$1"; exit 0' TERM; echo; while :; do sleep 0.01; done`, "sh", k.file, "")
			k.state = standing{Name: k.name, Backend: backendNitro, Boots: 1, Started: now()}
			if row.leaves != "" {
				keeper.Args[len(keeper.Args)-1] = k.file + ".after"
			}
			out, err := keeper.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := keeper.Start(); err != nil {
				t.Fatal(err)
			}
			go func() { _ = keeper.Wait() }()
			_, _ = out.Read(make([]byte, 1)) // it is ready
			if k.state.Keeper, err = identify(keeper.Process.Pid); err != nil {
				t.Fatal(err)
			}
			k.state.Process = k.state.Keeper
			if err := k.write(); err != nil {
				t.Fatal(err)
			}
			k.state.Failure = &errorReport{Status: statusUnavailable, Error: "the enclave i-1-enc2 may be left"}
			k.file += ".after"
			if err := k.write(); err != nil {
				t.Fatal(err)
			}
			var said, errs strings.Builder
			if got := run(t.Context(), []string{"enclave", "stop", k.name}, &said, &errs); got != int(row.want) || !strings.Contains(said.String()+errs.String(), row.says) {
				t.Errorf("%d, %s%s", got, said.String(), errs.String())
			}
		})
	}
}
