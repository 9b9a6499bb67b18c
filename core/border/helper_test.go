package border_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/cloister-run/cloister/core/border"
	"github.com/cloister-run/cloister/core/receipt"
	"github.com/cloister-run/cloister/policies/abi"
)

const (
	plenty = 64 << 20
	result = abi.Channel("outputs.result")
	model  = abi.Channel("outputs.model")
)

// fake is a policy in Go. It remembers what it was asked.
type fake struct {
	answer func(ctx context.Context, request abi.Request, files abi.Files) (abi.Decision, error)
	asked  []abi.Request
}

var _ border.Judge = (*fake)(nil)

func (f *fake) Decide(ctx context.Context, request abi.Request, files abi.Files) (abi.Decision, error) {
	f.asked = append(f.asked, request)
	return f.answer(ctx, request, files)
}

// at is a policy that consents to everything and allows everything, but answers as told at one point.
func at(point abi.Point, answer func(context.Context, abi.Request, abi.Files) (abi.Decision, error)) *fake {
	return &fake{answer: func(ctx context.Context, request abi.Request, files abi.Files) (abi.Decision, error) {
		if request.Point == point {
			return answer(ctx, request, files)
		}
		return yes(request), nil
	}}
}

func yes(request abi.Request) abi.Decision {
	d := abi.Decision{Allow: true}
	if request.Point == abi.Admit {
		d.Channels = request.Channels
	}
	return d
}

// allow consents to everything and allows everything.
func allow() *fake {
	return at("", nil)
}

// consent admits with these channels and caps, and allows everything.
func consent(caps map[abi.Channel]int64, channels ...abi.Channel) *fake {
	return says(abi.Admit, abi.Decision{Allow: true, Channels: channels, Caps: caps})
}

// deny denies at a point, with a code unless it is empty.
func deny(point abi.Point, code string) *fake { return says(point, abi.Decision{Code: code}) }

// says answers d at a point.
func says(point abi.Point, d abi.Decision) *fake {
	return at(point, func(context.Context, abi.Request, abi.Files) (abi.Decision, error) { return d, nil })
}

// fails fails at a point, together with an allow that must not count.
func fails(point abi.Point, err error) *fake {
	return at(point, func(_ context.Context, request abi.Request, _ abi.Files) (abi.Decision, error) {
		return yes(request), err
	})
}

var codes = []abi.Code{{Code: "small-group", Hint: "ask for larger groups"}, {Code: "wrong-columns", Hint: "drop columns"}}

// owner and own make parties of judges.
func owner(name string, j border.Judge) border.Party {
	return border.Party{Ref: abi.PolicyRef{Owner: "arn:" + name, Asset: "inputs." + name, Module: name}, Manifest: abi.Manifest{Codes: codes}, Judge: j}
}

func own(name string, j border.Judge) border.Party {
	return border.Party{Ref: abi.PolicyRef{Module: name}, Config: json.RawMessage(`{"own":true}`), Manifest: abi.Manifest{Codes: codes}, Judge: j}
}

// recorder keeps decisions, and fails from the failFrom'th on if that is not 0.
type recorder struct {
	decisions []receipt.Decision
	failFrom  int
}

var errFull = errors.New("disk is full")

func (r *recorder) Decide(d receipt.Decision) error {
	if r.failFrom > 0 && len(r.decisions)+1 >= r.failFrom {
		return errFull
	}
	r.decisions = append(r.decisions, d)
	return nil
}

// at returns the decisions at one point.
func (r *recorder) at(point abi.Point) (found []receipt.Decision) {
	for _, d := range r.decisions {
		if d.Point == point {
			found = append(found, d)
		}
	}
	return found
}

// scene is a job with a folder in which its outputs lie.
type scene struct {
	*border.Border
	t        *testing.T
	recorder *recorder
	dir      string
	root     *os.Root
	// assets are what policies may find of their owners, scratch is where replacements are.
	assets  []border.Asset
	scratch string
	room    *os.Root
	sealed  *os.Root
}

func newScene(t *testing.T, parties ...border.Party) *scene {
	t.Helper()
	return newSealedScene(t, nil, parties...)
}

// newSealedScene is newScene of a job that seals outputs.
func newSealedScene(t *testing.T, sealTo map[abi.Channel][]string, parties ...border.Party) *scene {
	t.Helper()
	dir := t.TempDir()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	room, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { room.Close() })
	sealed, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sealed.Close() })
	r := &recorder{}
	return &scene{
		Border: border.New(parties, r, sealTo), t: t, recorder: r, dir: dir, root: root, scratch: room.Name(), room: room, sealed: sealed,
	}
}

// write writes a file below the folder of outputs.
func (s *scene) write(name, content string) {
	s.t.Helper()
	file := filepath.Join(s.dir, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

func request(channels ...abi.Channel) abi.Request {
	return abi.Request{Job: json.RawMessage(`{}`), Channels: channels}
}

// pass takes the job through admit and ingress.
func (s *scene) pass(channels ...abi.Channel) {
	s.t.Helper()
	if err := s.Admit(s.t.Context(), request(channels...)); err != nil {
		s.t.Fatal(err)
	}
	if err := s.Ingress(s.t.Context(), request()); err != nil {
		s.t.Fatal(err)
	}
}

// file and folder are candidates by the name of the channel's last part.
func (s *scene) file(ch abi.Channel, name string) border.Candidate {
	return border.Candidate{Channel: ch, Dir: s.root, Name: name}
}

func (s *scene) folder(ch abi.Channel, name string) border.Candidate {
	return border.Candidate{Channel: ch, Dir: s.root, Name: name, Tree: true}
}

// leaving is these candidates, with a folder for replacements.
func (s *scene) leaving(candidates ...border.Candidate) border.Leaving {
	return border.Leaving{Candidates: candidates, MaxBytes: plenty, Scratch: s.room, Sealed: s.sealed, Assets: s.assets}
}

func (s *scene) egress(candidates ...border.Candidate) (*border.Clearance, error) {
	s.t.Helper()
	c, err := s.Egress(s.t.Context(), request(), s.leaving(candidates...))
	if err != nil && c != nil {
		s.t.Errorf("a Clearance came with %v", err)
	}
	if c != nil {
		s.t.Cleanup(func() { c.Close() })
	}
	return c, err
}

// walk runs a whole job with one file "r" for the channel result and returns how it ended.
func (s *scene) walk(ctx context.Context) (*border.Clearance, error) {
	s.t.Helper()
	s.write("r", "the result")
	if err := s.Admit(ctx, request(result)); err != nil {
		return nil, err
	}
	if err := s.Ingress(ctx, request()); err != nil {
		return nil, err
	}
	return s.Egress(ctx, request(), s.leaving(s.file(result, "r")))
}
