package nitro

import (
	"fmt"
	"regexp"
	"strings"
	"unicode"
)

// Error is what nitro-cli said, or what is wrong with it, and what to do about it.
type Error struct {
	// Verb is what it was asked for; empty where it did not run.
	Verb string
	// Code is AWS's, "E27", or empty ("Nitro Enclaves CLI error codes" in the user guide).
	Code string
	// Message is one line, printable and short.
	Message string
	// Cure is for the person at the terminal.
	Cure string

	ended bool // nitro-cli ended by itself, and this is what it said
}

func (e *Error) Error() string {
	says := "nitro-cli"
	for _, part := range []string{e.Verb, e.Code} {
		if part != "" {
			says += " " + part
		}
	}
	return says + ": " + e.Message
}

// maxMessage bounds what is repeated of nitro-cli's words.
const maxMessage = 300

// unreadable is an error for output that cannot be read.
func unreadable(verb string, err error) *Error {
	return &Error{Verb: verb, Message: "what it prints cannot be read: " + line(err.Error()),
		Cure: "this cloister knows nitro-cli 1.2 to 1.5; nitro-cli --version says which it is"}
}

// complaint reads what nitro-cli wrote to its standard error. The process that holds an enclave says what went
// wrong, and nitro-cli after it that something did: the first code is the cause.
func complaint(verb, says string) *Error {
	e := &Error{Verb: verb, Message: line(firstLine(says)), ended: true}
	if m := regexp.MustCompile(`(?m)^(?:.* \| )?\[ (E[0-9]{2}) \] (.*)$`).FindStringSubmatch(says); m != nil {
		what, _, _ := strings.Cut(m[2], " Such error") // "appears when …": in general
		what, _, _ = strings.Cut(what, " This is used ")
		e.Code, e.Message = m[1], line(what)
	}
	if cause := rootCause(says); cause != "" {
		e.Message = line(e.Message + " (" + cause + ")")
	}
	if e.Message == "" {
		e.Message = "it failed and said nothing"
	}
	e.Cure = cure(e.Code, says)
	return e
}

// rootCause is the last subaction of the first backtrace (document_errors.rs, construct_backtrace), or the file
// that is named.
func rootCause(says string) string {
	_, trace, found := strings.Cut(says, "\n  Subactions:\n")
	if !found {
		return regexp.MustCompile(`(?m)^File: '.*', failing operation: '.*'`).FindString(says)
	}
	cause := ""
	for text := range strings.Lines(trace) {
		if !strings.HasPrefix(text, "    ") {
			break
		}
		cause = strings.TrimSpace(text)
	}
	return cause
}

func firstLine(s string) string {
	for text := range strings.Lines(s) {
		if text = strings.TrimSpace(text); text != "" && text != "Start allocating memory..." {
			return text
		}
	}
	return ""
}

// line makes text fit for one line of a terminal.
func line(s string) string {
	s = strings.TrimSpace(strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, s))
	if runes := []rune(s); len(runes) > maxMessage {
		s = string(runes[:maxMessage]) + "…"
	}
	return s
}

// cure is what to do about a code, and words of what was said.
func cure(code, says string) string {
	for _, c := range cures() {
		if (c.code == "" || c.code == code) && strings.Contains(says, c.says) {
			return c.cure
		}
	}
	if code == "" {
		return "nitro-cli --version and nitro-cli describe-enclaves say whether it works at all; docs/nitro.md has the steps"
	}
	return fmt.Sprintf("nitro-cli explain --error-code %s says more, and /var/log/nitro_enclaves has the rest", code)
}

// known is an error that people meet, and its cure: the first that fits counts. Codes and words are those of
// document_errors.rs, resource_manager.rs and cpu_info.rs.
type known struct{ code, says, cure string }

const (
	restartAllocator = "then: sudo systemctl restart nitro-enclaves-allocator.service"
	morePool         = "give enclaves more CPUs: cpu_count in /etc/nitro_enclaves/allocator.yaml, " + restartAllocator
	moreMemory       = "give enclaves more memory: memory_mib in /etc/nitro_enclaves/allocator.yaml, " + restartAllocator +
		"; where that finds no room, reboot the instance"
	noEnclaves = "this instance has no enclaves: launch it with them (aws ec2 run-instances --enclave-options Enabled=true), of a type that " +
		"has them, and install nitro-cli, which brings the driver"
	noGroup = "join the group of those who may: sudo usermod -aG ne $USER, then log in again"
)

func cures() []known {
	return []known{
		{"E19", "Failed to open device file: Os { code: 13,", noGroup},
		{"E19", "Failed to open device file: Os { code: 2,", noEnclaves},
		{"E18", "", noGroup},
		{"E19", "'/dev/nitro_enclaves'", noEnclaves + "; where it has them, " + noGroup},
		{"E19", "/sys/module/nitro_enclaves/", noEnclaves},
		{"E19", "File: '/var/log/nitro_enclaves", noGroup},
		{"E19", "failing operation: 'Open'", "whoever runs nitro-cli must be able to read the image: see its path and permissions"},
		{"E07", "", "/run/nitro_enclaves is missing or not for you: start the service (sudo systemctl enable --now " +
			"nitro-enclaves-allocator.service), and " + noGroup},
		{"E05", "", "the instance has no room for one more process: free memory"},
		{"E20", "", morePool},
		{"E21", "", morePool},
		{"E22", "", morePool},
		{"E26", "", "give the enclave more memory: four times the size of its image at the least"},
		{"E27", "", moreMemory},
		{"E29", "no CPUs are available in the pool", morePool + "; or end another enclave: nitro-cli describe-enclaves"},
		{"E29", "full CPU cores", "give the enclave whole cores: an even number of CPUs where a core has two threads"},
		{"E29", "vCPU is not available", morePool},
		{"E29", "out of range", morePool},
		{"E29", "lower than the minimum", "give the enclave more memory: 64 MiB at the least"},
		{"E29", "number of memory regions", "the memory set aside is in too many pieces: reboot the instance, so that the allocator finds large ones"},
		{"E29", "NUMA", "the CPUs and the memory set aside are on different nodes: leave the choice to cpu_count in " +
			"/etc/nitro_enclaves/allocator.yaml, " + restartAllocator},
		{"E29", "enclave CID is invalid", "choose another CID, or none"},
		{"E29", "", "try again; where it stays, sudo systemctl restart nitro-enclaves-allocator.service frees what an earlier enclave left"},
		{"E31", "", moreMemory},
		{"E35", "", moreMemory + "; and see that the image is whole: cloister image inspect"},
		{"E36", "vsock bind error", "another enclave is being started on this instance: wait for it"},
		{"E36", "", "the enclave does not come up: see its console (nitro-cli run-enclave … --debug-mode --attach-console). " +
			"Its kernel needs CONFIG_VIRTIO_MMIO_CMDLINE_DEVICES, as AWS's has it, and a signature a certificate that has not expired"},
		{"E42", "", moreMemory},
		{"E59", "", "the certificate that the image is signed with has expired or is wrong: cloister image inspect shows it; sign it anew"},
		{"E11", "code: 2,", "there is no such enclave any more: nitro-cli describe-enclaves says which there are"},
		{"E11", "code: 13,", "the enclave is another user's, who can end it, as root can"},
		{"E38", "", "the enclave is another user's, who can end it, as root can"},
		{"", "unexpected argument", "this nitro-cli is too old for cloister: update it"},
		{"", "wasn't expected, or isn't valid in this context", "this nitro-cli is too old for cloister: update it"},
	}
}
