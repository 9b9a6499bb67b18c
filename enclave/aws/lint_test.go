package aws_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cloister-run/cloister/enclave/aws"
)

// printed is a policy as KeyPolicy prints it, to be spoilt.
type printed struct {
	Version, ID string
	Statement   []map[string]any
}

func (p *printed) at(sid string) map[string]any {
	for _, s := range p.Statement {
		if s["Sid"] == sid {
			return s
		}
	}
	return nil
}

func (p *printed) conditions(sid, operator string) map[string]any {
	return p.at(sid)["Condition"].(map[string]any)[operator].(map[string]any)
}

func (p *printed) drop(sid string) {
	p.Statement = slices.DeleteFunc(p.Statement, func(s map[string]any) bool { return s["Sid"] == sid })
}

func (p *printed) add(effect, principal, action string, condition map[string]any) {
	s := map[string]any{"Effect": effect, "Principal": map[string]any{"AWS": principal}, "Action": action, "Resource": "*"}
	if condition != nil {
		s["Condition"] = condition
	}
	p.Statement = append(p.Statement, s)
}

const (
	release  = "ReleaseToTheEnclave"
	noAttest = "NothingWithoutAttestation"
	side     = "NoSideDoors"
	pcrs     = "kms:RecipientAttestation:PCR"
	ignore   = "StringEqualsIgnoreCase"
	root     = "arn:aws:iam::111122223333:root"
	stranger = "arn:aws:iam::444455556666:root"
)

