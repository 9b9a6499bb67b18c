// Command cloisterd is PID 1 of an enclave. It ignores its arguments and its environment; what
// it goes by is at fixed paths of the image (package boot).
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"

	"golang.org/x/sys/unix"

	"github.com/cloister-run/cloister/enclave/boot"
)

func main() { os.Exit(run(context.Background(), os.Stdout)) }

func run(ctx context.Context, console *os.File) int {
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "cloisterd: error: this is the first process of an enclave, not a command")
		fmt.Fprintln(os.Stderr, "cloisterd: hint: cloister run --enclave local JOB.yaml starts an enclave on this machine")
		return 2
	}
	return first(ctx, console, boot.Run)
}

// first is the first process. What it came with is left behind before anything boots.
func first(ctx context.Context, console *os.File, boots func(context.Context, io.Writer) error) int {
	os.Clearenv() // so that nothing passes it on either
	ctx, stop := signal.NotifyContext(ctx, unix.SIGTERM)
	defer stop()
	err := silence(console)
	if err == nil {
		err = boots(ctx, console)
	}
	if err != nil {
		_, _ = fmt.Fprintln(console, "cloisterd: error:", err) // a console that is gone has nobody to tell
		return 5
	}
	return 0
}

// silence turns standard error off, which is the console as well: libraries write there by themselves, and an
// executor that breaks gRPC's rules would choose when. What Go says of a crash, its last words, goes to the console.
func silence(console *os.File) error {
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("silencing libraries: %w", err)
	}
	defer null.Close()
	if err := unix.Dup3(int(null.Fd()), unix.Stderr, 0); err != nil {
		return fmt.Errorf("silencing libraries: %w", err)
	}
	if err := debug.SetCrashOutput(console, debug.CrashOptions{}); err != nil {
		return fmt.Errorf("silencing libraries: %w", err)
	}
	return nil
}
