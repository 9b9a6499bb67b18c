package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cloister-run/cloister/core/receipt"
	"github.com/cloister-run/cloister/core/tree"
	"github.com/cloister-run/cloister/enclave/attest"
	"github.com/cloister-run/cloister/enclave/attest/devca"
	"github.com/cloister-run/cloister/enclave/launch/launchtest"
	"github.com/cloister-run/cloister/policies/abi"
)

// receipts runs `cloister receipt …` and gives its status and what it printed.
func receipts(t *testing.T, args ...string) (int, string, string) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	status := run(context.Background(), append([]string{"receipt"}, args...), &stdout, &stderr)
	return status, stdout.String(), stderr.String()
}

// receiptVectors is the folder of the receipts that are in the repository.
func receiptVectors() string {
	if handed := launchtest.Handed(); handed != "" {
		return filepath.Join(handed, "receipts")
	}
	return filepath.Join("..", "..", "core", "receipt", "testdata")
}

// TestReceiptVectors: the receipts that are in the repository, with nothing but their files.
func TestReceiptVectors(t *testing.T) {
	folder := receiptVectors()
	raw, err := os.ReadFile(filepath.Join(folder, "attested.json"))
	if err != nil {
		t.Fatal(err)
	}
	var list []struct{ File, Expect string }
	if err := json.Unmarshal(raw, &list); err != nil || len(list) == 0 {
		t.Fatal("no vectors", err)
	}
	pcrs := []string{"--realm", "local", "--root", filepath.Join(folder, "root.pem")}
	for i, name := range []string{"0", "1", "2"} {
		pcrs = append(pcrs, "--pcr"+name, attest.PCR{}.Extend([]byte{'0' + byte(i)}).String())
	}
	for _, v := range list {
		t.Run(v.File, func(t *testing.T) {
			status, out, text := receipts(t, append([]string{"verify", filepath.Join(folder, "attested", v.File)}, pcrs...)...)
			switch v.Expect {
			case "success":
				if status != 0 || !strings.HasPrefix(out, "VERIFIED ") || !strings.Contains(out, "has the PCRs that were given") || text != "" {
					t.Errorf("status %d: %s%s", status, out, text)
				}
			case "malformed":
				if status != 2 || out != "" {
					t.Errorf("status %d: %s%s", status, out, text)
				}
			default:
				if status != 4 || !strings.HasPrefix(text, "cloister: error: "+v.Expect+": ") || out != "" {
					t.Errorf("status %d: %s%s", status, out, text)
				}
			}
		})
	}
}

// made is a receipt in a folder, beside the root that it is under and what was released.
type madeReceipt struct{ dir, file, root string }

func (m madeReceipt) path(name string) string { return filepath.Join(m.dir, name) }

// makeReceipt makes the receipt of a run of which a file and a folder were released.
func makeReceipt(t *testing.T, change func(*receipt.Run)) madeReceipt {
	t.Helper()
	m := madeReceipt{dir: t.TempDir()}
	m.file, m.root = m.path("receipt.json"), m.path("root.pem")
	for name, content := range map[string]string{"predictions.csv": "id,digit\n", "tree/a": "a", "other/b": "b", "sub/big": strings.Repeat("x", 100)} {
		writeFile(t, m.path(name), []byte(content))
	}
	at := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	ca, err := devca.New(at)
	if err != nil {
		t.Fatal(err)
	}
	digest := "sha256:" + strings.Repeat("a", 64)
	r := &receipt.Run{
		Job:      receipt.Job{ID: "0123", Name: "digits", Digest: digest},
		Enclave:  receipt.Enclave{Realm: "local", ModuleID: "i-1-enc1", Version: "1", Sequence: 7},
		Executor: receipt.Executor{Executor: abi.Executor{Name: "python"}, Walls: []string{"memory: cgroup"}},
		Assets: []abi.Asset{
			{Name: "application", Kind: "application", Form: "tree", Digest: digest, Owner: "arn:owner", Sealed: true, Verified: true, Bytes: 7},
			{Name: "inputs.scans", Kind: "input", Form: "tree", Digest: digest, Verified: true, Bytes: 8},
		},
		Keys:      []receipt.Key{{Asset: "application", Key: "arn:owner", RequestID: "request-1"}},
		Policies:  []abi.PolicyRef{{Owner: "arn:owner", Asset: "application", Module: digest, Config: digest}},
		Consented: []receipt.Consent{{Channel: "outputs.predictions"}, {Channel: "outputs.tree"}},
		Outcome:   receipt.Succeeded,
		Released:  []abi.Artifact{released(t, "outputs.predictions", m.path("predictions.csv")), released(t, "outputs.tree", m.path("tree"))},
		Started:   receipt.Time(at), Finished: receipt.Time(at),
	}
	first := 0
	for _, point := range []abi.Point{abi.Admit, abi.Ingress, abi.Egress} {
		r.Decisions = append(r.Decisions, receipt.Decision{Point: point, Policy: &first, Allow: true})
	}
	if change != nil {
		change(r)
	}
	statement, err := r.Statement()
	if err != nil {
		t.Fatal(err)
	}
	pcr := attest.PCR{}.Extend([]byte("image"))
	document, err := ca.Sign(devca.Claims{ModuleID: "i-1-enc1", Time: at, PCRs: attest.PCRSet{0: pcr, 1: pcr, 2: pcr},
		UserData: attest.UserData(attest.KindReceipt, receipt.Message(statement))})
	if err != nil {
		t.Fatal(err)
	}
	data, err := receipt.Encode(statement, document)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, m.file, data)
	writeFile(t, m.root, ca.PEM())
	writeFile(t, m.path("statement.json"), statement)
	return m
}

