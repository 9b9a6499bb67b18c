package main

import (
	"bytes"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/cloister-run/cloister/plugins/executor/executortest"
	"github.com/cloister-run/cloister/plugins/host"
	"github.com/cloister-run/cloister/plugins/host/hosttest"
	"github.com/cloister-run/cloister/plugins/proto"
	"github.com/cloister-run/cloister/plugins/shipped"
)

// TestMain lets the test binary be the command.
func TestMain(m *testing.M) {
	if os.Getenv("CLOISTER_TEST_AS_COMMAND") != "" || os.Getenv(proto.CookieKey) != "" {
		main()
	}
	os.Exit(m.Run())
}

// Every executor that the command holds answers under the name that a manifest gives it.
func TestStartedByAHost(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range shipped.All() {
		t.Run(e.Name, func(t *testing.T) {
			h := hosttest.New(t, host.Config{}, hosttest.Plugin{
				Name: e.Name, Version: e.Version, Executable: self, Args: []string{e.Name},
			})
			s, err := h.Launch(t.Context(), e.Name, executortest.Place(t))
			if err != nil {
				t.Fatal(err)
			}
			defer s.Kill()
			if d, err := s.Describe(t.Context()); err != nil || d != e.Description {
				t.Errorf("%+v, %v", d, err)
			}
		})
	}
}

func TestByHand(t *testing.T) {
	for _, test := range []struct {
		rule string
		args []string
		env  string
		want string
	}{
		{"no argument", nil, "", "no executor is named"},
		{"no such executor", []string{"ruby"}, "", `there is no executor "ruby"`},
		{"more than a name", []string{"python", "-v"}, "", "2 arguments"},
		{"a real name without an enclave", []string{"python"}, "", "an enclave starts it, not a person"},
		{"the wrong cookie", []string{"python"}, proto.CookieKey + "=executor.v0", "an enclave starts it, not a person"},
		{"an unknown name with the cookie", []string{"ruby"}, proto.CookieKey + "=" + proto.CookieValue, "there is no executor"},
	} {
		t.Run(test.rule, func(t *testing.T) {
			cmd := exec.Command(os.Args[0], test.args...)
			cmd.Env = []string{"CLOISTER_TEST_AS_COMMAND=1", test.env}
			var stdout, stderr bytes.Buffer
			cmd.Stdout, cmd.Stderr = &stdout, &stderr
			_ = cmd.Run()
			if status := cmd.ProcessState.ExitCode(); status != 2 {
				t.Errorf("status %d, want 2", status)
			}
			if stdout.Len() > 0 {
				t.Errorf("stdout: %q", stdout.String())
			}
			lines := strings.Split(strings.TrimSuffix(stderr.String(), "\n"), "\n")
			if len(lines) != 2 || !strings.Contains(lines[0], ": error: ") || !strings.Contains(lines[1], ": hint: ") {
				t.Fatalf("want an error and a hint, got:\n%s", stderr.String())
			}
			if !strings.Contains(lines[0], test.want) {
				t.Errorf("%q does not say %q", lines[0], test.want)
			}
		})
	}
}
