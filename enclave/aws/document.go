package aws

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/cloister-run/cloister/policies/abi"
)

// everyone is the principal that everybody is (IAM user guide, "AWS JSON policy elements:
// Principal").
const everyone = "*"

// document is a key policy, read.
type document struct{ statements []judged }

// judged is one statement of it.
type judged struct {
	// label is how people find it.
	label string
	allow bool
	// principals are ARNs, accounts, everyone, or "service:…" and the like.
	principals []string
	// except says that principals are those that a statement does not mean.
	except bool
	// actions are patterns; butActions says that they are those that are not meant.
	actions    []string
	butActions bool
	// everywhere says that it holds for the key without doubt.
	everywhere bool
	conditions []condition
}

// condition is one line of a statement's conditions: the operator and key in lower case.
type condition struct {
	operator, key string
	values        []string
}

// texts is a string or a list of them.
type texts []string

// UnmarshalJSON implements [json.Unmarshaler].
func (t *texts) UnmarshalJSON(data []byte) error {
	if len(data) > 0 && data[0] == '[' {
		return json.Unmarshal(data, (*[]string)(t))
	}
	var one string
	if err := json.Unmarshal(data, &one); err != nil {
		return err
	}
	*t = texts{one}
	return nil
}

// rawStatement is the grammar of a statement (IAM user guide, "Grammar of the IAM JSON policy
// language").
type rawStatement struct {
	Sid          string          `json:"Sid"`
	Effect       string          `json:"Effect"`
	Principal    json.RawMessage `json:"Principal"`
	NotPrincipal json.RawMessage `json:"NotPrincipal"`
	Action       texts           `json:"Action"`
	NotAction    texts           `json:"NotAction"`
	Resource     texts           `json:"Resource"`
	NotResource  texts           `json:"NotResource"`
	Condition    json.RawMessage `json:"Condition"`
}

// maxStatements bounds the statements, and the conditions of each.
const maxStatements = 200

func decodePolicy(data []byte) (*document, error) {
	var raw struct {
		Version   string          `json:"Version"`
		ID        string          `json:"Id"`
		Statement json.RawMessage `json:"Statement"`
	}
	if err := decode(data, &raw); err != nil {
		return nil, err
	}
	var list []rawStatement
	if raw.Statement == nil {
		return nil, errors.New("it has no Statement")
	}
	if raw.Statement[0] == '{' {
		list = make([]rawStatement, 1)
		if err := decode(raw.Statement, &list[0]); err != nil {
			return nil, err
		}
	} else if err := decode(raw.Statement, &list); err != nil {
		return nil, err
	}
	if n := len(list); n == 0 || n > maxStatements {
		return nil, fmt.Errorf("it has %d statements, not 1 to %d", n, maxStatements)
	}
	d := &document{}
	for i, r := range list {
		s, err := r.judge(i)
		if err != nil {
			return nil, err
		}
		d.statements = append(d.statements, s)
	}
	return d, nil
}

func decode(data []byte, into any) error {
	return abi.DecodeExact(data, MaxKeyPolicy, into)
}

func (r rawStatement) judge(i int) (judged, error) {
	s := judged{label: "statement " + strconv.Itoa(i+1), allow: r.Effect == "Allow"}
	if r.Sid != "" {
		s.label = r.Sid
	}
	refuse := func(err error) (judged, error) { return judged{}, fmt.Errorf("statement %d: %w", i+1, err) }
	if r.Effect != "Allow" && r.Effect != "Deny" {
		return refuse(fmt.Errorf("the effect %.40q is neither Allow nor Deny", r.Effect))
	}
	if (r.Principal == nil) == (r.NotPrincipal == nil) || (r.Action == nil) == (r.NotAction == nil) ||
		(r.Resource == nil) == (r.NotResource == nil) {
		return refuse(errors.New("it needs one of Principal and NotPrincipal, of Action and NotAction, of Resource and NotResource"))
	}
	who := r.Principal
	if who == nil {
		who, s.except = r.NotPrincipal, true
	}
	var err error
	if s.principals, err = readPrincipals(who); err != nil {
		return refuse(err)
	}
	if s.allow && s.except {
		s.principals = []string{everyone} // whoever is not excepted
	}
	s.actions, s.butActions = r.Action, r.Action == nil
	if s.butActions {
		s.actions = r.NotAction
	}
	s.everywhere = slices.Contains(r.Resource, "*")
	if s.conditions, err = readConditions(r.Condition); err != nil {
		return refuse(err)
	}
	return s, nil
}

