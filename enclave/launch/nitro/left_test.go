package nitro_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/cloister-run/cloister/enclave/launch/nitro"
)

// A run-enclave that does not return is given up after a while, says so, and leaves no enclave.
func TestARunThatHangs(t *testing.T) {
	m := newMachine(t)
	m.want(t, hangs, "")
	m.cfg = nitro.Impatient(m.cfg, 500*time.Millisecond)
	e, err := m.start(t.Context())
	if says, ok := errors.AsType[*nitro.Error](err); e != nil || !ok || says.Verb != "run-enclave" || !strings.Contains(says.Message, "no answer within 500ms") {
		t.Errorf("%v, %v", e, err)
	}
	if left := m.enclaves(); len(left) != 0 {
		t.Errorf("left: %+v", left)
	}
}

// A start that is given up, and cannot find out what it has left, says that something may be.
func TestAStartThatMayHaveLeftAnEnclave(t *testing.T) {
	m := newMachine(t)
	m.want(t, hangs, "")
	m.want(t, fails+"describe-enclaves", "no-sockets")
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		for len(m.enclaves()) == 0 {
			time.Sleep(time.Millisecond)
		}
		cancel()
	}()
	_, err := m.start(ctx)
	left, ok := errors.AsType[*nitro.LeftError](err)
	if !ok || !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if running := m.enclaves(); len(running) != 1 || left.Left.Name != running[0].EnclaveName {
		t.Errorf("%+v is left, and it says %+v", running, left.Left)
	}
	if !strings.Contains(err.Error(), "an enclave named "+left.Left.Name+" may be left") || !strings.Contains(left.Cure(), "nitro-cli describe-enclaves") {
		t.Errorf("%v; %s", err, left.Cure())
	}
}

// A nitro-cli that does nothing at all on this machine has left nothing.
func TestANitroCLIThatDoesNotWork(t *testing.T) {
	m := newMachine(t)
	m.want(t, fails+"run-enclave", "no-sockets")
	m.want(t, fails+"describe-enclaves", "no-sockets")
	_, err := m.start(t.Context())
	says, ok := errors.AsType[*nitro.Error](err)
	if _, left := errors.AsType[*nitro.LeftError](err); left || !ok || says.Code != "E07" || says.Verb != "run-enclave" {
		t.Error(err)
	}
}

// Whoever started an enclave is gone: another process ends it, by its ID or by its name alone.
func TestAnEnclaveThatIsLeftIsEnded(t *testing.T) {
	for name, test := range map[string]struct {
		withID   bool
		want     string
		value    string
		isLeft   bool
		mentions string
	}{
		"by its ID":                       {withID: true},
		"by its name":                     {},
		"by its ID, beside a silent one":  {withID: true, want: neighbor},
		"by its ID, and nobody lists it":  {withID: true, want: fails + "describe-enclaves", value: "no-sockets"},
		"by its name, and nobody does":    {want: fails + "describe-enclaves", value: "no-sockets", isLeft: true, mentions: "E07"},
		"it is another user's":            {withID: true, want: fails + "terminate-enclave", value: "not-yours", isLeft: true, mentions: "E38"},
		"it is another user's, by a name": {want: fails + "terminate-enclave", value: "not-yours", isLeft: true, mentions: "E38"},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t)
			m.cfg.Name = nitro.RandomName()
			e, err := m.start(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = e.Stop() }) // what tests it is gone or not there
			if test.want != "" {
				m.want(t, test.want, test.value)
			}
			left := nitro.Left{Path: m.cfg.Path, Name: m.cfg.Name}
			if test.withID {
				left.ID = e.ID()
			}
			err = left.End(t.Context())
			if _, ok := errors.AsType[*nitro.LeftError](err); ok != test.isLeft || (err != nil) != test.isLeft {
				t.Fatal(err)
			}
			if err != nil && !strings.Contains(err.Error(), test.mentions) {
				t.Error(err)
			}
			if running := m.enclaves(); (len(running) != 0) != test.isLeft {
				t.Errorf("running: %+v", running)
			}
		})
	}
}

// There is none any more, and nobody else's is touched.
func TestNothingIsLeft(t *testing.T) {
	m := newMachine(t)
	e, err := m.start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := (nitro.Left{Path: m.cfg.Path, Name: nitro.RandomName(), ID: "i-abc12345def67890a-enc1"}).End(t.Context()); err != nil {
		t.Error(err)
	}
	if running := m.enclaves(); len(running) != 1 {
		t.Errorf("%+v", running)
	}
	if err := e.Stop(); err != nil {
		t.Error(err)
	}
}
