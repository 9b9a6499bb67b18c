package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/cloister-run/cloister/"

// TestMain makes this binary cloisterd, or its first process, where it is started as such.
func TestMain(m *testing.M) {
	switch filepath.Base(os.Args[0]) {
	case "cloisterd":
		main()
	case "first":
		os.Exit(first(context.Background(), os.Stdout, talk))
	default:
		os.Exit(m.Run())
	}
}

// early is a log that exists before main does, as that of gRPC.
var early = log.New(os.Stderr, "early: ", 0)

// talk says what is left of the environment, says more where libraries do, and ends as its argument has it.
func talk(_ context.Context, console io.Writer) error {
	early.Print("words")
	log.Print("words")
	fmt.Fprintln(os.Stderr, "words")
	fmt.Fprintln(console, os.Environ())
	switch os.Args[1] {
	case "fail":
		return errors.New("the machine")
	case "crash":
		panic("last words")
	}
	return nil
}

// An application's executor speaks gRPC with cloisterd, and so chooses when gRPC has something to say.
func TestI1_TheConsoleHasNoWordsOfLibraries(t *testing.T) {
	for ends, test := range map[string]struct {
		status int
		says   string
	}{
		"well":  {0, `\[\]\n`},
		"fail":  {5, `\[\]\ncloisterd: error: the machine\n`},
		"crash": {2, `\[\]\npanic: last words\n\ngoroutine (.|\n)*`},
	} {
		cmd := exec.Command("/proc/self/exe", ends)
		cmd.Args[0] = "first"
		cmd.Env = []string{"GRPC_GO_LOG_SEVERITY_LEVEL=info", "AWS_PROFILE=other", "PATH=/other"}
		console, err := cmd.CombinedOutput() // one and the same, as the console is
		if _, exited := errors.AsType[*exec.ExitError](err); err != nil && !exited {
			t.Fatal(err)
		}
		if got := cmd.ProcessState.ExitCode(); got != test.status || !regexp.MustCompile(`^`+test.says+`$`).Match(console) {
			t.Errorf("%s: status %d, console %q", ends, got, console)
		}
	}
}

func TestI8_ItIsNoCommand(t *testing.T) {
	cmd := exec.Command("/proc/self/exe", "--help")
	cmd.Args[0] = "cloisterd"
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	exit, ok := errors.AsType[*exec.ExitError](err)
	if !ok || exit.ExitCode() != 2 || stdout.Len() != 0 {
		t.Errorf("%v, %q", err, stdout.String())
	}
	lines := strings.Split(strings.TrimSpace(stderr.String()), "\n")
	if len(lines) != 2 || !strings.HasPrefix(lines[0], "cloisterd: error: ") || !strings.HasPrefix(lines[1], "cloisterd: hint: ") {
		t.Errorf("%q", stderr.String())
	}
}

// dependencies maps what a package links to the packages that import it.
func dependencies(t *testing.T, pkg string) map[string][]string {
	t.Helper()
	out, err := exec.Command("go", "list", "-deps", "-f", `{{.ImportPath}} {{join .Imports " "}}`, pkg).Output()
	if err != nil {
		t.Fatal(err)
	}
	deps := map[string][]string{}
	for line := range strings.Lines(string(out)) {
		fields := strings.Fields(line)
		deps[fields[0]] = append([]string{}, deps[fields[0]]...)
		for _, imported := range fields[1:] {
			deps[imported] = append(deps[imported], fields[0])
		}
	}
	if len(deps) < 50 {
		t.Fatalf("%s has only %d dependencies", pkg, len(deps))
	}
	return deps
}

func TestI8_NothingSimulatedIsLinked(t *testing.T) {
	forbidden := regexp.MustCompile(`^testing(/|$)|httptest|/enclave/(devkit|attest/devca|client|launch|aws)(/|$)|` +
		`/enclave/image/(ramdisk|rootfs|build|kernel|diff|manifest)(/|$)|go-containerregistry|` +
		`(executor|host|policy|core|attest|launch)test(/|$)|` +
		`/spf13/|rapid|goleak|` + module + `cmd/cloister$|^net/http/pprof$|^expvar$|^plugin$`)
	for dep, by := range dependencies(t, ".") {
		// go-plugin has helpers for tests beside its code; nothing here calls them.
		if dep == "testing" && len(by) == 1 && by[0] == "github.com/hashicorp/go-plugin" {
			continue
		}
		if forbidden.MatchString(dep) {
			t.Errorf("cloisterd links %s, for %v", dep, by)
		}
	}
	if !forbidden.MatchString(module+"core/coretest") || !forbidden.MatchString(module+"enclave/devkit/kms") || !forbidden.MatchString(module+"enclave/image/rootfs") {
		t.Error("the rule forbids nothing")
	}
}