// TestLint opens each door of a policy that has none open, and expects this one to be named and
// no other.
func TestLint(t *testing.T) {
	whole, err := aws.KeyPolicy(spec())
	if err != nil {
		t.Fatal(err)
	}
	only := func(d ...aws.Door) []aws.Door { return d }
	anyPCR := only(aws.DoorPCR0, aws.DoorPCR1, aws.DoorPCR2)
	side := map[string]any{"kms:ViaService": "x"}
	for name, row := range map[string]struct {
		spoil func(*printed)
		want  []aws.Door
	}{
		"nothing":                      {func(*printed) {}, nil},
		"PCR0 is gone":                 {func(p *printed) { delete(p.conditions(release, ignore), pcrs+"0") }, only(aws.DoorPCR0)},
		"PCR1 is gone":                 {func(p *printed) { delete(p.conditions(release, ignore), pcrs+"1") }, only(aws.DoorPCR1)},
		"PCR2 is gone":                 {func(p *printed) { delete(p.conditions(release, ignore), pcrs+"2") }, only(aws.DoorPCR2)},
		"PCR1 is a pattern":            {like("1"), only(aws.DoorPCR1)},
		"PCR0 is not equal":            {negated("0"), only(aws.DoorPCR0)},
		"PCR2 is a variable":           {func(p *printed) { p.conditions(release, ignore)[pcrs+"2"] = "${aws:PrincipalTag/x}" }, only(aws.DoorPCR2)},
		"ImageSha384 in place of PCR0": {image, nil},
		"several images":               {func(p *printed) { p.conditions(release, ignore)[pcrs+"0"] = []string{pcr(1).String(), pcr(2).String()} }, nil},
		"zeros too":                    {zeros, only(aws.DoorDebug)},
		"a used enclave":               {func(p *printed) { delete(p.conditions(release, "Null"), pcrs+"16") }, only(aws.DoorUsed)},
		"a used enclave, turned round": {func(p *printed) { p.conditions(release, "Null")[pcrs+"16"] = "false" }, only(aws.DoorUsed)},
		"no context":                   {noContext, only(aws.DoorContext)},
		"one name of the context":      {func(p *printed) { delete(p.conditions(release, "Null"), "kms:EncryptionContext:cloister:asset") }, nil},
		"no denial of Decrypt":         {func(p *printed) { p.drop(noAttest) }, nil},
		"IfExists, denied":             {ifExists, anyPCR},
		"IfExists":                     {func(p *printed) { p.drop(noAttest); ifExists(p) }, only(aws.DoorUnattested)},
		"ForAllValues":                 {func(p *printed) { p.drop(noAttest); forAll(p) }, only(aws.DoorUnattested)},
		"Decrypt":                      {func(p *printed) { p.drop(noAttest); p.add("Allow", stranger, "kms:Decrypt", nil) }, only(aws.DoorUnattested)},
		"decrypt, spelt otherwise":     {func(p *printed) { p.drop(noAttest); p.add("Allow", stranger, "KMS:decrypt", nil) }, only(aws.DoorUnattested)},
		"D?crypt":                      {func(p *printed) { p.drop(noAttest); p.add("Allow", stranger, "kms:D?cry*", nil) }, only(aws.DoorUnattested)},
		"Decrypt on a condition": {func(p *printed) {
			p.drop(noAttest)
			p.add("Allow", stranger, "kms:Decrypt", map[string]any{"StringEquals": side})
		}, only(aws.DoorUnattested)},
		"Decrypt, attested": {func(p *printed) { p.add("Allow", stranger, "kms:Decrypt", nil) }, append(anyPCR, aws.DoorUsed, aws.DoorContext)},
		"Decrypt, denied to another": {func(p *printed) {
			denyTo(p, "arn:aws:iam::777788889999:root")
			p.add("Allow", stranger, "kms:Decrypt", nil)
		}, only(aws.DoorUnattested)},
		"Decrypt, denied to all but some": {func(p *printed) { denyBut(p); p.add("Allow", stranger, "kms:Decrypt", nil) }, only(aws.DoorUnattested)},
		"Decrypt, denied on a condition": {func(p *printed) {
			p.at(noAttest)["Condition"] = map[string]any{"StringEquals": side}
			p.add("Allow", stranger, "kms:Decrypt", nil)
		}, only(aws.DoorUnattested)},
		"Decrypt, denied to its account": {func(p *printed) {
			denyTo(p, stranger)
			p.add("Allow", "arn:aws:iam::444455556666:user/x", "kms:Decrypt", nil)
		}, append(anyPCR, aws.DoorUsed, aws.DoorContext)},
		"Decrypt, denied for another resource": {func(p *printed) {
			p.at(noAttest)["Resource"] = awsKey
			p.add("Allow", stranger, "kms:Decrypt", nil)
		}, only(aws.DoorUnattested)},
		"a service": {func(p *printed) {
			p.Statement = append(p.Statement, map[string]any{"Effect": "Allow", "Principal": map[string]any{"Service": "x.amazonaws.com"}, "Action": "kms:Decrypt", "Resource": "*"})
		}, only(aws.DoorUnattested)},
		"whoever is not":    {func(p *printed) { p.drop(noAttest); notPrincipal(p) }, only(aws.DoorUnattested)},
		"ReEncrypt, denied": {func(p *printed) { p.add("Allow", root, "kms:ReEncrypt*", nil) }, nil},
		"ReEncrypt":         {func(p *printed) { p.drop(sideSid); p.add("Allow", root, "kms:ReEncrypt*", nil) }, only(aws.DoorReEncrypt)},
		"CreateGrant": {func(p *printed) {
			p.drop(sideSid)
			p.add("Allow", root, "kms:CreateGrant", map[string]any{"Bool": map[string]any{"kms:GrantIsForAWSResource": true}})
		}, only(aws.DoorGrant)},
		"ReplicateKey":        {func(p *printed) { p.drop(sideSid); p.add("Allow", root, "kms:ReplicateKey", nil) }, only(aws.DoorReplicate)},
		"UpdatePrimaryRegion": {func(p *printed) { p.drop(sideSid); p.add("Allow", root, "kms:Update*", nil) }, only(aws.DoorReplicate)},
		"the side doors denied to one": {func(p *printed) {
			p.at(sideSid)["Principal"] = map[string]any{"AWS": stranger}
			p.add("Allow", root, "kms:CreateGrant", nil)
		}, only(aws.DoorGrant)},
		"sealing of whoever is not": {func(p *printed) {
			notPrincipal(p)
			p.Statement[len(p.Statement)-1]["Action"] = "kms:GenerateDataKey"
		}, only(aws.DoorSeal)},
		"PutKeyPolicy of a stranger": {func(p *printed) { p.add("Allow", stranger, "kms:Put*", nil) }, only(aws.DoorAdministration)},
		"Encrypt of a stranger":      {func(p *printed) { p.add("Allow", stranger, "kms:Encrypt", nil) }, only(aws.DoorSeal)},
		"sealing of a stranger":      {func(p *printed) { p.at("Sealing")["Principal"] = map[string]any{"AWS": operator} }, only(aws.DoorSeal)},
		"sealing of everybody":       {func(p *printed) { p.at("Sealing")["Principal"] = "*" }, only(aws.DoorSeal)},
		"kms:* for the account, all else denied": {func(p *printed) { p.add("Allow", root, "kms:*", nil) },
			append(anyPCR, aws.DoorUsed, aws.DoorContext, aws.DoorEverything)},
		"all but one": {func(p *printed) {
			delete(p.at("Administration"), "Action")
			p.at("Administration")["NotAction"] = []string{"kms:Decrypt"}
		}, only(aws.DoorEverything)},
	} {
		t.Run(name, func(t *testing.T) {
			var p printed
			if err := json.Unmarshal(whole, &p); err != nil {
				t.Fatal(err)
			}
			row.spoil(&p)
			text, err := json.Marshal(map[string]any{"Version": p.Version, "Statement": p.Statement})
			if err != nil {
				t.Fatal(err)
			}
			if got := doors(t, text, aws.LintOptions{Account: owner}); !slices.Equal(got, row.want) {
				t.Errorf("%v, want %v", got, row.want)
			}
		})
	}
}

