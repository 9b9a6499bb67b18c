// Command cloisterd is PID 1 of an enclave. It ignores its arguments and its environment; what
// it goes by is at fixed paths of the image (package boot).
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"

	"github.com/cloister-run/cloister/enclave/boot"
)

func main() { os.Exit(run(context.Background(), os.Stdout)) }

func run(ctx context.Context, console io.Writer) int {
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "cloisterd: error: this is the first process of an enclave, not a command")
		fmt.Fprintln(os.Stderr, "cloisterd: hint: cloister run --enclave local JOB.yaml starts an enclave on this machine")
		return 2
	}
	os.Clearenv() // so that nothing passes it on either
	ctx, stop := signal.NotifyContext(ctx, unix.SIGTERM)
	defer stop()
	if err := boot.Run(ctx, console); err != nil {
		_, _ = fmt.Fprintln(console, "cloisterd: error:", err) // a console that is gone has nobody to tell
		return 5
	}
	return 0
}