// TestI6_NothingThatRunsPoliciesIsLinked: what compiles and runs WebAssembly is in the workers alone, and
// they link nothing that holds a key or reaches the NSM.
func TestI6_NothingThatRunsPoliciesIsLinked(t *testing.T) {
	runs := regexp.MustCompile(`wazero|jsonschema|open-policy-agent|` + module + `policies(/module|/rego|/worker/inside)?$`)
	for dep, by := range dependencies(t, ".") {
		if runs.MatchString(dep) {
			t.Errorf("cloisterd links %s, for %v", dep, by)
		}
	}
	holds := regexp.MustCompile(`aws|hf/nsm|vsock|go-plugin|grpc|^net/http$|^crypto/tls$|` + module + `(core|enclave|plugins)(/|$)`)
	found := false
	for dep, by := range dependencies(t, module+"cmd/cloister-policy") {
		found = found || runs.MatchString(dep)
		if holds.MatchString(dep) {
			t.Errorf("a policy worker links %s, for %v", dep, by)
		}
	}
	if !found {
		t.Error("the rule forbids nothing")
	}
}

func TestCoreKnowsNoLibrary(t *testing.T) {
	forbidden := regexp.MustCompile(`go-plugin|wazero|google\.golang\.org/grpc|aws|vsock|` +
		module + `(enclave|policies|plugins/host|plugins/sandbox|plugins/proto)(/|$)`)
	for dep := range dependencies(t, module+"core") {
		// What core shares with those it serves: leaves that hold formats, and no library of a cloud.
		leaves := []string{module + "policies/abi", module + "enclave/attest", module + "enclave/envelope"}
		if forbidden.MatchString(dep) && !slices.Contains(leaves, dep) {
			t.Errorf("core links %s", dep)
		}
	}
}

// rooms are the folders of this module that a package links.
func rooms(t *testing.T, pkg string) []string {
	t.Helper()
	var dirs []string
	for dep := range dependencies(t, pkg) {
		if room, ours := strings.CutPrefix(dep, module); ours {
			dirs = append(dirs, filepath.Join("..", "..", filepath.FromSlash(room)))
		}
	}
	slices.Sort(dirs)
	return dirs
}

// Nothing that cloisterd is made of asks its arguments or its environment what to do.
func TestI8_NothingUnmeasuredIsAsked(t *testing.T) {
	dirs := rooms(t, ".")
	for _, room := range []string{"core", "enclave/api", "enclave/boot/machine", "enclave/keys", "plugins/sandbox", "policies/worker"} {
		if !slices.Contains(dirs, filepath.Join("..", "..", room)) {
			t.Errorf("%s is not looked at", room)
		}
	}
	for _, dir := range dirs {
		files, err := filepath.Glob(filepath.Join(dir, "*.go"))
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %q, %v", dir, files, err)
		}
		for _, path := range files {
			if strings.HasSuffix(path, "_test.go") {
				continue
			}
			file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
			if err != nil {
				t.Fatal(err)
			}
			for _, asked := range asks(file) {
				t.Errorf("%s: %s", path, asked)
			}
		}
	}
}

// asks finds what a file asks of its arguments or its environment, and what would hide that.
func asks(file *ast.File) (found []string) {
	forbidden := map[string][]string{}
	for path, names := range map[string]string{
		"os":                    "Args Environ Getenv LookupEnv ExpandEnv TempDir UserHomeDir UserConfigDir UserCacheDir",
		"syscall":               "Environ Getenv",
		"golang.org/x/sys/unix": "Environ Getenv",
		"os/exec":               "LookPath",
		"net/http":              "ProxyFromEnvironment",
		"flag":                  "Parse Args Arg",
	} {
		forbidden[filepath.Base(path)] = strings.Fields(names)
		for _, imported := range file.Imports {
			if imported.Path.Value == strconv.Quote(path) && imported.Name != nil {
				found = append(found, path+" under another name")
			}
		}
	}
	ast.Inspect(file, func(n ast.Node) bool {
		selector, ok := n.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		if pkg, ok := selector.X.(*ast.Ident); ok && slices.Contains(forbidden[pkg.Name], selector.Sel.Name) {
			found = append(found, pkg.Name+"."+selector.Sel.Name)
		}
		return true
	})
	return found
}

func TestTheRuleAboutWhatIsAskedForbidsSomething(t *testing.T) {
	for source, want := range map[string]string{
		`import "os"; var x = os.Getenv("A")`:                                  "os.Getenv",
		`import "os"; func f() []string { return os.Args[1:] }`:                "os.Args",
		`import "golang.org/x/sys/unix"; var x = unix.Environ()`:               "unix.Environ",
		`import o "os"; var x = o.Getenv("A")`:                                 "os under another name",
		`import "os"; var x = os.Getpid()`:                                     "",
		`import "net/http"; var x = http.Transport{Proxy: http.ProxyURL(nil)}`: "",
	} {
		file, err := parser.ParseFile(token.NewFileSet(), "x.go", "package x; "+source, 0)
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(asks(file), " "); got != want {
			t.Errorf("%s: %q, want %q", source, got, want)
		}
	}
}
