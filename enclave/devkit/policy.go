package devkit

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// maxPolicy bounds a key policy (KMS developer guide, "Quotas": 32 KB).
const maxPolicy = 32 << 10

// policy is a key policy: what it does not allow is denied.
type policy struct{ statements []statement }

// statement is one of a policy, with every part checked.
type statement struct {
	deny bool
	// anyone is the principal "*"; accounts are those of the others.
	anyone             bool
	accounts           []string
	actions, resources []string
	conditions         []condition
}

// policyError says what is wrong with a policy document, and where.
type policyError struct{ text string }

func (e *policyError) Error() string { return e.text }

func malformed(format string, args ...any) error {
	return &policyError{fmt.Sprintf("%.300s", fmt.Sprintf(format, args...))}
}

// parsePolicy reads a policy document (IAM user guide, "Grammar of the IAM JSON policy language"). What
// this simulation cannot evaluate is refused, so that nothing is ever decided differently than AWS
// would. Its errors are a [*policyError].
func parsePolicy(text string) (*policy, error) {
	if len(text) > maxPolicy {
		return nil, malformed("the policy has %d bytes, at most %d", len(text), maxPolicy)
	}
	value, err := parseJSON([]byte(text))
	if err != nil {
		return nil, malformed("the policy is not JSON: %v", err)
	}
	document, ok := value.(map[string]any)
	if !ok {
		return nil, malformed("the policy is no JSON object")
	}
	if err := onlyNames("the policy", document, "Version", "Id", "Statement"); err != nil {
		return nil, err
	}
	switch document["Version"] {
	case nil, "2012-10-17", "2008-10-17":
	default:
		return nil, malformed(`Version: not "2012-10-17" or "2008-10-17"`)
	}
	if _, ok := document["Id"].(string); !ok && document["Id"] != nil {
		return nil, malformed("Id: no string")
	}
	statements, ok := document["Statement"].([]any)
	if !ok {
		statements = []any{document["Statement"]}
	}
	if len(statements) == 0 {
		return nil, malformed("Statement: there is none")
	}
	p := &policy{}
	for i, value := range statements {
		s, err := parseStatement(value)
		if err != nil {
			return nil, malformed("Statement[%d]: %v", i, err)
		}
		p.statements = append(p.statements, *s)
	}
	return p, nil
}

// onlyNames refuses every name but these.
func onlyNames(what string, object map[string]any, names ...string) error {
	for _, name := range slices.Sorted(maps.Keys(object)) {
		if !slices.Contains(names, name) {
			return malformed("%s: %.40q is not supported by the simulated KMS", what, name)
		}
	}
	return nil
}

func parseStatement(value any) (*statement, error) {
	object, ok := value.(map[string]any)
	if !ok {
		return nil, malformed("no JSON object")
	}
	if err := onlyNames("element", object, "Sid", "Effect", "Principal", "Action", "Resource", "Condition"); err != nil {
		return nil, err
	}
	if _, ok := object["Sid"].(string); !ok && object["Sid"] != nil {
		return nil, malformed("Sid: no string")
	}
	s := &statement{}
	switch object["Effect"] {
	case "Allow":
	case "Deny":
		s.deny = true
	default:
		return nil, malformed(`Effect: not "Allow" or "Deny"`)
	}
	err := s.parsePrincipal(object["Principal"])
	if err != nil {
		return nil, err
	}
	if s.actions, err = stringsOf("Action", object["Action"]); err != nil {
		return nil, err
	}
	for _, action := range s.actions {
		if action != "*" && !hasPrefixFold(action, actionPrefix) {
			return nil, malformed("Action: %.60q is no action of KMS", action)
		}
	}
	if s.resources, err = stringsOf("Resource", object["Resource"]); err != nil {
		return nil, err
	}
	if _, there := object["Condition"]; there {
		s.conditions, err = parseConditions(object["Condition"])
	}
	return s, err
}

