package main

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/cloister-run/cloister/enclave/launch/launchtest"
)

// page is a page of the documentation: files to make, and sessions to type.
type page struct {
	files    map[string]string
	commands []typed
}

// typed is one command of a session, and what the page says that it prints.
type typed struct{ command, prints string }

// fence begins a block: its language, and the file that it is to be.
var fence = regexp.MustCompile("(?ms)^```([a-z]+)( [^\n]+)?\n(.*?)^```$")

func readPage(t *testing.T, text string) page {
	t.Helper()
	p := page{files: map[string]string{}}
	for _, block := range fence.FindAllStringSubmatch(text, -1) {
		language, file, content := block[1], strings.TrimSpace(block[2]), block[3]
		switch {
		case file != "":
			p.files[file] = content
		case language == "console":
			for line := range strings.Lines(content) {
				if command, ok := strings.CutPrefix(line, "$ "); ok {
					p.commands = append(p.commands, typed{command: strings.TrimSpace(command)})
					continue
				}
				p.commands[len(p.commands)-1].prints += line
			}
		}
	}
	if len(p.files) == 0 || len(p.commands) == 0 {
		t.Fatal("the page has no files or no sessions")
	}
	return p
}

// script is the sessions as one of bash. What starts in the background is waited for at its address.
func (p page) script(port string) string {
	var b strings.Builder
	b.WriteString("exec 2>&1\ntrap 'kill $(jobs -p)' EXIT\n")
	for i, c := range p.commands {
		fmt.Fprintf(&b, "printf '\\n@%d\\n'\n%s\n", i, c.command)
		if strings.HasSuffix(c.command, "&") {
			fmt.Fprintf(&b, "until (exec 3<>/dev/tcp/127.0.0.1/%s) 2>/dev/null; do kill -0 $! || exit 9; done\n", port)
		}
	}
	return b.String()
}

// agrees reports whether a command printed what the page says: a line of "…" stands for any lines, "…"
// in a line for anything.
func (c typed) agrees(printed string) bool {
	pattern := regexp.QuoteMeta(c.prints)
	pattern = regexp.MustCompile(`(?m)^…\n`).ReplaceAllString(pattern, `(?:.*\n)*?`)
	pattern = strings.ReplaceAll(pattern, "…", `[^\n]*`)
	return regexp.MustCompile(`\A` + pattern + `\z`).MatchString(printed)
}

// TestVendorFirstHour types docs/vendor-first-hour.md as it is printed, but for the port.
func TestVendorFirstHour(t *testing.T) {
	if launchtest.Handed() != "" {
		t.Skip("the documentation is not handed over to an ordinary user; `.ci/run` runs this test as one")
	}
	if raceDetector {
		t.Skip("it runs the built commands, which no race detector looks into")
	}
	text, err := os.ReadFile("../../docs/vendor-first-hour.md")
	if err != nil {
		t.Fatal(err)
	}
	port := freePort(t)
	p := readPage(t, strings.ReplaceAll(string(text), "4577", port))
	dir := t.TempDir()
	for name, content := range p.files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), "bash", "-c", p.script(port))
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "XDG_STATE_HOME="+filepath.Join(dir, "state"))
	var out bytes.Buffer
	cmd.Stdout = &out
	if err := cmd.Run(); err != nil {
		t.Errorf("%v: %s", err, out.String())
	}
	for i, c := range p.commands {
		_, rest, found := strings.Cut(out.String(), fmt.Sprintf("\n@%d\n", i))
		printed, _, _ := strings.Cut(rest, fmt.Sprintf("\n@%d\n", i+1))
		if !found || !c.agrees(printed) {
			t.Errorf("$ %s\nprinted:\n%s\nthe page says:\n%s", c.command, printed, c.prints)
		}
	}
}

// freePort is a port that was free a moment ago.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
}
