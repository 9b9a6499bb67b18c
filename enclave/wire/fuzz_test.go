package wire_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/cloister-run/cloister/core"
	"github.com/cloister-run/cloister/core/coretest"
	"github.com/cloister-run/cloister/core/queue"
	"github.com/cloister-run/cloister/enclave/wire"
)

// FuzzSubmit holds what a host may post against the runner: a submission is refused as invalid, or
// it is one that the runner could take, and decodes to the same again. The ledger has no room, so
// that nothing is ever begun.
func FuzzSubmit(f *testing.F) {
	runner := core.New(core.Config{
		Executors: &coretest.Executors{}, Policies: &coretest.Policies{}, Ledger: queue.NewLedger(0),
	})
	f.Cleanup(func() { _ = runner.Close() })
	for _, raw := range seeds(f) {
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		s, err := wire.DecodeSubmit(raw)
		if err != nil {
			return
		}
		_, err = runner.Submit(core.Submission{ID: s.ID, Job: []byte(s.Job), Assets: s.Assets})
		switch {
		case errors.Is(err, core.ErrInvalid):
			return
		case !errors.Is(err, queue.ErrTooLarge):
			t.Fatalf("%v", err)
		case s.ID == "" || len(s.ID) > 64 || strings.Trim(s.ID, "abcdefghijklmnopqrstuvwxyz0123456789-") != "":
			t.Errorf("the id %q", s.ID)
		case len(s.Assets) == 0 || s.Assets[0].Name != "application" || s.Assets[0].Bytes < 0:
			t.Errorf("the assets %+v", s.Assets)
		}
		again, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		if twice, err := wire.DecodeSubmit(again); err != nil || twice.Job != s.Job || twice.ID != s.ID {
			t.Errorf("%+v, %v", twice, err)
		}
	})
}

// seeds are submissions, and what is wrong with others.
func seeds(t testing.TB) [][]byte {
	sub := coretest.Simple("job", "allow").Submission(t)
	valid, err := json.Marshal(wire.Submit{ID: sub.ID, Job: string(sub.Job), Assets: sub.Assets})
	if err != nil {
		t.Fatal(err)
	}
	seeds := [][]byte{valid, nil, []byte("null"), []byte("{}"), []byte(`{"id":"a","job":"{}","assets":null}`)}
	for _, change := range [][2]string{
		{`"id":"job"`, `"id":"../job"`}, {`"form":"tree"`, `"form":"link"`}, {`"bytes":7`, `"bytes":-1`}, {`"bytes":7`, `"bytes":9223372036854775807`},
		{`"bytes":7`, `"bytes":1e400`}, {`"name":"application"`, `"name":"inputs.x"`}, {`"job":"`, `"job":" `}, {`"assets":`, `"Assets":`},
	} {
		changed := strings.Replace(string(valid), change[0], change[1], 1)
		if changed == string(valid) {
			t.Fatalf("the seed has no %s", change[0])
		}
		seeds = append(seeds, []byte(changed))
	}
	return seeds
}

func TestSeedsAreWhatTheySay(t *testing.T) {
	runner := core.New(core.Config{Executors: &coretest.Executors{}, Policies: &coretest.Policies{}, Ledger: queue.NewLedger(0)})
	room := 0
	for _, raw := range seeds(t) {
		s, err := wire.DecodeSubmit(raw)
		if err != nil {
			continue
		}
		_, err = runner.Submit(core.Submission{ID: s.ID, Job: []byte(s.Job), Assets: s.Assets})
		if errors.Is(err, queue.ErrTooLarge) {
			room++
		} else if !errors.Is(err, core.ErrInvalid) {
			t.Errorf("%s: %v", raw, err)
		}
	}
	if room != 2 { // the valid one, and the one that is too large
		t.Errorf("%d seeds are valid", room)
	}
}
