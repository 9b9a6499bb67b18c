package border

import (
	"context"
	"errors"
	"fmt"
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
func (b *Border) ask(ctx context.Context, request abi.Request, files func(Party) abi.Files) ([]abi.Decision, error) {
	var answers []abi.Decision
	for start, end := range b.ranks() {
		ranked, err := b.askRank(ctx, request, files, start, end)
		if err != nil {
			return nil, err
		}
		answers = append(answers, ranked...)
	}
	return answers, ctx.Err()
}

// nobodysFiles is what policies find before there are artifacts.
func nobodysFiles(Party) abi.Files { return abi.Files{} }

// askRank asks the parties from start to end, and records what came of it.
func (b *Border) askRank(ctx context.Context, request abi.Request, files func(Party) abi.Files, start, end int) ([]abi.Decision, error) {
	answers := make([]abi.Decision, 0, end-start)
	var denials []Denial
	for i := start; i < end; i++ {
		answer, denial := b.askOne(ctx, request, files(b.parties[i]), i)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		answers = append(answers, answer)
		if denial != nil {
			denials = append(denials, *denial)
		}
	}
	for i := start; i < end && len(denials) <= 1; i++ {
		if answers[i-start].Allow {
			if err := b.record(receipt.Decision{Point: request.Point, Policy: &i, Allow: true}); err != nil {
				return nil, err
			}
		}
	}
	if err := b.verdict(request.Point, denials); err != nil {
		return nil, err
	}
	return answers, nil
}

// verdict is the denial that a rank's denials come to, recorded; nil if there are none. It tells
// nothing of several.
func (b *Border) verdict(point abi.Point, denials []Denial) error {
	switch len(denials) {
	case 0:
		return nil
	case 1:
		denials[0].Point = point
		return b.deny(denials[0])
	default:
		return b.deny(Denial{Point: point})
	}
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
func (b *Border) askOne(ctx context.Context, request abi.Request, files abi.Files, i int) (abi.Decision, *Denial) {
	p := b.parties[i]
	request.ABI, request.Policies, request.Self, request.Config = abi.Version, b.Policies(), i, p.Config
	if request.Channels == nil {
		request.Channels = []abi.Channel{} // a policy reads a list, never null
	}
	answer, err := p.decide(ctx, request, files)
	if err == nil {
		err = answer.Check(request, p.Manifest)
	}
	if err != nil {
		return abi.Decision{}, b.fail(request.Point, i, err)
	}
	if answer.Allow {
		return answer, nil
	}
	denial := &Denial{Point: request.Point, Policy: &i}
	for _, c := range p.Manifest.Codes {
		if c.Code == answer.Code {
			denial.Code, denial.Hint = c.Code, c.Hint
		}
	}
	return abi.Decision{}, denial
}

// fail is the denial of a policy that gave no valid answer. Why is for the operator to know only
// of their own.
func (b *Border) fail(point abi.Point, i int, err error) *Denial {
	denial := &Denial{Point: point, Policy: &i}
	if b.parties[i].own() {
		denial.Detail = oneLine(err.Error())
	}
	return denial
}

// decide makes a panic of the judge's an error that says nothing of what it panicked with.
func (p Party) decide(ctx context.Context, request abi.Request, files abi.Files) (_ abi.Decision, err error) {
	defer func() {
		if recover() != nil {
			err = errors.New("the policy could not be asked: panic")
		}
	}()
	return p.Judge.Decide(ctx, request, files)
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
