package walls

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
)

// readPlan reads one frame: a length in four bytes, big-endian, and that many bytes of JSON.
func readPlan(r io.Reader) (*Plan, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, fmt.Errorf("reading the plan's length: %w", err)
	}
	size := binary.BigEndian.Uint32(head[:])
	if size > MaxPlan {
		return nil, fmt.Errorf("plan of %d bytes exceeds %d", size, MaxPlan)
	}
	raw := make([]byte, size)
	if _, err := io.ReadFull(r, raw); err != nil {
		return nil, fmt.Errorf("reading the plan: %w", err)
	}
	var plan Plan
	fields := json.NewDecoder(bytes.NewReader(raw))
	fields.DisallowUnknownFields()
	if err := fields.Decode(&plan); err != nil {
		return nil, fmt.Errorf("parsing the plan: %w", err)
	}
	if !plan.Nested && len(plan.Filter) == 0 {
		return nil, errors.New("the plan has no seccomp filter")
	}
	if plan.Files < 0 {
		return nil, fmt.Errorf("the plan has %d files", plan.Files)
	}
	return &plan, nil
}

// WritePlan sends a plan as readPlan reads it.
func WritePlan(w io.Writer, plan *Plan) error {
	raw, err := json.Marshal(plan)
	if err != nil {
		return fmt.Errorf("walls: encoding the plan: %w", err)
	}
	if len(raw) > MaxPlan {
		return fmt.Errorf("walls: plan of %d bytes exceeds %d", len(raw), MaxPlan)
	}
	frame := binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(raw)), uint32(len(raw)))
	_, err = w.Write(append(frame, raw...))
	return err
}

// describe turns an error into a report.
func describe(err error) Report {
	report := Report{Wall: Starter, Reason: err.Error()}
	if f, ok := errors.AsType[*failure](err); ok {
		report.Wall, report.Reason = f.wall, f.err.Error()
	}
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		report.Errno = int(errno)
	}
	const most = 4096
	report.Reason = report.Reason[:min(len(report.Reason), most)]
	return report
}

// ReadOutcome reads reports until one says how the start ended: the program runs, or a wall is
// missing. It reads at most [MaxReport] bytes. An error means that stage two did not say it.
func ReadOutcome(r io.Reader) (Report, error) {
	bounded := &io.LimitedReader{R: r, N: MaxReport}
	lines := json.NewDecoder(bounded)
	lines.DisallowUnknownFields()
	ready := false
	for {
		var report Report
		err := lines.Decode(&report)
		switch {
		case bounded.N <= 0:
			return Report{}, fmt.Errorf("reports exceed %d bytes", MaxReport)
		case errors.Is(err, io.EOF) && ready:
			return Report{Started: true}, nil
		case errors.Is(err, io.EOF):
			return Report{}, io.ErrUnexpectedEOF
		case err != nil:
			return Report{}, fmt.Errorf("reading reports: %w", err)
		case report.Started || report.Wall != "":
			return report, nil
		}
		ready = ready || report.Ready
	}
}

// tell sends a report. A starter that does not listen is a starter that is gone.
func tell(w io.Writer, report Report) {
	raw, err := json.Marshal(report)
	if err == nil {
		_, err = w.Write(append(raw, '\n'))
	}
	if err != nil {
		os.Exit(exitOrphan)
	}
}
