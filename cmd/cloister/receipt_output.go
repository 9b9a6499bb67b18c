package main

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/cloister-run/cloister/core/tree"
	"github.com/cloister-run/cloister/enclave/attest"
	"github.com/cloister-run/cloister/policies/abi"
)

// ruleOutput is broken by a file that is not what a receipt says was released.
const ruleOutput attest.Rule = "output"

// maxReleased bounds the files and folders of a folder that is held against a receipt, as the enclave does.
const maxReleased = 1_000_000

// heldOutput is a file or a folder that is held against a receipt.
type heldOutput struct {
	channel abi.Channel
	path    string
}

func parseOutputs(given []string) ([]heldOutput, error) {
	var outputs []heldOutput
	for _, text := range given {
		name, path, ok := strings.Cut(text, "=")
		o := heldOutput{channel: abi.Channel(name), path: path}
		_, isOutput := o.channel.OutputName()
		isOther := slices.Contains([]abi.Channel{abi.Stdout, abi.Stderr, abi.Exit}, o.channel)
		if !ok || path == "" || !isOutput && !isOther {
			return nil, usage("write it as outputs.predictions=./predictions.csv", "--output: %q is no CHANNEL=PATH", text)
		}
		outputs = append(outputs, o)
	}
	return outputs, nil
}

// check compares content: the bytes of a file, the tree of a folder.
func (o heldOutput) check(ctx context.Context, released []abi.Artifact) error {
	i := slices.IndexFunc(released, func(a abi.Artifact) bool { return a.Channel == o.channel })
	if i < 0 {
		return o.differs("the receipt says nothing was released by " + string(o.channel))
	}
	want := released[i]
	source, err := tree.Open(o.path, tree.Limits{Bytes: max(want.Bytes, 0), Entries: maxReleased})
	if err != nil {
		return o.unread(err)
	}
	defer source.Close()
	sum, err := source.Digest(ctx)
	if err != nil {
		return o.unread(err)
	}
	kind, digest := "tree", sum.Digest
	if _, file := source.IsFile(); file {
		kind, digest = "file", source.FileSum()
	}
	if kind != want.Kind || digest != want.Digest {
		return o.differs("it is a " + kind + " of " + digest + ", and a " + want.Kind + " of " + want.Digest + " was released")
	}
	return nil
}

// unread tells content that cannot be what was released from content that cannot be read.
func (o heldOutput) unread(err error) error {
	if errors.Is(err, tree.ErrRefused) {
		return o.differs("it is not what was released: " + err.Error())
	}
	return usage("name the file or folder as it was written when the job was done", "--output %s: %v", o.channel, err)
}

func (o heldOutput) differs(why string) error {
	v := &attest.Violation{Rule: ruleOutput, Reason: string(o.channel) + ": " + o.path + ": " + why}
	return broken(v, "the receipt is good, and "+o.path+" is not what it is about")
}
