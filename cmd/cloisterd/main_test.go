package main

import (
	"bytes"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/cloister-run/cloister/"

// TestMain makes this binary cloisterd where it is started as such.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "cloisterd" {
		main()
		return
	}
	os.Exit(m.Run())
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

// Nothing that is measured asks its arguments or its environment what to do.
func TestI8_NothingUnmeasuredIsAsked(t *testing.T) {
	forbidden := map[string]string{"os": "Args Environ Getenv LookupEnv ExpandEnv", "syscall": "Environ Getenv", "flag": "Parse Args Arg"}
	files := 0
	for _, dir := range []string{".", "../../core", "../../enclave/api", "../../enclave/boot", "../../enclave/wire", "../../enclave/image"} {
		err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			files++
			file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
			if err != nil {
				return err
			}
			ast.Inspect(file, func(n ast.Node) bool {
				selector, ok := n.(*ast.SelectorExpr)
				if !ok {
					return true
				}
				if pkg, ok := selector.X.(*ast.Ident); ok {
					for _, name := range strings.Fields(forbidden[pkg.Name]) {
						if selector.Sel.Name == name {
							t.Errorf("%s: %s.%s", path, pkg.Name, name)
						}
					}
				}
				return true
			})
			for _, imported := range file.Imports {
				if imported.Name != nil && (imported.Path.Value == `"os"` || imported.Path.Value == `"syscall"`) {
					t.Errorf("%s: %s under another name", path, imported.Path.Value)
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if files < 20 {
		t.Errorf("only %d files were looked at", files)
	}
}
