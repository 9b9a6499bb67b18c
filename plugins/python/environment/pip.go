package environment

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// maxSaid bounds what is kept of pip's messages.
const maxSaid = 64 << 10

// wheelsDir is where fetch puts wheels.
const wheelsDir = "wheels"

// fetch has pip choose and bring the wheels of a lock, of which it reads what was understood here and nothing
// else. into is an empty folder.
func fetch(ctx context.Context, spec Spec, lines []string, into string) error {
	lock := filepath.Join(into, "requirements.txt")
	if err := os.WriteFile(lock, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		return fmt.Errorf("environment: %w", err)
	}
	args := []string{
		"-I", "-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check", "--no-cache-dir",
		// Every package needs a digest, and nothing is built: to build a source package is to run it.
		"--require-hashes", "--only-binary", ":all:",
		"--implementation", "cp", "--python-version", spec.Target.Python,
	}
	for _, tag := range spec.Target.platforms() {
		args = append(args, "--platform", tag)
	}
	if spec.Wheels != "" {
		args = append(args, "--no-index", "--find-links", spec.Wheels)
	}
	args = append(args, "--dest", filepath.Join(into, wheelsDir), "--requirement", lock)
	said := &tail{limit: maxSaid}
	cmd := exec.CommandContext(ctx, "python3", args...)
	cmd.Stdout, cmd.Stderr = said, said
	cmd.WaitDelay = time.Second // nothing that it leaves behind keeps us waiting
	err := cmd.Run()
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case cmd.ProcessState == nil:
		return &Error{fmt.Sprintf("pip cannot be started: %v", err), "install Python 3 with pip; on Debian: apt-get install python3-pip"}
	}
	return explain(said.String())
}

// platforms are the wheel platforms that run on a target (PEP 600), newest first, with the names that
// three of them had before.
func (t Target) platforms() []string {
	arch := map[string]string{"amd64": "x86_64", "arm64": "aarch64"}[t.Arch]
	minor, _ := strconv.Atoi(strings.TrimPrefix(t.Glibc, "2.")) // checked before
	old := map[int]string{5: "manylinux1_", 12: "manylinux2010_", 17: "manylinux2014_"}
	var tags []string
	for ; minor >= 5; minor-- {
		tags = append(tags, fmt.Sprintf("manylinux_2_%d_%s", minor, arch))
		if name, ok := old[minor]; ok {
			tags = append(tags, name+arch)
		}
	}
	return tags
}

// explain finds the cure for what pip complains of.
func explain(said string) error {
	e := &Error{Reason: "pip: " + lastErrors(said), Hint: "run pip download by hand to see more"}
	for _, known := range []struct{ said, hint string }{
		{"DO NOT MATCH THE HASHES", "a wheel is not the one that was locked; find out who changed it before you lock it again"},
		{"versions pinned with ==", "pin every package, dependencies too: uv pip compile --generate-hashes requirements.in"},
		{"No matching distribution found", "there is no wheel of it for this version of Python and this platform, and nothing is built from source; choose a version that has one, or raise --glibc"},
		{"No module named pip", "install pip; on Debian: apt-get install python3-pip"},
		{"Connection", "the package index cannot be reached; build from wheels that you have: --wheels DIR"},
		{"No space left on device", "no room is left: make some where the environment is built, and in the folder for temporary files, TMPDIR, where pip unpacks"},
		{"No such file or directory", "name a requirements file and a folder that exist"},
	} {
		if strings.Contains(said, known.said) {
			e.Hint = known.hint
			break
		}
	}
	return e
}

// lastErrors is what pip calls an error, or its last line.
func lastErrors(said string) string {
	var found []string
	lines := strings.Split(strings.TrimSpace(said), "\n")
	for _, line := range lines {
		if text, ok := strings.CutPrefix(line, "ERROR: "); ok {
			found = append(found, text)
		}
	}
	if len(found) == 0 {
		found = lines[len(lines)-1:]
	}
	return strings.Join(found, "\n")
}

// tail keeps the end of what is written.
type tail struct {
	kept  bytes.Buffer
	limit int
}

func (t *tail) Write(p []byte) (int, error) {
	t.kept.Write(p)
	if over := t.kept.Len() - t.limit; over > 0 {
		t.kept.Next(over)
	}
	return len(p), nil
}

func (t *tail) String() string { return t.kept.String() }