// parsePrincipal takes "*" and {"AWS": …} of accounts, since an account here has one principal.
func (s *statement) parsePrincipal(value any) error {
	if value == "*" {
		s.anyone = true
		return nil
	}
	object, ok := value.(map[string]any)
	if !ok {
		return malformed(`Principal: not "*" or an object`)
	}
	if err := onlyNames("Principal", object, "AWS"); err != nil {
		return err
	}
	principals, err := stringsOf("Principal.AWS", object["AWS"])
	if err != nil {
		return err
	}
	for _, principal := range principals {
		account, isARN := strings.CutPrefix(principal, "arn:"+partition+":iam::")
		isRoot := false
		if isARN {
			account, isRoot = strings.CutSuffix(account, ":root")
		}
		switch {
		case principal == "*":
			s.anyone = true
		case isARN == isRoot && accountRE.MatchString(account):
			s.accounts = append(s.accounts, account)
		default:
			return malformed("Policy contains a statement with one or more invalid principals: %.100q is not \"*\", "+
				"an account or arn:%s:iam::ACCOUNT:root", principal, partition)
		}
	}
	return nil
}

// stringsOf reads one string or a list of at least one, none of them empty.
func stringsOf(what string, value any) ([]string, error) {
	list, ok := value.([]any)
	if !ok {
		list = []any{value}
	}
	var out []string
	for _, value := range list {
		s, ok := value.(string)
		if !ok || s == "" {
			return nil, malformed("%s: not a string or a list of strings", what)
		}
		if strings.Contains(s, "${") {
			return nil, malformed("%s: policy variables are not supported by the simulated KMS", what)
		}
		out = append(out, s)
	}
	if len(out) == 0 {
		return nil, malformed("%s: an empty list", what)
	}
	return out, nil
}

const actionPrefix = "kms:"

// access is what is asked of a policy.
type access struct {
	// account is whose principal asks; action has the prefix; resource is the key's ARN.
	account, action, resource string
	// facts are the condition keys that are present, in lower case, with their values.
	facts map[string][]string
}

// verdict of a policy. The zero value denies.
type verdict int

const (
	notAllowed verdict = iota
	allowed
	explicitlyDenied
)

// decide follows IAM's rule: an explicit denial wins, then an allowance, else it is denied (IAM user
// guide, "Policy evaluation logic").
func (p *policy) decide(a *access) verdict {
	v := notAllowed
	for i := range p.statements {
		switch s := &p.statements[i]; {
		case !s.applies(a):
		case s.deny:
			return explicitlyDenied
		default:
			v = allowed
		}
	}
	return v
}

func (s *statement) applies(a *access) bool {
	if !s.anyone && !slices.Contains(s.accounts, a.account) {
		return false
	}
	action := func(pattern string) bool { return like(strings.ToLower(pattern), strings.ToLower(a.action)) }
	resource := func(pattern string) bool { return like(pattern, a.resource) }
	if !slices.ContainsFunc(s.actions, action) || !slices.ContainsFunc(s.resources, resource) {
		return false
	}
	for i := range s.conditions {
		if !s.conditions[i].holds(a.facts) {
			return false
		}
	}
	return true
}

// like matches text with a pattern in which * is any number of characters and ? is one.
func like(pattern, text string) bool {
	p, t := []rune(pattern), []rune(text)
	star, resume := -1, 0
	i, j := 0, 0
	for j < len(t) {
		switch {
		case i < len(p) && p[i] == '*':
			star, resume = i, j
			i++
		case i < len(p) && (p[i] == '?' || p[i] == t[j]):
			i++
			j++
		case star >= 0:
			resume++
			i, j = star+1, resume
		default:
			return false
		}
	}
	for i < len(p) && p[i] == '*' {
		i++
	}
	return i == len(p)
}

func hasPrefixFold(s, prefix string) bool {
	return len(s) > len(prefix) && strings.EqualFold(s[:len(prefix)], prefix)
}
