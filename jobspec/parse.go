package jobspec

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"time"
)

// Parse reads a job file. name is what messages call the file; with an absolute name,
// relative and absolute destinations are compared too. The error is a [*Problems] with
// everything that is wrong. Defaults are filled in; paths stay as they are written.
func Parse(name string, data []byte) (*Job, error) {
	c := newCollector(name, jobFormat())
	root := c.load(data)
	if root == nil {
		return nil, c.err()
	}
	c.positions[""] = at(root)
	v := c.walk(root, c.format.root, "")
	if !v.set {
		return nil, c.err()
	}
	job := build(v)
	c.command(job, v.at("application"))
	c.rules(job, v.at("version"))
	c.host(job)
	if err := c.err(); err != nil {
		return nil, err
	}
	job.file, job.positions = name, c.positions
	return job, nil
}

// command tells where the command is: in the job for a plain application, in the bundle for a
// sealed one. Rules about a command that is not here stay silent until [Job.Adopt].
func (c *collector) command(job *Job, application value) {
	here, known := application.at("command").set, application.at("from").set
	switch {
	case job.Application.Sealed() && here:
		c.report("application.command", "a sealed application has its own command, which nobody can change",
			"remove it; `cloister inspect` shows the bundle's")
	case !here && known && !job.Application.Sealed() && c.intact("application.command"):
		c.report("application", "command is missing", "say how to run it: command: {entrypoint: main.py}")
	}
	if !here {
		c.broken = append(c.broken, "application.command")
	}
}

// Adopt gives a job with a sealed application the command of its bundle, and applies the rules
// that had to wait for it. The error is a [*Problems]; the job is unchanged then.
func (j *Job) Adopt(command Command) error {
	c := newCollector(j.file, jobFormat())
	c.positions = j.positions
	adopted := *j
	adopted.Application.Command = command
	c.rules(&adopted, value{})
	for _, name := range sorted(j.Outputs) {
		c.landing(outputPath(name), j.Outputs[name].SaveTo, adopted.LandsAsFolder(name))
	}
	if err := c.err(); err != nil {
		return err
	}
	*j = adopted
	return nil
}

func outputPath(name string) path { return path("outputs").key(name).field("save_to") }

// rules runs the shared rules over a draft of the canonical job. What the file says stands
// in it as it is: a limit of 0 is a problem, not a limit left out, and a list is in its order.
func (c *collector) rules(job *Job, version value) {
	draft := job.canonical(make([]string, len(job.Policies)))
	draft.Limits, draft.Keep = job.Limits, job.Keep
	for name := range draft.SealTo {
		draft.SealTo[name] = job.Outputs[name].SealTo
	}
	if version.set {
		draft.Version = int(version.number)
	}
	for i := range draft.Policies {
		draft.Policies[i].Module = "sha256:" + strings.Repeat("0", 64) // not known yet, of the right length
	}
	r := &rules{
		job:    draft,
		report: func(p path, message, hint string) { c.report(inFile(p), message, hint) },
		intact: func(p path) bool { return c.intact(inFile(p)) },
		sealed: job.Application.Sealed(),
	}
	r.run()
}

// inFile is where the file has what the canonical job has at p.
func inFile(p path) path {
	if p.within("command") {
		return "application." + p
	}
	return p
}

// build makes a job of a walked file; what is absent gets its default.
func build(v value) *Job {
	application, logs := v.at("application"), v.at("logs")
	job := &Job{
		Name:        v.at("name").text,
		Environment: v.at("environment").text,
		Application: Application{
			From:    application.at("from").text,
			Command: buildCommand(application.at("command")),
		},
		Inputs:     map[string]Input{},
		Parameters: texts(v.at("parameters")),
		Outputs:    map[string]Output{},
		Logs:       Logs{Stdout: logs.at("stdout").text, Stderr: logs.at("stderr").text},
		ExitTo:     v.at("exit").text,
		Limits:     buildLimits(v.at("limits")),
		Keep:       time.Duration(v.at("keep").numberOr(int64(DefaultKeep))),
	}
	for name, input := range v.at("inputs").fields {
		job.Inputs[name] = Input{From: input.at("from").text}
	}
	for name, output := range v.at("outputs").fields {
		job.Outputs[name] = Output{SaveTo: output.at("save_to").text, SealTo: buildSealTo(output.at("seal_to"))}
	}
	for _, p := range v.at("policies").items {
		job.Policies = append(job.Policies, buildPolicy(p))
	}
	return job
}

// buildSealTo tells a list that is not there from one that names nobody.
func buildSealTo(v value) []string {
	if !v.set {
		return nil
	}
	recipients := make([]string, len(v.items))
	for i, recipient := range v.items {
		recipients[i] = recipient.text
	}
	return recipients
}

func buildPolicy(v value) Policy {
	policy := Policy{Use: v.at("use").text, Module: v.at("module").text, Config: json.RawMessage("null")}
	if config, err := encode(v.at("config").any); err == nil {
		policy.Config = config
	}
	return policy
}

