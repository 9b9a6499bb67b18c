// Command cloister-executor holds every executor that ships with Cloister. A manifest names
// the executor as its one argument:
//
//	{"name": "python", "executable": "cloister-executor", "args": ["python"], …}
//
// An enclave starts it inside a sandbox and talks to it; it is of no use by hand.
package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/cloister-run/cloister/plugins/executor"
	"github.com/cloister-run/cloister/plugins/sdk"
	"github.com/cloister-run/cloister/plugins/shipped"
	"github.com/cloister-run/cloister/plugins/wasi"
)

func main() { os.Exit(run(os.Args[1:], os.Stderr)) }

// run serves the executor that args name until its sandbox is torn down. The executor of WebAssembly
// runs its guests in this program too.
func run(args []string, stderr io.Writer) int {
	if len(args) > 0 && args[0] == wasi.Guest {
		return wasi.Main(args[1:])
	}
	executors := map[string]func() executor.Executor{}
	var names []string
	for _, e := range shipped.All() {
		executors[e.Name] = e.New
		names = append(names, e.Name)
	}
	var problem string
	switch {
	case len(args) == 0:
		problem = "no executor is named"
	case len(args) > 1:
		problem = fmt.Sprintf("%d arguments, the name of an executor was expected", len(args))
	case executors[args[0]] == nil:
		problem = fmt.Sprintf("there is no executor %.80q", args[0])
	default:
		sdk.Serve(executors[args[0]]())
		return 0
	}
	_, _ = fmt.Fprintf(stderr, "cloister-executor: error: %s\n", problem)
	_, _ = fmt.Fprintf(stderr, "cloister-executor: hint: an enclave starts this program with one argument out of: %s\n", strings.Join(names, ", "))
	return 2
}
