package walls

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"reflect"
	"strings"
	"testing"
)

// Inside the package since the readers are stage two's own.

func frame(t testing.TB, plan *Plan) []byte {
	t.Helper()
	var out bytes.Buffer
	if err := WritePlan(&out, plan); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestPlan_ArrivesAsItWasSent(t *testing.T) {
	sent := &Plan{
		Root: "/r", Path: "/p", Args: []string{"p", "a\x01"}, Env: []string{"A=b"}, Dir: "/", Files: 2, Filter: []byte{1, 2},
		Mounts: []Mount{{Target: "/a", Source: "/b", Writable: true}, {Target: "/c", Tmpfs: 5}, {Target: "/d", Link: "e"}},
		Limits: []Limit{{Resource: 1, Value: ^uint64(0)}},
	}
	got, err := readPlan(bytes.NewReader(frame(t, sent)))
	if err != nil || !reflect.DeepEqual(got, sent) {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestPlan_Refused(t *testing.T) {
	whole := frame(t, &Plan{Filter: []byte{1}})
	for rule, raw := range map[string][]byte{
		"empty":             nil,
		"half a length":     {0, 0},
		"too long":          {0xff, 0, 0, 0},
		"truncated":         whole[:len(whole)-1],
		"not JSON":          {0, 0, 0, 1, 'x'},
		"an unknown field":  append([]byte{0, 0, 0, 9}, `{"new":1}`...),
		"without a filter":  frame(t, &Plan{Path: "/p"}),
		"a number of files": frame(t, &Plan{Filter: []byte{1}, Files: -1}),
	} {
		if plan, err := readPlan(bytes.NewReader(raw)); err == nil {
			t.Errorf("%s: got %+v", rule, plan)
		}
	}
}

func TestOutcome(t *testing.T) {
	for _, row := range []struct {
		rule, reports string
		want          Report
		err           error
	}{
		{"started", `{"started":true}`, Report{Started: true}, nil},
		{"a wall is missing", `{"wall":"proc","reason":"why","errno":1}`, Report{Wall: Proc, Reason: "why", Errno: 1}, nil},
		{"executed, since the pipe closed", `{"ready":true}`, Report{Started: true}, nil},
		{"ready and not executed", `{"ready":true}` + "\n" + `{"wall":"program"}`, Report{Wall: Program}, nil},
		{"nothing said", ``, Report{}, io.ErrUnexpectedEOF},
		{"nothing meant", `{}`, Report{}, io.ErrUnexpectedEOF},
		{"cut off", `{"started":true`, Report{}, io.ErrUnexpectedEOF},
	} {
		got, err := ReadOutcome(strings.NewReader(row.reports))
		if got != row.want || !errors.Is(err, row.err) {
			t.Errorf("%s: got %+v, %v", row.rule, got, err)
		}
	}
	if _, err := ReadOutcome(io.MultiReader(strings.NewReader(`{"ready":true}`), endless{})); err == nil {
		t.Error("no end: no error")
	}
}

// endless is white space without end.
type endless struct{}

func (endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = '\n'
	}
	return len(p), nil
}

func TestMountinfo(t *testing.T) {
	const lines = `36 35 98:0 /mnt1 /mnt\0402 ro,noatime,nodev master:1 - ext3 /dev/root rw,errors=continue
37 36 0:5 / /a\134b rw,nosuid,noexec - tmpfs none rw
`
	got, err := parseMountinfo([]byte(lines))
	want := []mounted{{"/mnt 2", lockable["ro"] | lockable["nodev"]}, {`/a\b`, lockable["nosuid"] | lockable["noexec"]}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v", got, err)
	}
	for _, broken := range []string{"36 35 98:0", strings.Replace(lines, `\040`, `\09`, 1), strings.Replace(lines, `\040`, `\777`, 1)} {
		if got, err := parseMountinfo([]byte(broken)); err == nil {
			t.Errorf("%q: got %+v", broken, got)
		}
	}
}

func FuzzPlan(f *testing.F) {
	f.Add(frame(f, &Plan{Path: "/p", Filter: []byte{1}, Mounts: []Mount{{Target: "/a", Link: "b"}}}))
	f.Add(frame(f, &Plan{Path: "/p", Nested: true, Limits: []Limit{{1, 2}}}))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, '{', '}'})
	f.Add([]byte{0, 0, 0, 2, '{', '}'})
	f.Fuzz(func(t *testing.T, raw []byte) {
		plan, err := readPlan(bytes.NewReader(raw))
		if err != nil {
			return
		}
		if !plan.Nested && len(plan.Filter) == 0 || plan.Files < 0 {
			t.Errorf("accepted %+v", plan)
		}
		again, err := readPlan(bytes.NewReader(frame(t, plan)))
		if err != nil || !same(again, plan) {
			t.Errorf("%+v became %+v, %v", plan, again, err)
		}
	})
}

// same compares as JSON, in which an empty list and none are not always told apart.
func same(a, b *Plan) bool {
	x, errX := json.Marshal(a)
	y, errY := json.Marshal(b)
	return errX == nil && errY == nil && bytes.Equal(x, y)
}

func FuzzOutcome(f *testing.F) {
	f.Add([]byte(`{"started":true}`))
	f.Add([]byte(`{"ready":true}` + "\n" + `{"wall":"program","reason":"x","errno":2}`))
	f.Add([]byte(`{"ready":true}`))
	f.Add([]byte("\n\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		report, err := ReadOutcome(bytes.NewReader(raw))
		if (err == nil) != (report.Started || report.Wall != "") {
			t.Errorf("%+v, %v", report, err)
		}
	})
}

func FuzzMountinfo(f *testing.F) {
	f.Add([]byte("36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw\n"))
	f.Add([]byte("36 35 98:0 / /a\\040b ro,nosuid,nodev,noexec - tmpfs none rw\n"))
	f.Add([]byte("x\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		all, err := parseMountinfo(raw)
		if err == nil && len(all) > bytes.Count(raw, []byte("\n"))+1 {
			t.Errorf("%d mounts in %q", len(all), raw)
		}
	})
}