func readPrincipals(data json.RawMessage) ([]string, error) {
	var one string
	if json.Unmarshal(data, &one) == nil {
		if one != everyone {
			return nil, fmt.Errorf("the principal %.80q is not in {%q: …}", one, "AWS")
		}
		return []string{everyone}, nil
	}
	var kinds map[string]texts
	if err := decode(data, &kinds); err != nil {
		return nil, err
	}
	var list []string
	for kind, names := range kinds {
		for _, name := range names {
			if kind != "AWS" {
				name = strings.ToLower(kind) + ":" + name
			}
			list = append(list, name)
		}
	}
	if len(list) == 0 {
		return nil, errors.New("it names no principal")
	}
	slices.Sort(list)
	return list, nil
}

func readConditions(data json.RawMessage) ([]condition, error) {
	if data == nil {
		return nil, nil
	}
	var operators map[string]map[string]json.RawMessage
	if err := decode(data, &operators); err != nil {
		return nil, err
	}
	var list []condition
	for operator, keys := range operators {
		for key, raw := range keys {
			c := condition{operator: strings.ToLower(operator), key: strings.ToLower(key)}
			if err := c.read(raw); err != nil {
				return nil, err
			}
			list = append(list, c)
		}
	}
	if len(list) > maxStatements {
		return nil, fmt.Errorf("it has %d conditions, at most %d are judged", len(list), maxStatements)
	}
	return list, nil
}

// read takes a string, a truth or a number, or a list of them.
func (c *condition) read(raw json.RawMessage) error {
	var list []any
	if json.Unmarshal(raw, &list) != nil {
		list = make([]any, 1)
		if err := json.Unmarshal(raw, &list[0]); err != nil {
			return err
		}
	}
	for _, v := range list {
		switch v.(type) {
		case string, bool, float64:
			c.values = append(c.values, fmt.Sprint(v))
		default:
			return fmt.Errorf("the condition %.80q compares with no text", c.key)
		}
	}
	if len(c.values) == 0 {
		return fmt.Errorf("the condition %.80q compares with nothing", c.key)
	}
	return nil
}

// names reports whether a statement is about an action.
func (s *judged) names(action string) bool {
	named := slices.ContainsFunc(s.actions, func(pattern string) bool { return matches(strings.ToLower(pattern), strings.ToLower(action)) })
	return named != s.butActions
}

// allowsEverything reports whether a statement names actions by what they are not, or all of KMS.
func (s *judged) allowsEverything() bool {
	return s.butActions || s.names("kms:ZeroActionToCome")
}

// covers reports whether a statement that denies means whoever an allowance for who means.
func (s *judged) covers(who string) bool {
	if s.except {
		return false
	}
	ofAWS := who == everyone || accountOf(who) != "" // and neither a service nor a user of elsewhere
	return slices.ContainsFunc(s.principals, func(p string) bool {
		account, whole := accountOf(p), accountRE.MatchString(p) || strings.HasSuffix(p, ":root")
		return p == who || p == everyone && ofAWS || whole && account != "" && account == accountOf(who)
	})
}

// matches is how IAM compares with * and ? (IAM user guide, "Action"). It goes back to the last
// star only, which is enough, and keeps hostile patterns cheap.
func matches(pattern, s string) bool {
	p, i, star, from := 0, 0, -1, 0
	for i < len(s) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, from = p, i
			p++
		case p < len(pattern) && (pattern[p] == '?' || pattern[p] == s[i]):
			p++
			i++
		case star >= 0:
			from++
			p, i = star+1, from
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}
