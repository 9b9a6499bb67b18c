package jobspec

// jobFile is the one table of the job file's fields.
func jobFile() *shape {
	return object("One job: what to run, over what, and where its results go.",
		required("version", "begin with: version: 1",
			number("The version of this format.", Version, Version, nil)),
		required("name", "name the job: name: digits",
			text("The job's name, lower-case words joined by hyphens.", kebabPattern, maxName)),
		optional("environment", text("A dependency environment that `cloister env build` made: a folder, relative to the job file. The executor runs the application in it.", "", maxHostPath)),
		required("application", "say what to run: application: {from: ./app, command: {entrypoint: main.py}}", applicationShape()),
		optional("inputs", named("What the application reads: models, data sets, any file or folder. The application sees each as `${inputs.NAME}`.", maxInputs,
			object("One input.",
				required("from", "say where it is: from: ./data",
					text("A file, a folder or a sealed bundle (`NAME.sealed`), relative to the job file.", "", maxHostPath))))),
		optional("parameters", named("Values for the parameters that the command declares. Write numbers in quotes.", maxParameters,
			blankText("The value; the whole of it must match the parameter's pattern.", maxValue))),
		optional("outputs", named("Where the declared outputs land. It names the same outputs as `application.command.outputs`.", maxOutputs, outputShape())),
		optional("logs", object("Which logs are wanted. A log that is not named here is not collected.",
			optional("stdout", destination("Where the application's standard output lands.")),
			optional("stderr", destination("Where the application's standard error lands.")))),
		optional("exit", destination("Where the number of the application's exit status lands. Without it you learn only whether the application succeeded.")),
		optional("policies", list("Your own policies, asked in this order beside those of other parties.", maxPolicies, policyShape("job"))),
		optional("limits", limitsShape()),
		optional("keep", &shape{kind: durationKind, low: int64(minKeep), high: int64(maxKeep), shown: "15m",
			doc: "How long the enclave keeps what may leave for whoever fetches it, in the memory that `limits.disk` holds; then it is wiped."}),
	)
}

func destination(doc string) *shape { return text(doc, "", maxHostPath) }

func applicationShape() *shape {
	command := commandShape()
	command.doc = "How the application is run. A plain application needs one; a sealed one has its own, and the job must have none."
	return object("The code to run.",
		required("from", "say where the code is: from: ./app",
			text("The application's folder, or the sealed bundle (`NAME.sealed`) that holds it, relative to the job file.", "", maxHostPath)),
		optional("command", command))
}

func commandShape() *shape {
	executor := text("The executor that runs it.", kebabPattern, maxName)
	executor.shown = DefaultExecutor
	env := &shape{
		kind: mapKind, most: maxEnv, keys: envPattern, longest: maxEnvName, refused: refusedEnvPattern(),
		doc:  "Environment variables. Those that change how a loader, a shell or a language runtime works are refused.",
		elem: blankText("The value, taken as it stands: `${` is refused.", maxEnvValue),
	}
	return object("How the application is run.",
		optional("executor", executor),
		required("entrypoint", "name the file to run: entrypoint: main.py",
			text("The file to run, a path inside the application.", "", maxPlace)),
		optional("environments", list("The digests of the dependency environments that it may run in, as `cloister env build` prints them. Without any, a plain application runs in any and a sealed one in none.", maxEnvironments,
			text("A digest: `sha256:` and 64 hexadecimal digits.", digestPattern, 71))),
		optional("args", list("The arguments. `${inputs.NAME}`, `${outputs.NAME}` and `${parameters.NAME}` are filled in; `$${` is a literal `${`.", maxArgs,
			blankText("One argument.", maxArg))),
		optional("env", env),
		optional("outputs", named("The outputs that the application writes, and the place of each in the output folder.", maxOutputs,
			text("A path in the output folder. One that ends in `/` is a folder. No place may stand inside another.", "", maxPlace))),
		optional("parameters", named("The values that a job may set.", maxParameters,
			object("One parameter.",
				optional("default", blankText("The value when the job sets none; without it the job must set one.", maxValue)),
				required("pattern", `say what the value may be: pattern: "[0-9]+"; ".*" takes any line`,
					text("An RE2 expression that the whole value must match.", "", maxPattern))))),
	)
}

func outputShape() *shape {
	return object("One output.",
		required("save_to", "say where it lands: save_to: ./out/result.csv",
			destination("Where the output lands, relative to the job file. No destination may stand inside another, nor replace something that the job reads.")),
		optional("seal_to", list("Who can read the output: the enclave encrypts it with age before it leaves. A folder lands as one file, the encryption of a tar. It takes `limits.disk` of the memory of the enclave once more.", maxRecipients,
			text("An age recipient, `age1…` or `age1pq1…`, as age-keygen prints it.", "", maxRecipient))))
}

// policyShape is a policy as the file of that noun names it.
func policyShape(noun string) *shape {
	policy := object("One policy: `use` or `module`, and its configuration.",
		optional("use", text("A ready-made policy: `library/NAME`.", usePattern, maxName)),
		optional("module", text("A WebAssembly module of your own, relative to the "+noun+" file.", "", maxHostPath)),
		optional("config", &shape{kind: anyKind, most: maxConfig,
			doc: "The policy's configuration: any value that JSON can hold. What it may say is the policy's business."}))
	policy.oneOf = []string{"use", "module"}
	return policy
}

func limitsShape() *shape {
	d := DefaultLimits()
	return object("What the application may use.",
		optional("cpus", number("Processor cores.", 1, maxCPUs, d.CPUs)),
		optional("memory", &shape{kind: sizeKind, low: minMemory, high: maxMemory, shown: "1GiB",
			doc: "Memory, as `512MiB`, `2GiB`, `1GB` or a whole number of bytes."}),
		optional("disk", &shape{kind: sizeKind, low: minDisk, high: maxDisk, shown: "1GiB",
			doc: "Space for outputs, logs and temporary files, written like `memory`."}),
		optional("processes", number("Processes, threads included.", 1, maxProcesses, d.Processes)),
		optional("queue", &shape{kind: durationKind, low: 0, high: int64(maxQueue), shown: "1h",
			doc: "How long the job may wait for room in the enclave, written like `run`. With `0s` it starts at once or is refused."}),
		optional("run", &shape{kind: durationKind, low: int64(minRun), high: int64(maxRun), shown: "1h",
			doc: "How long the application may run, as `90s`, `10m` or `1h30m`. A job that runs out of time releases nothing."}),
	)
}
