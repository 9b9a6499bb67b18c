package jobspec

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// Kind says what an asset is.
type Kind string

// The kinds of assets that can be sealed.
const (
	ApplicationKind Kind = "application"
	ModelKind       Kind = "model"
	DatasetKind     Kind = "dataset"
)

// Bundle is a parsed and valid bundle file: what an owner says about an asset to be sealed.
type Bundle struct {
	Asset Asset
	// Command is how an application is run; nil for every other kind.
	Command *Command
	// Key is the full ARN of the KMS key that the asset is sealed under: that key is its owner.
	Key string
	// Policy goes with the asset wherever it goes.
	Policy Policy

	// file and positions say where the bundle stands; empty for one made without [ParseBundle].
	file      string
	positions map[path]position
}

// Asset is what is sealed.
type Asset struct {
	// Name is lower-case kebab, at most 63 bytes.
	Name string
	Kind Kind
	// From is a file or a folder, as written in the file (relative to the bundle file).
	From string
}

// keyPattern is the full ARN of a KMS key, of one region or of several (KMS developer guide, "Key
// identifiers"). An alias is none: whoever may move it would move the owner. "cloister-dev" is
// the partition of the simulated KMS.
const keyPattern = `^arn:(aws|aws-cn|aws-us-gov|cloister-dev):kms:[a-z][a-z0-9-]{0,31}:[0-9]{12}:key/` +
	`(mrk-[0-9a-f]{32}|[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})$`

const (
	kindPattern = `^(application|model|dataset)$`
	maxKeyARN   = 128
)

var keyRE = regexp.MustCompile(keyPattern)

func bundleFormat() format {
	return format{noun: "bundle file", begin: "begin with: asset: {name: scans, kind: dataset, from: ./scans}", root: bundleFile()}
}

// bundleFile is the one table of the bundle file's fields.
func bundleFile() *shape {
	return object("One asset to seal, together with the policy that guards it.",
		required("asset", "say what to seal: asset: {name: scans, kind: dataset, from: ./scans}",
			object("What is sealed.",
				required("name", "name it: name: scans",
					text("The asset's name, lower-case words joined by hyphens. It stands in the open.", kebabPattern, maxName)),
				required("kind", "say what it is: kind: dataset",
					text("What the asset is: `application`, `model` or `dataset`.", kindPattern, maxName)),
				required("from", "say where it is: from: ./scans",
					text("A file or a folder, relative to the bundle file.", "", maxHostPath)))),
		optional("command", bundleCommandShape()),
		required("key", "name the KMS key to seal under: key: arn:aws:kms:…:key/…",
			text("The full ARN of the KMS key to seal under. Whoever may encrypt under that key is the asset's owner.", keyPattern, maxKeyARN)),
		required("policy", "say who may use it and how: policy: {use: library/NAME}; library/allow-all allows everything", policyShape("bundle")),
	)
}

func bundleCommandShape() *shape {
	s := commandShape()
	s.doc = "How the application is run. An application has one, nothing else may have one; a job cannot change it and supplies declared parameters only."
	return s
}

// ParseBundle reads a bundle file. name is what messages call the file. The error is a
// [*Problems] with everything that is wrong. Defaults are filled in; paths stay as written.
func ParseBundle(name string, data []byte) (*Bundle, error) {
	c := newCollector(name, bundleFormat())
	root := c.load(data)
	if root == nil {
		return nil, c.err()
	}
	c.positions[""] = at(root)
	v := c.walk(root, c.format.root, "")
	if !v.set {
		return nil, c.err()
	}
	b := buildBundle(v)
	b.rules(c)
	take := func(_ map[path]string, p path, s string) {
		if f := hostPathFault(s); f != nil {
			c.report(p, f.message, f.hint)
		}
	}
	take(nil, "asset.from", b.Asset.From)
	c.policy("policy", b.Policy, take, nil)
	if err := c.err(); err != nil {
		return nil, err
	}
	b.file, b.positions = name, c.positions
	return b, nil
}

