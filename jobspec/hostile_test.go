package jobspec_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/cloister-run/cloister/jobspec"
)

// Files that are as long as the bound allows and as awkward as they can be. None may take
// long, whatever the parser thinks of it; the slowest was seen to take 0.1 s.
func TestParsingTakesBoundedTime(t *testing.T) {
	room := jobspec.MaxFile - len(smallest) - 200
	fill := func(piece string) string { return strings.Repeat(piece, room/len(piece)) }
	each := func(format string) string {
		var b strings.Builder
		for i := 0; b.Len() < room-len(format)*2-20; i++ {
			b.WriteString(strings.ReplaceAll(format, "%d", fmt.Sprint(i)))
		}
		return b.String()
	}
	command := "version: 1\nname: a\napplication:\n  from: .\n  command:\n    entrypoint: main.py\n"
	for name, data := range map[string]string{
		"one long line":              smallest + "exit: " + fill("x"),
		"one long line of wide text": smallest + "exit: " + fill("漢"),
		"one long name":              smallest + fill("x") + ": 1",
		"one long quoted text":       smallest + `exit: "` + fill(`\n`) + `"`,
		"unknown fields":             smallest + each("u%d: 1\n"),
		"duplicate fields":           smallest + fill("exit: x\n"),
		"duplicate inputs":           smallest + "inputs:\n" + fill("  a: {from: x}\n"),
		"inputs":                     smallest + "inputs:\n" + each("  n%d: {from: x}\n"),
		"places":                     command + "    outputs:\n" + each("      n%d: x\n"),
		"outputs":                    smallest + "outputs:\n" + each("  n%d: {save_to: x}\n"),
		"arguments":                  command + "    args:\n" + fill("      - ${inputs.x}\n"),
		"one argument":               command + "    args: [\"" + fill("${inputs.x}") + "\"]",
		"dollars":                    command + "    args: [\"" + fill("$") + "\"]",
		"parameters":                 command + "    parameters:\n" + each("      n%d: {pattern: x}\n"),
		"open lists":                 smallest + "exit: " + fill("["),
		"open mappings":              smallest + "exit: " + fill("{a: "),
		"nested entries":             fill("- "),
		"comments":                   fill("#\n") + smallest,
		"comments beside values":     fill("a: #b\n"),
		"anchors":                    smallest + "policies:\n  - config:\n" + each("      - &a%d [*a]\n"),
		"anchors in a chain":         smallest + "policies:\n  - config:\n      - &a x\n" + fill("      - &a [*a]\n"),
		"empty documents":            fill("---\n"),
		"blank lines":                fill("\n"),
		"numbers":                    smallest + "policies: [{config: [" + fill("1e9,") + "]}]",
		"one number":                 smallest + "policies: [{config: " + fill("9") + "}]",
		"one size":                   smallest + "limits: {memory: " + fill("9") + "}",
		"one duration":               smallest + "limits: {run: " + fill("1h") + "}",
		"one path":                   smallest + "exit: " + fill("../"),
	} {
		t.Run(name, func(t *testing.T) {
			if len(data) > jobspec.MaxFile {
				t.Fatalf("the file is refused for its %d bytes and proves nothing", len(data))
			}
			if took := elapsed(func() { _, _ = jobspec.Parse("job.yaml", []byte(data)) }); took > 5*time.Second {
				t.Errorf("took %v", took)
			}
		})
	}
}
