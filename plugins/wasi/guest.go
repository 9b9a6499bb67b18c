package wasi

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/imports/wasi_snapshot_preview1"
	"github.com/tetratelabs/wazero/sys"
)

// How a program ends that could not begin, as shells have it, and one that trapped, as SIGABRT has it.
const (
	statusNoModule = 126
	statusTrapped  = 134
)

// Main runs the module args[0] with the arguments after it and gives the exit status. It is the whole of a
// process: what it opens stays open.
func Main(args []string) int {
	if len(args) == 0 {
		return fail(statusNoModule, errors.New("no module is named"))
	}
	code, err := os.ReadFile(args[0])
	if err != nil {
		return fail(statusNoModule, err)
	}
	ctx := context.Background()
	engine := wazero.NewRuntime(ctx)
	if _, err := wasi_snapshot_preview1.Instantiate(ctx, engine); err != nil {
		return fail(statusNoModule, err)
	}
	module, err := engine.CompileModule(ctx, code)
	if err != nil {
		return fail(statusNoModule, err)
	}
	dir, err := os.Getwd()
	if err != nil {
		return fail(statusNoModule, err)
	}
	config := wazero.NewModuleConfig().WithName("").WithArgs(args...).
		WithStdin(os.Stdin).WithStdout(os.Stdout).WithStderr(os.Stderr).
		WithSysWalltime().WithSysNanotime().WithSysNanosleep().WithRandSource(rand.Reader).
		WithFSConfig(wazero.NewFSConfig().WithDirMount("/", "/")).
		WithStartFunctions()
	for _, variable := range os.Environ() {
		name, value, _ := strings.Cut(variable, "=")
		config = config.WithEnv(name, value)
	}
	config = config.WithEnv("PWD", dir) // a module has no working directory of its own
	instance, err := engine.InstantiateModule(ctx, module, config)
	if err != nil {
		return fail(statusNoModule, err)
	}
	start := instance.ExportedFunction("_start")
	if start == nil {
		return fail(statusNoModule, errors.New("the module exports no _start"))
	}
	_, err = start.Call(ctx)
	if exit, ok := errors.AsType[*sys.ExitError](err); ok {
		return int(exit.ExitCode() & 0xff)
	}
	if err != nil {
		return fail(statusTrapped, err)
	}
	return 0
}

func fail(status int, err error) int {
	_, _ = fmt.Fprintln(io.Writer(os.Stderr), "wasi:", err) // the application's own log
	return status
}