const sideSid = side

func like(i string) func(*printed) {
	return func(p *printed) {
		delete(p.conditions(release, ignore), pcrs+i)
		p.at(release)["Condition"].(map[string]any)["StringLike"] = map[string]any{pcrs + i: "a*"}
	}
}

func negated(i string) func(*printed) {
	return func(p *printed) {
		delete(p.conditions(release, ignore), pcrs+i)
		p.at(release)["Condition"].(map[string]any)["StringNotEquals"] = map[string]any{pcrs + i: pcr(9).String()}
	}
}

func image(p *printed) {
	delete(p.conditions(release, ignore), pcrs+"0")
	p.conditions(release, ignore)["kms:RecipientAttestation:ImageSha384"] = pcr(0xa0).String()
}

func zeros(p *printed) {
	for _, i := range []string{"0", "1", "2"} {
		p.conditions(release, ignore)[pcrs+i] = []string{pcr(1).String(), strings.Repeat("0", 96)}
	}
}

func noContext(p *printed) {
	for name := range p.conditions(release, "Null") {
		if strings.HasPrefix(name, "kms:EncryptionContext:") {
			delete(p.conditions(release, "Null"), name)
		}
	}
}

func rename(p *printed, to string) {
	c := p.at(release)["Condition"].(map[string]any)
	c[to] = c[ignore]
	delete(c, ignore)
}

// ifExists also makes the values patterns, so that other images pass.
func ifExists(p *printed) {
	for _, i := range []string{"0", "1", "2"} {
		p.conditions(release, ignore)[pcrs+i] = "a*"
	}
	rename(p, "StringLikeIfExists")
}

func forAll(p *printed) { rename(p, "ForAllValues:StringEquals") }

func denyTo(p *printed, who string) { p.at(noAttest)["Principal"] = map[string]any{"AWS": who} }

func denyBut(p *printed) {
	delete(p.at(noAttest), "Principal")
	p.at(noAttest)["NotPrincipal"] = map[string]any{"AWS": root}
}

func notPrincipal(p *printed) {
	p.Statement = append(p.Statement, map[string]any{"Effect": "Allow", "NotPrincipal": map[string]any{"AWS": root}, "Action": "kms:Decrypt", "Resource": "*"})
}

// TestLintDefault: what the console makes of a key by default leaves almost everything open.
func TestLintDefault(t *testing.T) {
	policy := []byte(`{"Version":"2012-10-17","Id":"key-default-1","Statement":
	 {"Sid":"Enable IAM User Permissions","Effect":"Allow","Principal":{"AWS":"arn:aws:iam::111122223333:root"},"Action":"kms:*","Resource":"*"}}`)
	want := []aws.Door{aws.DoorUnattested, aws.DoorReEncrypt, aws.DoorGrant, aws.DoorReplicate, aws.DoorEverything}
	if got := doors(t, policy, aws.LintOptions{Account: owner}); !slices.Equal(got, want) {
		t.Errorf("%v", got)
	}
	if got := doors(t, policy, aws.LintOptions{}); !slices.Equal(got, want) {
		t.Errorf("account unknown: %v", got)
	}
	everybody := []byte(strings.Replace(string(policy), `{"AWS":"arn:aws:iam::111122223333:root"}`, `"*"`, 1))
	if got := doors(t, everybody, aws.LintOptions{}); !slices.Equal(got, append(want, aws.DoorAdministration, aws.DoorSeal)) {
		t.Errorf("everybody: %v", got)
	}
}

// manyKeys are n lines of a condition.
func manyKeys(n int) string {
	lines := make([]string, n)
	for i := range lines {
		lines[i] = fmt.Sprintf(`"aws:Key%d":"true"`, i)
	}
	return strings.Join(lines, ",")
}

