package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"filippo.io/age"
	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"

	"github.com/cloister-run/cloister/enclave/image/build/buildtest"
)

// TestScripts runs what a user does and compares what a user sees. Each script says in its
// first line what it proves.
func TestScripts(t *testing.T) {
	found, err := filepath.Glob(filepath.Join(scripts(), "*.txtar"))
	if err != nil || len(found) == 0 {
		t.Fatalf("no scripts in %s: %v", scripts(), err)
	}
	for _, name := range found {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.HasPrefix(text, []byte("# ")) {
			t.Errorf("%s does not begin with what it proves", name)
		}
	}
	testscript.Run(t, testscript.Params{
		Dir: scripts(), UpdateScripts: os.Getenv("UPDATE_SCRIPTS") != "", RequireUniqueNames: true, RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("XDG_STATE_HOME", os.Getenv("XDG_STATE_HOME"))
			if filepath.Base(env.WorkDir) == "script-jobs" { // it starts one that stays, and may fail before it stops it
				env.Defer(func() { _ = exec.Command("cloister", "enclave", "stop", "jobs-script").Run() })
			}
			return nil
		},
		Condition: func(name string) (bool, error) {
			switch name {
			case "root":
				return os.Geteuid() == 0, nil
			case "pip": // CI has it, or fails
				return os.Getenv("CI") != "" || exec.Command("python3", "-I", "-m", "pip", "--version").Run() == nil, nil
			case "race":
				return raceDetector, nil
			}
			return false, fmt.Errorf("unknown condition %q", name)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"status": exits, "policy": makePolicy, "bare": makeBare, "snapshot": snapshot, "unchanged": unchanged,
			"shape": shape, "fifo": makeFIFO, "sparse": makeSparse, "unseal": unseal, "installed": installed, "withid": withID,
			"kms": serveKMS, "account": becomeAccount, "fill": fill, "flip": flip, "cut": cut,
			"imageinputs": writeImageInputs,
		},
	})
}

// exits is `status N COMMAND…`: the command ends with status N.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: status N COMMAND…")
	}
	err := ts.Exec(args[1], args[2:]...)
	got := 0
	if err != nil {
		ended, ok := errors.AsType[*exec.ExitError](err)
		if !ok {
			ts.Fatalf("%v", err)
		}
		got = ended.ExitCode()
	}
	if strconv.Itoa(got) != args[0] {
		ts.Fatalf("status is %d, want %s", got, args[0])
	}
}

// makePolicy is `policy OUT [POINT=DOES…]`.
func makePolicy(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: policy OUT [POINT=DOES…]")
	}
	p, err := newProbe(args[1:])
	ts.Check(err)
	ts.Check(p.pack(ts.MkAbs(args[0])))
}

// makeBare is `bare OUT`: a module without a manifest.
func makeBare(ts *testscript.TestScript, _ bool, args []string) {
	p, err := newProbe(nil)
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), p.module(), 0o644))
}

// writeImageInputs is `imageinputs FOLDER`: a recipe of an enclave image, and all that it names.
func writeImageInputs(ts *testscript.TestScript, _ bool, args []string) {
	ts.Check(buildtest.Write(ts.MkAbs(args[0])))
}

func makeFIFO(ts *testscript.TestScript, _ bool, args []string) {
	ts.Check(unix.Mkfifo(ts.MkAbs(args[0]), 0o600))
}

// makeSparse is `sparse FILE BYTES`.
func makeSparse(ts *testscript.TestScript, _ bool, args []string) {
	size, err := strconv.ParseInt(args[1], 10, 64)
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), nil, 0o644))
	ts.Check(os.Truncate(ts.MkAbs(args[0]), size))
}

// installed is `installed`: the executors of the local enclave are in the folder executors, and what is in
// the folder probe can be executed.
func installed(ts *testscript.TestScript, _ bool, _ []string) {
	exe, err := exec.LookPath("cloister")
	ts.Check(err)
	ts.Check(os.Symlink(filepath.Join(filepath.Dir(exe), "enclave", "executors"), ts.MkAbs("executors")))
	probes, err := filepath.Glob(ts.MkAbs("probe/*"))
	ts.Check(err)
	for _, probe := range probes {
		ts.Check(os.Chmod(probe, 0o755))
	}
}

