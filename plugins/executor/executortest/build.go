package executortest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// BuildProbe builds the probe of executors that run a compiled program into the folder dir, as "probe". env
// is put over this process's own, such as GOOS.
func BuildProbe(dir string, env ...string) error {
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", filepath.Join(dir, "probe"),
		"github.com/cloister-run/cloister/plugins/executor/executortest/probe")
	cmd.Env = append(append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS="), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("building the probe: %w\n%s", err, out)
	}
	return nil
}