func TestLintRefuses(t *testing.T) {
	good := `{"Effect":"Allow","Principal":"*","Action":"kms:Decrypt","Resource":"*"}`
	for name, text := range map[string]string{
		"nothing":             ``,
		"no JSON":             `policy`,
		"null":                `null`,
		"a list":              `[]`,
		"no statement":        `{"Version":"2012-10-17"}`,
		"no statements":       `{"Statement":[]}`,
		"a name twice":        `{"Statement":` + good + `,"Statement":[` + good + `]}`,
		"an unknown field":    `{"Statement":` + good + `,"Extra":1}`,
		"another spelling":    `{"statement":` + good + `}`,
		"in a statement":      `{"Statement":{"Effect":"Allow","Principal":"*","Action":"kms:*","Resource":"*","condition":{}}}`,
		"no effect":           `{"Statement":{"Principal":"*","Action":"kms:*","Resource":"*"}}`,
		"an unknown effect":   `{"Statement":{"Effect":"allow","Principal":"*","Action":"kms:*","Resource":"*"}}`,
		"no principal":        `{"Statement":{"Effect":"Allow","Action":"kms:*","Resource":"*"}}`,
		"both principals":     `{"Statement":{"Effect":"Allow","Principal":"*","NotPrincipal":"*","Action":"kms:*","Resource":"*"}}`,
		"a principal as text": `{"Statement":{"Effect":"Allow","Principal":"me","Action":"kms:*","Resource":"*"}}`,
		"principals of none":  `{"Statement":{"Effect":"Allow","Principal":{"AWS":[]},"Action":"kms:*","Resource":"*"}}`,
		"no action":           `{"Statement":{"Effect":"Allow","Principal":"*","Resource":"*"}}`,
		"an action of 1":      `{"Statement":{"Effect":"Allow","Principal":"*","Action":1,"Resource":"*"}}`,
		"no resource":         `{"Statement":{"Effect":"Allow","Principal":"*","Action":"kms:*"}}`,
		"too many conditions": `{"Statement":{"Effect":"Allow","Principal":"*","Action":"kms:*","Resource":"*","Condition":{"Null":{` + manyKeys(201) + `}}}}`,
		"conditions as text":  `{"Statement":{"Effect":"Allow","Principal":"*","Action":"kms:*","Resource":"*","Condition":"x"}}`,
		"a condition twice":   `{"Statement":{"Effect":"Allow","Principal":"*","Action":"kms:*","Resource":"*","Condition":{"Null":{"a":"true","a":"false"}}}}`,
		"a condition of none": `{"Statement":{"Effect":"Allow","Principal":"*","Action":"kms:*","Resource":"*","Condition":{"Null":{"a":[]}}}}`,
		"a condition object":  `{"Statement":{"Effect":"Allow","Principal":"*","Action":"kms:*","Resource":"*","Condition":{"Null":{"a":{}}}}}`,
		"as get-key-policy":   `{"Policy":"{}"}`,
		"too long":            `{"Statement":` + good + strings.Repeat(" ", aws.MaxKeyPolicy) + `}`,
		"too many":            `{"Statement":[` + strings.Repeat(good+",", 200) + good + `]}`,
	} {
		found, err := aws.LintKeyPolicy([]byte(text), aws.LintOptions{})
		if found != nil || !errors.Is(err, aws.ErrPolicy) {
			t.Errorf("%s: %v, %v", name, found, err)
		}
	}
	if _, err := aws.LintKeyPolicy([]byte(`{"Statement":`+good+`}`), aws.LintOptions{Account: "me"}); !errors.Is(err, aws.ErrRequest) {
		t.Errorf("an account that is none: %v", err)
	}
}

// FuzzLint: whatever a document is, it is judged or refused, and the same each time.
func FuzzLint(f *testing.F) {
	paths, err := filepath.Glob("testdata/*.json")
	if err != nil || len(paths) == 0 {
		f.Fatalf("no seeds: %v", err)
	}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		found, err := aws.LintKeyPolicy(text, aws.LintOptions{Account: owner})
		again, errAgain := aws.LintKeyPolicy(text, aws.LintOptions{Account: owner})
		if (err == nil) != (errAgain == nil) || len(found) != len(again) || err != nil && found != nil {
			t.Errorf("%v, %v, then %v, %v", found, err, again, errAgain)
		}
	})
}
