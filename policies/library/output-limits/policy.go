// Command output-limits is a policy: only the configured channels leave, each up to a number
// of bytes and files, under known names.
//
//	admit    denies with "channel" a job that asks for an output that is not configured, and
//	         caps every channel that it consents to
//	ingress  allows
//	egress   denies with "channel", "too-large", "too-many-files" or "file-name"
//
// At every point it denies with "application", "executor" or "alone" whom "only" does not let.
//
// It trusts the request and its own configuration, and never reads content.
package main

import (
	"fmt"
	"path"
	"strings"

	"github.com/cloister-run/cloister/policies/abi"
	"github.com/cloister-run/cloister/policies/sdk"
	"github.com/cloister-run/cloister/policies/sdk/only"
)

func main() { sdk.Main(Decide) }

// config is the policy's configuration; manifest.json has its schema.
type config struct {
	// Only says who may use the asset, at every point.
	Only only.Rule `json:"only"`
	// Channels holds every channel that may leave: "outputs.NAME", "logs.stdout", …
	Channels map[abi.Channel]limit `json:"channels"`
	// MaxTotalBytes bounds all channels together; absent means the sum of their own bounds.
	MaxTotalBytes *int64 `json:"max_total_bytes"`
}

// limit bounds one channel.
type limit struct {
	MaxBytes int64 `json:"max_bytes"`
	// MaxFiles bounds the files of a folder; absent means 1.
	MaxFiles *int `json:"max_files"`
	// Names are patterns (Go's path.Match) for the files of a folder, held against the name, or
	// against the whole path if the pattern has a slash; absent means any name.
	Names []string `json:"names"`
}

// Decide is the policy.
func Decide(ctx *sdk.Context) (abi.Decision, error) {
	var c config
	if err := ctx.Config(&c); err != nil {
		return abi.Decision{}, err
	}
	if err := c.check(); err != nil {
		return abi.Decision{}, err
	}
	if code := c.Only.Deny(ctx.Request); code != "" {
		return sdk.Deny(code), nil
	}
	switch ctx.Request.Point {
	case abi.Admit:
		return c.admit(ctx), nil
	case abi.Ingress:
		return sdk.Allow(), nil
	default:
		return c.egress(ctx)
	}
}

func (c config) admit(ctx *sdk.Context) abi.Decision {
	decision := abi.Decision{Allow: true, Caps: map[abi.Channel]int64{}}
	for _, channel := range ctx.Request.Channels {
		if limit, ok := c.Channels[channel]; ok {
			decision.Channels = append(decision.Channels, channel)
			decision.Caps[channel] = limit.MaxBytes
		} else if _, output := channel.OutputName(); output {
			return sdk.Deny("channel")
		}
	}
	return decision
}

func (c config) egress(ctx *sdk.Context) (abi.Decision, error) {
	left := c.total()
	for _, artifact := range ctx.Artifacts() {
		limit, ok := c.Channels[artifact.Channel]
		if !ok {
			return sdk.Deny("channel"), nil
		}
		if artifact.Bytes > limit.MaxBytes || artifact.Bytes > left {
			return sdk.Deny("too-large"), nil
		}
		left -= artifact.Bytes
		if artifact.Kind == "file" {
			continue
		}
		code, err := limit.folder(artifact)
		if err != nil {
			return abi.Decision{}, err
		}
		if code != "" {
			return sdk.Deny(code), nil
		}
	}
	return sdk.Allow(), nil
}

// folder judges the files of a folder and returns the code that denies it, or "".
func (l limit) folder(artifact sdk.Artifact) (code string, err error) {
	files := 0
	for file, err := range artifact.All() {
		if err != nil {
			return "", err
		}
		if files++; files > l.files() {
			return "too-many-files", nil
		}
		if !l.named(file.Path) {
			return "file-name", nil
		}
	}
	return "", nil
}

func (l limit) files() int {
	if l.MaxFiles == nil {
		return 1
	}
	return *l.MaxFiles
}

// named reports whether a file's path matches one of the patterns.
func (l limit) named(name string) bool {
	for _, pattern := range l.Names {
		against := name
		if !strings.Contains(pattern, "/") {
			against = path.Base(name)
		}
		if ok, err := path.Match(pattern, against); ok && err == nil {
			return true
		}
	}
	return l.Names == nil
}

// total bounds all channels together; it stays below the largest int64.
func (c config) total() int64 {
	if c.MaxTotalBytes != nil {
		return *c.MaxTotalBytes
	}
	const most = int64(1) << 62
	var total int64
	for _, limit := range c.Channels {
		total = min(most, total+min(most, limit.MaxBytes))
	}
	return total
}

// check makes sure of what the schema cannot say.
func (c config) check() error {
	for channel, limit := range c.Channels {
		if limit.MaxBytes < 0 {
			return fmt.Errorf("config.channels[%s].max_bytes: negative", channel)
		}
		for i, pattern := range limit.Names {
			if _, err := path.Match(pattern, ""); err != nil {
				return fmt.Errorf("config.channels[%s].names[%d]: %w", channel, i, err)
			}
		}
	}
	return nil
}
