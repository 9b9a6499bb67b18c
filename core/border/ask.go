package border

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"unicode"

	"github.com/cloister-run/cloister/core/receipt"
	"github.com/cloister-run/cloister/policies/abi"
)

// maxDetail bounds the Detail of a [Denial] in bytes.
const maxDetail = 300

// ask puts one request to all owners' policies and then, if they all allow, to the operator's
// own. Every policy of a rank is asked, so that a denial tells nothing of the order.
//
// It fails with a [Denial], or with ctx's error if that ended: a job that was cancelled or
// timed out gets no verdict at all.
func (b *Border) ask(ctx context.Context, request abi.Request, artifacts fs.FS) ([]abi.Decision, error) {
	request.ABI, request.Policies = abi.Version, b.Policies()
	if request.Channels == nil {
		request.Channels = []abi.Channel{} // a policy reads a list, never null
	}
	var answers []abi.Decision
	for start := 0; start < len(b.parties); {
		end := start
		for end < len(b.parties) && b.parties[end].own() == b.parties[start].own() {
			end++
		}
		ranked, err := b.askRank(ctx, request, artifacts, start, end)
		if err != nil {
			return nil, err
		}
		answers = append(answers, ranked...)
		start = end
	}
	return answers, ctx.Err()
}

// askRank asks the parties from start to end, and records what came of it.
func (b *Border) askRank(ctx context.Context, request abi.Request, artifacts fs.FS, start, end int) ([]abi.Decision, error) {
	answers := make([]abi.Decision, 0, end-start)
	var denials []Denial
	for i := start; i < end; i++ {
		answer, denial := b.askOne(ctx, request, artifacts, i)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		answers = append(answers, answer)
		if denial != nil {
			denials = append(denials, *denial)
		}
	}
	if len(denials) > 1 {
		return nil, b.deny(Denial{Point: request.Point})
	}
	for i := start; i < end; i++ {
		if answers[i-start].Allow {
			if err := b.record(receipt.Decision{Point: request.Point, Policy: &i, Allow: true}); err != nil {
				return nil, err
			}
		}
	}
	if len(denials) == 1 {
		return nil, b.deny(denials[0])
	}
	return answers, nil
}

// deny records a denial and returns it.
func (b *Border) deny(d Denial) error {
	if err := b.record(receipt.Decision{Point: d.Point, Policy: d.Policy, Code: d.Code}); err != nil {
		return err
	}
	return &d
}

// record writes a decision down. If that cannot be done, the error is a denial that says
// nothing of the decision.
func (b *Border) record(d receipt.Decision) error {
	if err := b.recorder.Decide(d); err != nil {
		return fmt.Errorf("%w: recording a decision: %w", &Denial{Point: d.Point}, err)
	}
	return nil
}

// askOne asks party i. An answer that is not an allow in every respect is a denial, and the
// decision that comes with a denial is the zero one.
func (b *Border) askOne(ctx context.Context, request abi.Request, artifacts fs.FS, i int) (abi.Decision, *Denial) {
	p := b.parties[i]
	request.Self, request.Config = i, p.Config
	codes := p.Codes[:min(len(p.Codes), abi.MaxCodes)]
	answer, err := p.decide(ctx, request, artifacts)
	if err == nil {
		err = answer.Check(request, abi.Manifest{Codes: codes})
	}
	if err == nil && answer.Allow {
		return answer, nil
	}
	denial := &Denial{Point: request.Point, Policy: &i}
	if err != nil {
		if p.own() {
			denial.Detail = oneLine(err.Error())
		}
		return abi.Decision{}, denial
	}
	for _, c := range codes {
		if c.Code == answer.Code {
			denial.Code, denial.Hint = c.Code, c.Hint
		}
	}
	return abi.Decision{}, denial
}

// decide makes a panic of the judge's an error that says nothing of what it panicked with.
func (p Party) decide(ctx context.Context, request abi.Request, artifacts fs.FS) (_ abi.Decision, err error) {
	defer func() {
		if recover() != nil {
			err = errors.New("the policy could not be asked: panic")
		}
	}()
	return p.Judge.Decide(ctx, request, artifacts)
}

// oneLine makes text fit for a terminal.
func oneLine(text string) string {
	text = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) || r == unicode.ReplacementChar {
			return '?'
		}
		return r
	}, text)
	if len(text) > maxDetail {
		text = strings.ToValidUTF8(text[:maxDetail], "") + "…"
	}
	return text
}
