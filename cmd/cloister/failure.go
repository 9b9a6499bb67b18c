package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/cloister-run/cloister/enclave/attest"
	"github.com/cloister-run/cloister/enclave/aws"
	"github.com/cloister-run/cloister/enclave/client"
	"github.com/cloister-run/cloister/enclave/launch"
	"github.com/cloister-run/cloister/enclave/launch/nitro"
	"github.com/cloister-run/cloister/enclave/wire"
	"github.com/cloister-run/cloister/jobspec"
	"github.com/cloister-run/cloister/plugins/sandbox"
)

// asFailure finds the exit status and the cure of an error.
func asFailure(ctx context.Context, err error) *failure {
	if left, ok := errors.AsType[*nitro.LeftError](err); ok { // whatever else went wrong, and whoever interrupted it
		return &failure{status: statusUnavailable, message: err.Error(), hint: left.Cure()}
	}
	if f, ok := errors.AsType[*failure](err); ok {
		return f
	}
	if errors.Is(err, errInterrupted) || errors.Is(context.Cause(ctx), errInterrupted) {
		return &failure{status: statusCancelled, message: "cancelled", hint: "nothing was written, and nothing of the job is left"}
	}
	if problems, ok := errors.AsType[*jobspec.Problems](err); ok {
		return &failure{status: statusUsage, message: problems.Error(), problems: *problems}
	}
	if answer, ok := errors.AsType[*wire.Error](err); ok {
		return refusal(answer)
	}
	if missing, ok := errors.AsType[*sandbox.UnavailableError](err); ok {
		return &failure{status: statusUnavailable, message: missing.Error(), hint: missing.Cure}
	}
	if said, ok := errors.AsType[*nitro.Error](err); ok {
		return &failure{status: statusUnavailable, message: err.Error(), hint: said.Cure}
	}
	if violation, ok := errors.AsType[*attest.Violation](err); ok {
		return &failure{status: statusAttestation, message: err.Error(), hint: broken(violation, "do not use this enclave; nothing was written").hint}
	}
	if refused, ok := errors.AsType[*aws.Error](err); ok {
		return kmsFailure(refused)
	}
	f := &failure{status: statusUnavailable, message: err.Error()}
	switch {
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		f.hint = "no room is left" + whereOf(err) + ": make some, or choose another place, and try again"
	case errors.Is(err, errNotEnded):
		f.hint = "see what of it still runs on this machine, and end that"
	case errors.Is(err, errEnded):
		f.hint = "its last words, if any, say why; cloister enclave start starts one"
	case errors.Is(err, errNobodyWaits):
		f.hint = "it was ended; start it again"
	case errors.Is(err, client.ErrLanding):
		f.hint = "no result was written; make room or choose another destination, then run the job again"
	case errors.Is(err, client.ErrSource):
		f.status, f.hint = statusUsage, "nothing ran; leave what the job names alone while it is sent"
	case errors.Is(err, client.ErrMismatch):
		f.hint = "do not use this enclave; nothing was written"
	case errors.Is(err, nitro.ErrConfig), errors.Is(err, nitro.ErrImage):
		f.status, f.hint = statusUsage, "nothing was started; cloister enclave start --help says what is needed"
	case errors.Is(err, nitro.ErrDebug), errors.Is(err, nitro.ErrMismatch):
		f.status, f.hint = statusAttestation, "the enclave was ended; see that nobody changes the image while it is started"
	case errors.Is(err, nitro.ErrDoor):
		f.hint = "one parent instance serves one enclave at a time: cloister enclave list says which runs"
	case errors.Is(err, launch.ErrStart):
		f.hint = "cloister doctor says what this machine lacks"
	case errors.Is(err, client.ErrUnavailable):
		f.hint = "the enclave ended or broke off; no result was written. cloister doctor says whether one can run here"
	default:
		f.hint = "this is a fault of cloister; please report it"
	}
	return f
}

// whereOf is the folder of the file that an error names, if it names one.
func whereOf(err error) string {
	if named, ok := errors.AsType[*fs.PathError](err); ok {
		return " in " + filepath.Dir(named.Path)
	}
	if named, ok := errors.AsType[*os.LinkError](err); ok {
		return " in " + filepath.Dir(named.New)
	}
	return ""
}

// refusal is a failure that the enclave explained.
func refusal(e *wire.Error) *failure {
	f := &failure{status: statusUnavailable, message: e.Message}
	switch e.Code {
	case wire.Invalid:
		f.status, f.hint = statusUsage, "correct the job or what it names; nothing ran"
	case wire.NoKey:
		f.status = statusAttestation
	case wire.NoRoom:
		f.hint = "run it again when another job is done, or let it wait for room: limits.queue"
	case wire.TooLarge:
		f.hint = "lower limits.memory or limits.disk in the job, or use an enclave with more memory"
	case wire.Stopping:
		f.hint = "start the enclave again"
	case wire.Conflict, wire.NotFound, wire.Order, wire.Over, wire.Nothing, wire.Internal:
		f.hint = "this is a fault of the enclave or of cloister; please report it"
	}
	return f
}

// wantsJSON reports whether --json was asked for, also where the command line could not be read.
func wantsJSON(args []string) bool {
	wants := false
	for _, arg := range args {
		value, given := strings.CutPrefix(arg, "--json=")
		switch {
		case arg == "--":
			return wants
		case arg == "--json":
			wants = true
		case given:
			truth, err := strconv.ParseBool(value)
			wants = truth || err != nil
		}
	}
	return wants
}

// say writes for a person. One who is gone cannot be told.
func say(w io.Writer, format string, args ...any) { _, _ = fmt.Fprintf(w, format, args...) }

// printJSON prints one document. What could steer a terminal is in it as \u….
func printJSON(w io.Writer, v any) {
	var text bytes.Buffer
	out := json.NewEncoder(&text)
	out.SetIndent("", "  ")
	_ = out.Encode(v) // every report can be encoded
	var safe []byte
	for _, r := range text.String() {
		if r == '\n' || unicode.IsPrint(r) {
			safe = utf8.AppendRune(safe, r)
			continue
		}
		for _, unit := range utf16.Encode([]rune{r}) {
			safe = fmt.Appendf(safe, `\u%04x`, unit)
		}
	}
	_, _ = w.Write(safe) // standard output that is gone has nobody to tell
}

// firstLine is a problem without its hint.
func firstLine(p jobspec.Problem) string {
	p.Hint = ""
	return indented(p.String())
}

// maxText bounds what is printed of a text from outside, in runes.
const maxText = 4096

// printable keeps text from outside from steering the terminal, and from filling it. It says where it was cut. Lines
// stay lines: what is printed behind a label is for [line] or [indented].
func printable(s string) string {
	var text strings.Builder
	n := 0
	for _, r := range s {
		if n++; n > maxText {
			_, _ = text.WriteString("… (cut here)") // never fails
			break
		}
		if r != '\n' && !unicode.IsPrint(r) {
			r = '�'
		}
		_, _ = text.WriteRune(r) // never fails
	}
	return text.String()
}

// indented is printable text whose further lines nobody can take for lines of cloister's own.
func indented(s string) string {
	return strings.ReplaceAll(printable(strings.TrimSpace(s)), "\n", "\n    ")
}

// here is the folder of the command's own executable, beside which the image and the library are.
func here() (string, error) {
	exe, err := os.Executable()
	if err != nil {
		return "", err
	}
	return dirOf(exe)
}