// withID is `withid status N COMMAND…`: status, with what the file id holds in the place of ID.
func withID(ts *testscript.TestScript, neg bool, args []string) {
	id := strings.TrimSpace(ts.ReadFile("id"))
	for i := range args {
		if args[i] == "ID" {
			args[i] = id
		}
	}
	exits(ts, neg, args[1:])
}

// unseal is `unseal FILE KEYS TO`: an age file is opened with the secret keys of a file.
func unseal(ts *testscript.TestScript, neg bool, args []string) {
	ids, err := age.ParseIdentities(strings.NewReader(ts.ReadFile(args[1])))
	ts.Check(err)
	r, err := age.Decrypt(strings.NewReader(ts.ReadFile(args[0])), ids...)
	if neg {
		if err == nil {
			ts.Fatalf("%s opens %s", args[1], args[0])
		}
		return
	}
	ts.Check(err)
	content, err := io.ReadAll(r)
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[2]), content, 0o644))
}

// snapshot is `snapshot`: it notes everything in the script's folder.
func snapshot(ts *testscript.TestScript, _ bool, _ []string) {
	listing, err := json.Marshal(listTree(ts.Getenv("WORK")))
	ts.Check(err)
	ts.Setenv("SNAPSHOT", string(listing))
}

// unchanged fails unless the script's folder is as at the last snapshot, but for the paths given.
func unchanged(ts *testscript.TestScript, neg bool, args []string) {
	before := map[string]string{}
	ts.Check(json.Unmarshal([]byte(ts.Getenv("SNAPSHOT")), &before))
	after := listTree(ts.Getenv("WORK"))
	var differences []string
	for path, what := range after {
		if before[path] != what && !slices.Contains(args, path) {
			differences = append(differences, fmt.Sprintf("%s: was %q, is %q", path, before[path], what))
		}
	}
	for path := range before {
		if _, ok := after[path]; !ok && !slices.Contains(args, path) {
			differences = append(differences, path+" is gone")
		}
	}
	slices.Sort(differences)
	if (len(differences) > 0) != neg {
		ts.Fatalf("%d differences:\n%s", len(differences), strings.Join(differences, "\n"))
	}
}

// listTree describes everything below dir.
func listTree(dir string) map[string]string {
	found := map[string]string{}
	_ = filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if path == dir {
			return nil
		}
		rel, _ := filepath.Rel(dir, path) // path is below dir
		what := "?"
		if err == nil {
			what = entry.Type().String()
		}
		if err == nil && entry.Type().IsRegular() {
			if info, err := entry.Info(); err == nil && info.Size() < 1<<20 {
				content, _ := os.ReadFile(path) // what cannot be read is described by its type
				what = fmt.Sprintf("%v %x", info.Mode(), sha256.Sum256(content))
			}
		}
		found[rel] = what
		return nil
	})
	return found
}

// shape is `shape FILE WANT`: the fields of a JSON document and their kinds are those in WANT.
func shape(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: shape FILE WANT")
	}
	dec := json.NewDecoder(strings.NewReader(ts.ReadFile(args[0])))
	var v any
	ts.Check(dec.Decode(&v))
	if dec.More() {
		ts.Fatalf("%s holds more than one document", args[0])
	}
	fields := map[string]bool{}
	walk(fields, "", v)
	var lines []string
	for field := range fields {
		lines = append(lines, field)
	}
	slices.Sort(lines)
	got := strings.Join(lines, "\n") + "\n"
	if want := ts.ReadFile(args[1]); got != want {
		ts.Fatalf("the shape of %s is:\n%s\nwant:\n%s", args[0], got, want)
	}
}

func walk(fields map[string]bool, at string, v any) {
	switch v := v.(type) {
	case map[string]any:
		for name, field := range v {
			walk(fields, strings.TrimPrefix(at+"."+name, "."), field)
		}
	case []any:
		for _, item := range v {
			walk(fields, at+"[]", item)
		}
		if len(v) == 0 {
			fields[at+"[] empty"] = true
		}
	case string:
		fields[at+" text"] = true
	case float64:
		fields[at+" number"] = true
	case bool:
		fields[at+" truth"] = true
	default:
		fields[at+" null"] = true
	}
}
