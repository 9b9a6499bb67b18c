package main

import (
	"crypto/rand"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const interruptJob = `version: 1
name: interrupted
application: {from: app, command: {entrypoint: main.py, args: ["${inputs.secret}", "${outputs.result}", "${outputs.folder}"], outputs: {result: r, folder: f/}}}
inputs: {secret: {from: secret}, big: {from: big}}
outputs: {result: {save_to: out/result}, folder: {save_to: out/folder}}
logs: {stdout: out/log}
policies: [{module: probe.wasm}]
limits: {disk: 64MiB, memory: 512MiB}
`

// The application copies the secret everywhere that it can, and then stays or ends.
const interruptApp = `import os, shutil, sys, time
secret = open(sys.argv[1]).read()
shutil.copy(sys.argv[1], sys.argv[2])
shutil.copy(sys.argv[1], "here")
os.makedirs(sys.argv[3] + "/d")
shutil.copy(sys.argv[1], sys.argv[3] + "/d/f")
print(secret, flush=True)
for place in ("/tmp/secret", "/dev/shm/secret"):
    try: open(place, "w").write(secret)
    except OSError: pass
if STAYS:
    if not os.fork():
        os.setsid()
        while True: time.sleep(3600)
    while True: time.sleep(3600)
`

// place is a folder with a job in it.
type place struct {
	dir, marker string
	since       time.Time
	before      map[string]string
}

// newPlace writes a job whose policy does as given, and whose application stays or ends.
func newPlace(t *testing.T, stays bool, big int64, policy ...string) *place {
	t.Helper()
	p := &place{dir: t.TempDir(), marker: rand.Text(), since: time.Now().Add(-time.Second)}
	app := strings.Replace(interruptApp, "STAYS", map[bool]string{true: "True", false: "False"}[stays], 1)
	for name, content := range map[string]string{
		"job.yaml": interruptJob, "app/main.py": app, "secret": p.marker, "big": "", "tmp/.keep": "",
	} {
		path := filepath.Join(p.dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Truncate(filepath.Join(p.dir, "big"), big); err != nil {
		t.Fatal(err)
	}
	consents := `admit={"allow":true,"channels":["outputs.result","outputs.folder","logs.stdout"]}`
	probe, err := newProbe(append([]string{consents}, policy...))
	if err != nil {
		t.Fatal(err)
	}
	if err := probe.pack(filepath.Join(p.dir, "probe.wasm")); err != nil {
		t.Fatal(err)
	}
	p.before = listTree(p.dir)
	return p
}

func (p *place) run(t *testing.T) *session {
	t.Helper()
	return onTerminal(t, p.dir, "run", "--enclave", "local", "--receipt", "receipt.json", "job.yaml")
}

// nothingLeft makes sure that nothing of the run is: no process, no file, no byte of the input.
func (p *place) nothingLeft(t *testing.T, started []process) {
	t.Helper()
	if len(started) == 0 {
		t.Error("no process was seen: the test looked at the wrong moment")
	}
	for _, one := range started {
		eventually(t, "a process of the enclave is gone", func() bool { return !one.alive() })
	}
	if after := listTree(p.dir); !maps.Equal(p.before, after) {
		t.Errorf("the folder was\n%v\nand is\n%v", p.before, after)
	}
	nothingHolds(t, p.marker, p.since, filepath.Join(p.dir, "secret"))
}

// TestI9 ends cloister at every point of a job, in every way: nothing is at any destination,
// no process is left, and what the job read is on no disk.
func TestI9(t *testing.T) {
	points := []struct {
		name, shows string
		stays       bool
		big         int64
		policy      string
	}{
		{name: "admission", shows: doing("admitting"), policy: "admit=loop"},
		{name: "upload", shows: doing("receiving"), stays: true, big: 768 << 20},
		{name: "ingress", shows: doing("ingress"), policy: "ingress=loop"},
		{name: "application", shows: doing("executing"), stays: true},
		{name: "egress", shows: doing("egress"), policy: "egress=loop"},
	}
	ways := []struct {
		name   string
		status int
		end    func(*testing.T, *session)
	}{
		{"Ctrl-C", 130, func(t *testing.T, s *session) { s.press(t, "\x03") }},
		{"SIGTERM", 130, func(t *testing.T, s *session) { _ = s.cmd.Process.Signal(unix.SIGTERM) }},
		{"SIGKILL", 137, func(t *testing.T, s *session) { _ = s.cmd.Process.Kill() }},
	}
	for _, point := range points {
		for _, way := range ways {
			if way.name == "SIGTERM" && point.name != "application" {
				continue // the same path as Ctrl-C from the first line on
			}
			t.Run(point.name+"/"+way.name, func(t *testing.T) {
				t.Parallel()
				policy := []string{}
				if point.policy != "" {
					policy = append(policy, point.policy)
				}
				p := newPlace(t, point.stays, point.big, policy...)
				s := p.run(t)
				s.await(t, point.shows)
				started := below(s.cmd.Process.Pid)
				way.end(t, s)
				if got := s.wait(t); got != way.status {
					t.Errorf("status %d, want %d", got, way.status)
				}
				if way.status == 130 && !strings.Contains(s.shown(), "cloister: error: cancelled\r\ncloister: hint: nothing was written") {
					t.Errorf("it does not say that it was cancelled:\n%q", s.shown())
				}
				if strings.Contains(s.shown(), doing("executing")) != (point.name == "application" || point.name == "egress") && point.name == "upload" {
					t.Error("the upload was over before it was interrupted")
				}
				p.nothingLeft(t, started)
			})
		}
	}
}

// TestSecondInterrupt: where the enclave does not answer any more, a second Ctrl-C ends the
// command at once, and the enclave with it.
func TestSecondInterrupt(t *testing.T) {
	t.Parallel()
	p := newPlace(t, true, 0)
	s := p.run(t)
	s.await(t, doing("executing"))
	started := below(s.cmd.Process.Pid)
	for _, one := range started {
		_ = unix.Kill(one.pid, unix.SIGSTOP)
	}
	begun := time.Now()
	s.press(t, "\x03")
	for len(s.ended) == 0 && time.Since(begun) < patience {
		time.Sleep(20 * time.Millisecond) // two at once count as one
		_, _ = s.master.WriteString("\x03")
	}
	if got := s.wait(t); got != 130 {
		t.Errorf("status %d, want 130", got)
	}
	if took := time.Since(begun); took > 8*time.Second {
		t.Errorf("it took %v: the first Ctrl-C waits for the enclave that long", took)
	}
	p.nothingLeft(t, started)
}

// TestProgress: on a terminal every phase is shown while it lasts, and nothing of it stays.
func TestProgress(t *testing.T) {
	t.Parallel()
	p := newPlace(t, false, 0)
	s := p.run(t)
	if got := s.wait(t); got != 0 {
		t.Fatalf("status %d:\n%s", got, s.shown())
	}
	s.await(t, "released  outputs.result, 26 bytes")
	if !strings.Contains(s.shown(), "SIMULATED") {
		t.Errorf("it does not say SIMULATED:\n%q", s.shown())
	}
}
