package python_test

import (
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/cloister-run/cloister/plugins/executor"
	"github.com/cloister-run/cloister/plugins/executor/executortest"
	"github.com/cloister-run/cloister/plugins/python"
)

// BenchmarkSession is the life of one executor without walls, and how its time splits.
func BenchmarkSession(b *testing.B) {
	h := newHost(b)
	place := executortest.Place(b)
	if err := os.WriteFile(place.Assets+"/main.py", nil, 0o644); err != nil {
		b.Fatal(err)
	}
	task := executor.Task{Application: place.Assets, Entrypoint: "main.py", Dir: place.Work}
	spent := make(map[string]time.Duration)
	timed := func(phase string, do func() error) {
		start := time.Now()
		if err := do(); err != nil {
			b.Fatalf("%s: %v", phase, err)
		}
		spent[phase] += time.Since(start)
	}
	for b.Loop() {
		s, err := executortest.Session(nil), error(nil)
		timed("launch", func() error { s, err = h.Launch(b.Context(), python.Name, place); return err })
		timed("describe", func() error { _, err := s.Describe(b.Context()); return err })
		timed("prepare", func() error { _, err := s.Prepare(b.Context()); return err })
		timed("run", func() error { _, err := s.Run(b.Context(), task); return err })
		timed("kill", s.Kill)
	}
	for phase, d := range spent {
		b.ReportMetric(float64(d.Microseconds())/1000/float64(b.N), phase+"-ms/op")
	}
}

// BenchmarkInterpreter is the other side: the interpreter alone.
func BenchmarkInterpreter(b *testing.B) {
	for b.Loop() {
		if err := exec.Command("/usr/bin/python3", "-c", "pass").Run(); err != nil {
			b.Fatal(err)
		}
	}
}
