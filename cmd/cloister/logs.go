package main

import (
	"context"
	"io"
	"slices"
	"unicode"
	"unicode/utf8"

	"github.com/cloister-run/cloister/enclave/client"
	"github.com/cloister-run/cloister/policies/abi"
)

const aboutLogs = `Logs waits for the end of a job that was submitted and prints its logs, standard output to standard output and standard
error to standard error. A log is judged like an output, so it leaves when the job is done: if the job file asks for it and
every policy allows it. On a terminal, what could steer it is shown as �. The job stays as it is, for cloister results.`

func (a *app) logs(ctx context.Context, id string) error {
	if a.json {
		return usage("cloister results --json says what was released", "logs are no JSON")
	}
	job, c, err := a.openJob(ctx, id)
	if err != nil {
		return err
	}
	defer c.Close()
	show := a.newProgress()
	defer show.stop()
	report, err := c.Logs(ctx, job.Ticket, client.Observer{Phase: show.phase}, func(ch abi.Channel) io.Writer {
		show.stop()
		switch ch {
		case abi.Stdout:
			return harmless(a.stdout)
		case abi.Stderr:
			return harmless(a.stderr)
		}
		return nil
	})
	show.stop()
	switch {
	case err != nil && ctx.Err() != nil:
		return stoppedWaiting(id)
	case isGone(err):
		return goneFromEnclave(id)
	case err != nil:
		return err
	case len(report.Landed) > 0:
		return nil
	}
	if f := outcome(report.Result); f != nil {
		return f
	}
	return &failure{status: statusFailed, message: "no log of the job may leave",
		hint: "ask for logs.stdout or logs.stderr in the job file; every policy must consent to it"}
}

// harmless keeps a log from steering a terminal. Elsewhere it is what it is.
func harmless(w io.Writer) io.Writer {
	if isTerminal(w) {
		return &harmlessWriter{to: w}
	}
	return w
}

type harmlessWriter struct {
	to io.Writer
	// begun is the beginning of a character whose rest has not come yet.
	begun []byte
}

func (w *harmlessWriter) Write(p []byte) (int, error) {
	text := append(w.begun, p...)
	var safe []byte
	for len(text) > 0 {
		r, n := utf8.DecodeRune(text)
		if r == utf8.RuneError && !utf8.FullRune(text) {
			break
		}
		if r != '\n' && r != '\t' && !unicode.IsPrint(r) {
			r = utf8.RuneError
		}
		safe, text = utf8.AppendRune(safe, r), text[n:]
	}
	w.begun = slices.Clone(text)
	_, err := w.to.Write(safe)
	return len(p), err
}
