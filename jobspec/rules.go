package jobspec

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

var (
	kebabRE  = regexp.MustCompile(kebabPattern)
	nameRE   = regexp.MustCompile(namePattern)
	envRE    = regexp.MustCompile(envPattern)
	useRE    = regexp.MustCompile(usePattern)
	digestRE = regexp.MustCompile(digestPattern)
)

// rules is the one set of rules, over the one model that both front ends fill: the job file
// on the operator's side and the canonical job on the enclave's.
type rules struct {
	job    *Canonical
	report func(p path, message, hint string)
	// intact says that everything at a path could be read, so that comparing is fair.
	intact func(p path) bool
	// open says that only the command is known, not the job that will name inputs and outputs.
	open bool
	// sealed says that the command is a bundle's, which the operator cannot change.
	sealed bool
}

// run reports every problem of a normal job.
func (r *rules) run() {
	c := r.job
	if c.Version != Version {
		r.report("version", fmt.Sprintf("version %d is not known", c.Version), fmt.Sprintf("write version: %d", Version))
	}
	r.kebab("name", c.Name, "digits-2")
	if !r.counts() {
		return
	}
	r.command()
	r.inputs()
	r.outputs()
	r.sealTo()
	r.parameters()
	r.arguments()
	r.policies()
	r.limits()
	if size := len(c.JSON()); size > MaxCanonical {
		r.report("", fmt.Sprintf("the job is %d bytes long in its canonical form; at most %d are allowed", size, MaxCanonical), "shorten arguments and configurations")
	}
}

func (r *rules) kebab(p path, s, example string) {
	if len(s) > maxName {
		r.report(p, fmt.Sprintf("is %d bytes long; at most %d are allowed", len(s), maxName), "shorten it")
	} else if !kebabRE.MatchString(s) {
		r.report(p, quote(s)+" is no lower-case name with hyphens", "write it like "+example)
	}
}

// name checks a name that other parts of the job refer to.
func (r *rules) name(p path, s string) {
	if len(s) > maxName {
		r.report(p, fmt.Sprintf("the name is %d bytes long; at most %d are allowed", len(s), maxName), "shorten it")
	} else if !nameRE.MatchString(s) {
		r.report(p, quote(s)+" is no lower-case name", "begin with a letter; letters, digits and _ may follow")
	}
}

// counts comes before everything that compares many with many, or matches: beyond these
// bounds that would cost more than a job may cost.
func (r *rules) counts() bool {
	c := r.job
	within := true
	for _, count := range []struct {
		at      path
		n, most int
	}{
		{"command.environments", len(c.Command.Environments), maxEnvironments},
		{"command.args", len(c.Command.Args), maxArgs},
		{"command.env", len(c.Command.Env), maxEnv},
		{"command.outputs", len(c.Command.Outputs), maxOutputs},
		{"command.parameters", len(c.Command.Parameters), maxParameters},
		{"inputs", len(c.Inputs), maxInputs},
		{"parameters", len(c.Parameters), maxParameters},
		{"outputs", len(c.Outputs), maxOutputs},
		{"seal_to", len(c.SealTo), maxOutputs},
		{"policies", len(c.Policies), maxPolicies},
	} {
		if count.n > count.most {
			within = false
			r.report(count.at, fmt.Sprintf("holds %d entries; at most %d are allowed", count.n, count.most), "remove some")
		}
	}
	return within
}

func (r *rules) text(p path, s string, most int, l lines) {
	if message := textFault(s, most, l); message != "" {
		r.report(p, message, "")
	}
}

func (r *rules) inputs() {
	seen := map[string]bool{}
	for _, name := range r.job.Inputs {
		p := path("inputs").key(name)
		r.name(p, name)
		if seen[name] {
			r.report(p, "stands there twice", "")
		}
		seen[name] = true
	}
}

// outputs compares what the command writes with what the job asks for: both ways, since an
// output without a destination would be lost and one without a place cannot come.
func (r *rules) outputs() {
	declared := r.job.Command.Outputs
	asked := map[string]bool{}
	for _, name := range r.job.Outputs {
		p := path("outputs").key(name)
		r.name(p, name)
		if asked[name] {
			r.report(p, "stands there twice", "")
		}
		asked[name] = true
	}
	if !r.intact("outputs") || !r.intact("command.outputs") {
		return
	}
	for name := range asked {
		if _, ok := declared[name]; !ok {
			hint := fmt.Sprintf("add it to the command: outputs: {%s: %s.csv}", name, name)
			if r.sealed {
				hint = "remove it; the sealed application has: " + strings.Join(sorted(declared), ", ")
			}
			r.report(path("outputs").key(name), "the command declares no such output", suggest(name, declared, hint))
		}
	}
	for _, name := range sorted(declared) {
		if !asked[name] {
			r.report(path("command.outputs").key(name), "the job does not say where this output goes",
				fmt.Sprintf("add: outputs: {%s: {save_to: ./out/%s}}", name, name))
		}
	}
}

// suggest points at the nearest of the known names, or else falls back.
func suggest[V any](name string, known map[string]V, otherwise string) string {
	if near := nearest(name, sorted(known)); near != "" {
		return fmt.Sprintf("did you mean %q?", near)
	}
	if len(name) > maxName {
		return ""
	}
	return otherwise
}

func sorted[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

func (r *rules) policies() {
	for i, policy := range r.job.Policies {
		p := path("policies").index(i)
		if !digestRE.MatchString(policy.Module) {
			r.report(p.field("module"), quote(policy.Module)+" is no digest", "a digest is sha256: and 64 hexadecimal digits")
		}
		if _, err := canonicalConfig(policy.Config); err != nil {
			r.report(p.field("config"), err.Error(), "")
		}
	}
}

func (r *rules) limits() {
	l := r.job.Limits
	r.within("limits.cpus", int64(l.CPUs), 1, maxCPUs, plain)
	r.within("limits.memory", l.Memory, minMemory, maxMemory, bytesOf)
	r.within("limits.disk", l.Disk, minDisk, maxDisk, bytesOf)
	r.within("limits.processes", int64(l.Processes), 1, maxProcesses, plain)
	r.within("limits.queue", int64(l.Queue), 0, int64(maxQueue), durationOf)
	r.within("limits.run", int64(l.Run), int64(minRun), int64(maxRun), durationOf)
	r.within("keep", int64(r.job.Keep), int64(minKeep), int64(maxKeep), durationOf)
}

func (r *rules) within(p path, n, low, high int64, show func(int64) string) {
	if n < low || n > high {
		r.report(p, fmt.Sprintf("%s is out of bounds", show(n)), fmt.Sprintf("from %s to %s are allowed", show(low), show(high)))
	}
}

// hasReference reports text that looks like a reference where none is expanded.
func hasReference(s string) bool { return strings.Contains(s, "${") }