func buildBundle(v value) *Bundle {
	asset, key := v.at("asset"), v.at("key")
	b := &Bundle{
		Asset:  Asset{Name: asset.at("name").text, Kind: Kind(asset.at("kind").text), From: asset.at("from").text},
		Key:    key.text,
		Policy: buildPolicy(v.at("policy")),
	}
	if v.at("command").set {
		command := buildCommand(v.at("command"))
		b.Command = &command
	}
	return b
}

// Fault is a problem that only the reader of the asset's files can see; see [Job.Fault].
func (b *Bundle) Fault(at, message, hint string) Problem {
	return fault{message, hint}.at(b.file, b.positions, path(at))
}

// CheckSealed applies every rule that holds for what a sealed bundle states in the open: not
// those about paths of the owner's disk, nor about where the policy came from. The error is
// a [*Problems] without lines.
func (b *Bundle) CheckSealed() error {
	c := newCollector("bundle", bundleFormat())
	b.rules(c)
	return c.err()
}

// rules reports every problem of what the bundle states in the open.
func (b *Bundle) rules(c *collector) {
	r := &rules{job: &Canonical{}, report: c.report, open: true, intact: func(p path) bool {
		return !slices.Contains([]path{"inputs", "outputs", "parameters"}, p) && c.intact(p)
	}}
	r.kebab("asset.name", b.Asset.Name, "digits-2")
	if known := []string{string(ApplicationKind), string(ModelKind), string(DatasetKind)}; !slices.Contains(known, string(b.Asset.Kind)) {
		hint := "known here: " + strings.Join(known, ", ")
		if near := nearest(string(b.Asset.Kind), known); near != "" {
			hint = fmt.Sprintf("did you mean %q?", near)
		}
		r.report("asset.kind", quote(string(b.Asset.Kind))+" is no kind of asset", hint)
	}
	if f := keyFault(b.Key); f != nil {
		r.report("key", f.message, f.hint)
	}
	if _, err := canonicalConfig(b.Policy.Config); err != nil {
		r.report("policy.config", err.Error(), "")
	}
	switch known := c.intact("asset.kind"); {
	case b.Command == nil && known && b.Asset.Kind == ApplicationKind:
		r.report("command", "an application needs one", "say how to run it: command: {entrypoint: main.py}")
	case b.Command != nil && known && b.Asset.Kind != ApplicationKind:
		r.report("command", "only an application has one", "remove it, or seal an application")
	case b.Command != nil:
		r.job.Command = *b.Command
		if r.counts() {
			r.command()
			r.parameters()
			r.arguments()
		}
	}
}

// keyFault says what is wrong with the name of a KMS key.
func keyFault(s string) *fault {
	const hint = "write the full ARN: arn:aws:kms:eu-west-2:111122223333:key/… (aws kms describe-key prints it)"
	switch {
	case len(s) > maxKeyARN:
		return &fault{fmt.Sprintf("is %d bytes long; at most %d are allowed", len(s), maxKeyARN), hint}
	case strings.Contains(s, "alias/"):
		return &fault{"is an alias; whoever may move it could change the owner", hint}
	case !keyRE.MatchString(s):
		return &fault{quote(s) + " is no full ARN of a KMS key", hint}
	}
	return nil
}

// CanonicalConfig is a policy's configuration in its one spelling, as [Canonical.JSON] holds
// it: names sorted, no spaces, nothing escaped without need; "null" for none. It refuses what
// is no single JSON value within the bounds of this package.
func CanonicalConfig(raw json.RawMessage) (json.RawMessage, error) {
	out, err := canonicalConfig(raw)
	if err != nil {
		return nil, fmt.Errorf("jobspec: the configuration %w", err)
	}
	return out, nil
}

// Normal is a copy of the command in which absent and empty are one, as in [Canonical].
func (c Command) Normal() Command {
	c.Environments = append([]string{}, c.Environments...)
	slices.Sort(c.Environments)
	c.Args = append([]string{}, c.Args...)
	c.Env = filled(c.Env)
	c.Outputs = filled(c.Outputs)
	c.Parameters = filled(c.Parameters)
	return c
}
