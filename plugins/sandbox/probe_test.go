package sandbox_test

import "golang.org/x/sys/unix"

// probes are what this binary can be instead of a test, by the value of probeVar.
func probes() map[string]func(args []string) int {
	table := func(attempts []attempt) func([]string) int { return func([]string) int { return report(attempts) } }
	return map[string]func(args []string) int{
		"network":     table(network),
		"processes":   table(processes),
		"files":       table(files),
		"devices":     table(devices),
		"descriptors": table(descriptors),
		"privileges":  table(privileges),
		"bomb":        bomb,
		"sleeper":     sleeper,
		"large":       large,
		"own":         own,
		"daemon":      daemon,
		"fork":        fork,
		"hoard":       hoard,
		"scribbler":   scribbler,
		"signaller":   signaller,
		"starter":     starter,
		"without":     without,
		"enclave":     table(enclave),
		"inmate":      table(inmate),
		"worker":      worker,
		"below":       table(below),
	}
}

// sleeper stays.
func sleeper([]string) int {
	for {
		_ = unix.Pause()
	}
}
