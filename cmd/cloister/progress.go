package main

import (
	"io"
	"os"
	"sync"
	"sync/atomic"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"

	"github.com/cloister-run/cloister/core"
)

// progress shows where a job is, on a terminal; in a pipe it stays quiet.
type progress struct {
	bars  *mpb.Progress
	phase func(core.Phase)
	// doing says what happens where there are no phases.
	doing func(string)
	// sending is told of bytes on their way, out of total.
	sending func(sent int, total int64)
	stop    func()
}

// doing says what happens in a phase; empty for one that it does not know. Phases are a closed
// set, so this is no way out.
func doing(p core.Phase) string {
	switch p {
	case core.Queued:
		return "waiting for room in the enclave"
	case core.Admitting:
		return "asking the policies about the job"
	case core.Receiving:
		return "sending the application and its inputs"
	case core.Ingress:
		return "asking the policies about what arrived"
	case core.Executing:
		return "running the application"
	case core.Egress:
		return "asking the policies about what may leave"
	case core.Done:
	}
	return ""
}

// sayQueued says that a job waits, which may be for long: elsewhere than on a terminal nothing else is said.
func (a *app) sayQueued(p core.Phase) {
	if p == core.Queued {
		say(a.stderr, "queued    %s, as long as limits.queue says\n", doing(p))
	}
}

func (a *app) newProgress() *progress {
	if a.json || !isTerminal(a.stderr) {
		return &progress{phase: a.sayQueued, doing: func(string) {}, sending: func(int, int64) {}, stop: func() {}}
	}
	bars := mpb.New(mpb.WithOutput(a.stderr), mpb.WithWidth(32))
	var now atomic.Pointer[string]
	starting := "starting"
	now.Store(&starting)
	spinner := bars.AddSpinner(0, mpb.BarRemoveOnComplete(), mpb.AppendDecorators(
		decor.Any(func(decor.Statistics) string { return *now.Load() }),
		decor.Elapsed(decor.ET_STYLE_GO, decor.WCSyncSpace),
	))
	var once sync.Once
	var bar *mpb.Bar
	return &progress{
		bars: bars,
		phase: func(p core.Phase) {
			if text := doing(p); text != "" {
				now.Store(&text)
			}
		},
		doing: func(text string) { now.Store(&text) },
		sending: func(sent int, total int64) {
			once.Do(func() {
				bar = bars.AddBar(total, mpb.BarRemoveOnComplete(), mpb.AppendDecorators(decor.CountersKibiByte("% .1f of % .1f")))
			})
			bar.IncrBy(sent)
		},
		stop: sync.OnceFunc(func() {
			spinner.Abort(true)
			once.Do(func() {})
			if bar != nil {
				bar.Abort(true)
			}
			bars.Wait()
		}),
	}
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