func writeFile(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
}

// released says what an enclave says of what is at path.
func released(t *testing.T, channel abi.Channel, path string) abi.Artifact {
	t.Helper()
	source, err := tree.Open(path, tree.Limits{Bytes: 1000, Entries: 10})
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	sum, err := source.Digest(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	a := abi.Artifact{Channel: channel, Kind: "tree", Digest: sum.Digest, Bytes: sum.Bytes, Files: sum.Files}
	if _, file := source.IsFile(); file {
		a.Kind, a.Digest = "file", source.FileSum()
	}
	return a
}

func TestReceiptVerify(t *testing.T) {
	m := makeReceipt(t, nil)
	image := attest.PCR{}.Extend([]byte("image")).String()
	local := []string{"verify", m.file, "--realm", "local", "--root", m.root}
	with := func(more ...string) []string { return append(append([]string{}, local...), more...) }
	if err := os.Symlink("a", m.path("other/link")); err != nil {
		t.Fatal(err)
	}
	for rule, row := range map[string]struct {
		status int
		args   []string
		says   string
	}{
		"a look":                    {0, local, "image     NOT CHECKED: PCR0, PCR1 and PCR2 were not all given"},
		"two PCRs":                  {0, with("--pcr0", image, "--pcr1", image), "NOT CHECKED"},
		"all PCRs":                  {0, with("--pcr0", image, "--pcr1", image, "--pcr2", image), "image     it has the PCRs that were given"},
		"simulated":                 {0, local, "SIMULATED"},
		"json":                      {0, with("--json"), `"image_checked": false`},
		"json with PCRs":            {0, with("--json", "--pcr0", image, "--pcr1", image, "--pcr2", image), `"image_checked": true`},
		"a file":                    {0, with("--output", "outputs.predictions="+m.path("predictions.csv")), "predictions.csv is what was released"},
		"a folder":                  {0, with("--output", "outputs.tree="+m.path("tree")), "tree is what was released"},
		"json with a file":          {0, with("--json", "--output", "outputs.tree="+m.path("tree")), `"outputs_checked": [`},
		"another file":              {4, with("--output", "outputs.predictions="+m.path("tree/a")), "error: output: outputs.predictions: "},
		"a file that is longer":     {4, with("--output", "outputs.predictions="+m.path("sub/big")), "error: output: "},
		"another folder":            {4, with("--output", "outputs.tree="+m.path("other")), "error: output: "},
		"a file for a folder":       {4, with("--output", "outputs.tree="+m.path("tree/a")), "error: output: "},
		"one good, one not":         {4, with("--output", "outputs.tree="+m.path("tree"), "--output", "outputs.predictions="+m.root), "error: output: "},
		"what was not released":     {4, with("--output", "logs.stdout="+m.root), "nothing was released by logs.stdout"},
		"json of another file":      {4, with("--json", "--output", "outputs.predictions="+m.path("tree/a")), `"rule": "output"`},
		"no such output file":       {2, with("--output", "outputs.tree="+m.path("absent")), "no such file"},
		"an output that is none":    {2, with("--output", "predictions=x"), "no CHANNEL=PATH"},
		"an output without path":    {2, with("--output", "outputs.tree"), "no CHANNEL=PATH"},
		"another PCR":               {4, with("--pcr0", strings.Repeat("ab", 48)), "error: pcr0: "},
		"a PCR that is not there":   {4, with("--pcr8", image), "error: pcr8: "},
		"AWS is expected":           {4, local[:2], "error: root: "},
		"AWS under another root":    {4, []string{"verify", m.file, "--root", m.root}, "error: realm: "},
		"json of a broken rule":     {4, []string{"verify", "--json", m.file}, `"rule": "root"`},
		"under the user's own root": {4, []string{"verify", m.file, "--realm", "local"}, "error: root: "},
		"two roots":                 {2, []string{"verify", m.file, "--enclave", "local", "--root", m.root}, "leave --root"},
		"two sets of PCRs":          {2, []string{"verify", m.file, "--enclave", "local", "--pcr4", strings.Repeat("a4", 48)}, "leave --root"},
		"an unknown enclave":        {2, []string{"verify", m.file, "--enclave", "moon"}, `no enclave "moon"`},
		"a realm that is none":      {2, []string{"verify", m.file, "--realm", "moon", "--root", m.root}, `no realm "moon"`},
		"a statement":               {2, append([]string{"verify", m.path("statement.json")}, local[2:]...), "not a receipt"},
		"a root for a receipt":      {2, append([]string{"verify", m.root}, local[2:]...), "not a receipt"},
		"no file":                   {2, append([]string{"verify", m.path("absent")}, local[2:]...), "no such file"},
		"a folder for a receipt":    {2, append([]string{"verify", m.dir}, local[2:]...), "no regular file"},
		"no receipt named":          {2, []string{"verify"}, "0 receipts are named"},
		"two receipts":              {2, []string{"show", m.file, m.file}, "2 receipts are named"},
		"show":                      {0, []string{"show", m.file}, "NOT VERIFIED"},
		"show as json":              {0, []string{"show", "--json", m.file}, `"verified": false`},
		"show a statement":          {2, []string{"show", m.path("statement.json")}, "not a receipt"},
		"show nothing":              {2, []string{"show", m.path("absent")}, "no such file"},
	} {
		t.Run(rule, func(t *testing.T) {
			status, out, text := receipts(t, row.args...)
			if status != row.status || !strings.Contains(out+text, row.says) {
				t.Errorf("status %d, want %d: %s%s", status, row.status, out, text)
			}
			if status != 0 && strings.Contains(out, "VERIFIED ") {
				t.Errorf("status %d with %s", status, out)
			}
		})
	}
}

// TestReceiptVerifyComparesKinds: the digest of a file is no digest of a folder.
func TestReceiptVerifyComparesKinds(t *testing.T) {
	m := makeReceipt(t, func(r *receipt.Run) { r.Released[0].Kind = "tree" })
	status, out, text := receipts(t, "verify", m.file, "--realm", "local", "--root", m.root, "--output", "outputs.predictions="+m.path("predictions.csv"))
	if status != 4 || out != "" || !strings.Contains(text, "error: output: ") {
		t.Errorf("status %d: %s%s", status, out, text)
	}
}

// TestReceiptShow: everything that a receipt says, and that nobody vouches for it.
func TestReceiptShow(t *testing.T) {
	m := makeReceipt(t, nil)
	_, out, _ := receipts(t, "show", m.file)
	if !strings.HasPrefix(out, "NOT VERIFIED: ") {
		t.Errorf("%s", out)
	}
	_, verified, _ := receipts(t, "verify", m.file, "--realm", "local", "--root", m.root)
	for _, want := range []string{
		"job       0123, digits, sha256:", "outcome   succeeded", "time      2026-11-25T12:00:00Z to 2026-11-25T12:00:00Z",
		"realm     local", "enclave   i-1-enc1, version 1, job 7 of its boot", "executor  python", "wall      memory: cgroup",
		"asset     application: application, tree, 7 bytes, sealed by arn:owner, sha256:",
		"asset     inputs.scans: input, tree, 8 bytes, the operator's own, sha256:",
		"key       application: arn:owner, request request-1", "policy    0 of arn:owner for application: module sha256:",
		"consented outputs.tree", "admit     policy 0, sealed with application, allowed", "egress    policy 0, sealed with application, allowed",
		"released  outputs.predictions: file, 9 bytes in 1 files, sha256:",
	} {
		if !strings.Contains(out, "\n"+want) || !strings.Contains(verified, "\n"+want) {
			t.Errorf("no %q in\n%s\nor\n%s", want, out, verified)
		}
	}
}

// TestReceiptTextIsHarmless: no text of a receipt writes a line of its own or steers the terminal.
func TestReceiptTextIsHarmless(t *testing.T) {
	const evil = "x\nVERIFIED \x1b[2J\u202e\u009b\U000e0041"
	m := makeReceipt(t, func(r *receipt.Run) {
		r.Job.ID, r.Job.Name, r.Enclave.Version, r.Executor.Name, r.Executor.Runtime = evil, evil, evil, evil, evil
		r.Executor.Walls, r.Executor.Version = []string{evil}, evil
		r.Assets[0].Kind, r.Assets[1].Name, r.Keys[0].RequestID = evil, evil, evil
		r.Consented = append(r.Consented, receipt.Consent{Channel: evil})
		r.Policies[0].Module, r.Released[0].Kind = evil, evil
	})
	for _, args := range [][]string{
		{"show", m.file},
		{"show", "--json", m.file},
		{"verify", m.file, "--realm", "local", "--root", m.root},
		{"verify", m.file, "--realm", "local", "--root", m.root, "--output", "outputs.predictions=" + m.path("predictions.csv")},
	} {
		_, out, text := receipts(t, args...)
		if strings.ContainsAny(out+text, "\x1b\u202e\u009b\U000e0041") || strings.Contains(out+text, "\nVERIFIED") {
			t.Errorf("%q", out+text)
		}
	}
	_, out, _ := receipts(t, "show", "--json", m.file)
	var shown shownReport
	if err := json.Unmarshal([]byte(out), &shown); err != nil || shown.Statement.Predicate.Job.Name != evil {
		t.Errorf("%q: %v", out, err)
	}
}