func buildCommand(v value) Command {
	command := Command{
		Executor:   v.at("executor").textOr(DefaultExecutor),
		Entrypoint: v.at("entrypoint").text,
		Env:        texts(v.at("env")),
		Outputs:    texts(v.at("outputs")),
		Parameters: map[string]Parameter{},
	}
	for _, digest := range v.at("environments").items {
		command.Environments = append(command.Environments, digest.text)
	}
	for _, arg := range v.at("args").items {
		command.Args = append(command.Args, arg.text)
	}
	for name, p := range v.at("parameters").fields {
		parameter := Parameter{Pattern: p.at("pattern").text}
		if d := p.at("default"); d.set {
			parameter.Default = &d.text
		}
		command.Parameters[name] = parameter
	}
	return command
}

func buildLimits(v value) Limits {
	d := DefaultLimits()
	return Limits{
		CPUs:      int(v.at("cpus").numberOr(int64(d.CPUs))),
		Memory:    v.at("memory").numberOr(d.Memory),
		Disk:      v.at("disk").numberOr(d.Disk),
		Processes: int(v.at("processes").numberOr(int64(d.Processes))),
		Queue:     time.Duration(v.at("queue").numberOr(int64(d.Queue))),
		Run:       time.Duration(v.at("run").numberOr(int64(d.Run))),
	}
}

func texts(v value) map[string]string {
	m := map[string]string{}
	for name, text := range v.fields {
		m[name] = text.text
	}
	return m
}

// host checks what only the operator's side has: paths of its disk and names of the library.
func (c *collector) host(job *Job) {
	sources, destinations := map[path]string{}, map[path]string{}
	take := func(into map[path]string, p path, s string) {
		if f := hostPathFault(s); f != nil {
			c.report(p, f.message, f.hint)
			return
		}
		into[p] = c.resolve(s)
	}
	take(sources, "application.from", job.Application.From)
	if job.Environment != "" {
		take(sources, "environment", job.Environment)
		if sealed(job.Environment) {
			c.report("environment", "a dependency environment is not sealed", "name a folder that cloister env build made")
		}
	}
	for _, name := range sorted(job.Inputs) {
		take(sources, path("inputs").key(name).field("from"), job.Inputs[name].From)
	}
	for i, policy := range job.Policies {
		c.policy(path("policies").index(i), policy, take, sources)
	}
	landing := func(p path, s string, folder bool) {
		take(destinations, p, s)
		c.landing(p, s, folder)
	}
	for _, name := range sorted(job.Outputs) {
		folder := job.LandsAsFolder(name) || !c.intact("application.command")
		landing(outputPath(name), job.Outputs[name].SaveTo, folder)
	}
	for p, s := range map[path]string{"logs.stdout": job.Logs.Stdout, "logs.stderr": job.Logs.Stderr, "exit": job.ExitTo} {
		if s != "" {
			landing(p, s, false)
		}
	}
	c.apart(sources, destinations)
}

func (c *collector) policy(p path, policy Policy, take func(map[path]string, path, string), sources map[path]string) {
	if policy.Use != "" && policy.Module != "" {
		c.report(p, "names both use and module", "keep one of them")
		return
	}
	if policy.Use == "" && policy.Module == "" {
		if c.intact(p) {
			c.report(p, "names no policy", "write use: library/NAME or module: ./policy.wasm")
		}
		return
	}
	if policy.Module != "" {
		take(sources, p.field("module"), policy.Module)
	} else if len(policy.Use) > maxName || !useRE.MatchString(policy.Use) {
		c.report(p.field("use"), quote(policy.Use)+" is no ready-made policy", "write library/NAME, or module: and a path")
	}
}

// landing checks that a destination can be written at all.
func (c *collector) landing(p path, s string, folder bool) {
	base := filepath.Base(filepath.Clean(s))
	switch {
	case s == "":
	case base == "." || base == ".." || base == "/":
		c.report(p, "names no file of its own", "add a name at the end")
	case strings.HasSuffix(s, "/") && !folder:
		c.report(p, "is a folder, but a file is to land there", fmt.Sprintf("name the file: %sresult", s))
	}
}

// resolve is a path as it is compared with others.
func (c *collector) resolve(s string) string {
	if !filepath.IsAbs(s) && filepath.IsAbs(c.file) {
		s = filepath.Join(filepath.Dir(c.file), s)
	}
	return filepath.Clean(s)
}

// apart keeps destinations out of one another and off what the job reads.
func (c *collector) apart(sources, destinations map[path]string) {
	overlap(destinations, func(later, earlier path, same bool) {
		if same {
			c.report(later, fmt.Sprintf("is the same destination as %s", earlier), "give each a destination of its own")
		} else {
			c.report(later, fmt.Sprintf("stands inside the destination %s, or around it", earlier), "put them side by side")
		}
	})
	for p, destination := range destinations {
		for q, source := range sources {
			if source == destination || strings.HasPrefix(source, destination+"/") {
				c.report(p, fmt.Sprintf("would replace what %s reads", q), "choose another destination")
				break
			}
		}
	}
}
