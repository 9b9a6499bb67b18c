package devkit

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/cloister-run/cloister/enclave/attest"
)

// The condition keys, in lower case: their names have none (IAM user guide, "Condition"; KMS
// developer guide, "Condition keys for AWS KMS").
const (
	factImage       = "kms:recipientattestation:imagesha384"
	factPCR         = "kms:recipientattestation:pcr" // then the index
	factContext     = "kms:encryptioncontext:"       // then the name
	factContextKeys = "kms:encryptioncontextkeys"
	factCaller      = "kms:calleraccount"
	factVia         = "kms:viaservice" // never there: nothing calls for somebody else
	factBypass      = "kms:bypasspolicylockoutsafetycheck"
	factAccount     = "aws:principalaccount"
	factPrincipal   = "aws:principalarn"
	factSecure      = "aws:securetransport"
	factIsService   = "aws:principalisawsservice"
	factViaAWS      = "aws:viaawsservice"
)

// The operators.
const (
	operatorNull     = "Null"
	operatorBool     = "Bool"
	operatorEquals   = "StringEquals"
	operatorFold     = "StringEqualsIgnoreCase"
	operatorDiffers  = "StringNotEquals"
	operatorLike     = "StringLike"
	operatorAllEqual = "ForAllValues:StringEquals"
)

// condition is one key under one operator.
type condition struct {
	operator, key string
	values        []string
}

// parseConditions reads the Condition of a statement: all of it has to hold.
func parseConditions(value any) ([]condition, error) {
	operators, ok := value.(map[string]any)
	if !ok {
		return nil, malformed("Condition: no JSON object")
	}
	var out []condition
	for _, operator := range slices.Sorted(maps.Keys(operators)) {
		switch operator {
		case operatorNull, operatorBool, operatorEquals, operatorFold, operatorDiffers, operatorLike, operatorAllEqual:
		default:
			return nil, malformed("Condition: the operator %.60q is not supported by the simulated KMS", operator)
		}
		keys, ok := operators[operator].(map[string]any)
		if !ok || len(keys) == 0 {
			return nil, malformed("Condition: %s: no JSON object with condition keys", operator)
		}
		for _, key := range slices.Sorted(maps.Keys(keys)) {
			c := condition{operator: operator, key: strings.ToLower(key)}
			if !knownFact(c.key) {
				return nil, malformed("Condition: %s: the condition key %.100q is not supported by the simulated KMS", operator, key)
			}
			var err error
			if c.values, err = conditionValues(operator, key, keys[key]); err != nil {
				return nil, err
			}
			out = append(out, c)
		}
	}
	return out, nil
}

// conditionValues are strings, or truth values where the operator is about those.
func conditionValues(operator, key string, value any) ([]string, error) {
	list, ok := value.([]any)
	if !ok {
		list = []any{value}
	}
	for i, value := range list {
		if truth, ok := value.(bool); ok {
			list[i] = strconv.FormatBool(truth)
		}
	}
	values, err := stringsOf("Condition: "+operator+": "+key, list)
	if err != nil {
		return nil, err
	}
	if operator != operatorNull && operator != operatorBool {
		if strings.EqualFold(key, factContextKeys) && operator != operatorAllEqual {
			return nil, malformed("Condition: %s: %s has several values; use ForAllValues:StringEquals or Null", operator, key)
		}
		return values, nil
	}
	for i, value := range values {
		values[i] = strings.ToLower(value)
		if values[i] != "true" && values[i] != "false" {
			return nil, malformed("Condition: %s: %.100s: not \"true\" or \"false\"", operator, key)
		}
	}
	return values, nil
}

// knownFact says whether this simulation can tell a condition key.
func knownFact(key string) bool {
	switch key {
	case factImage, factContextKeys, factCaller, factVia, factBypass, factAccount, factPrincipal, factSecure, factIsService, factViaAWS:
		return true
	}
	if index, ok := strings.CutPrefix(key, factPCR); ok {
		i, err := strconv.Atoi(index)
		return err == nil && i >= 0 && i < attest.MaxPCRs && strconv.Itoa(i) == index
	}
	return strings.HasPrefix(key, factContext) && len(key) > len(factContext)
}

// holds applies the operator (IAM user guide, "Condition operators"). Of several values one has to
// match. A key that is not there matches no value, so that StringNotEquals holds and, as AWS has it,
// ForAllValues too.
func (c *condition) holds(facts map[string][]string) bool {
	got, there := facts[c.key]
	matches := func(match func(want, got string) bool) func(string) bool {
		return func(got string) bool {
			return slices.ContainsFunc(c.values, func(want string) bool { return match(want, got) })
		}
	}
	equal := func(want, got string) bool { return want == got }
	switch c.operator {
	case operatorNull:
		return slices.Contains(c.values, strconv.FormatBool(!there))
	case operatorEquals:
		return slices.ContainsFunc(got, matches(equal))
	case operatorFold, operatorBool:
		return slices.ContainsFunc(got, matches(strings.EqualFold))
	case operatorLike:
		return slices.ContainsFunc(got, matches(like))
	case operatorDiffers:
		return !slices.ContainsFunc(got, matches(equal))
	case operatorAllEqual:
		return !slices.ContainsFunc(got, func(got string) bool { return !matches(equal)(got) })
	}
	return false
}

// addContext adds what a policy can ask about an encryption context. The names of condition keys have
// no case, so two of its names must not differ in case alone: their values could not be told apart.
func addContext(facts map[string][]string, encryptionContext map[string]string) bool {
	for name, value := range encryptionContext {
		key := factContext + strings.ToLower(name)
		if _, twice := facts[key]; twice {
			return false
		}
		facts[key] = []string{value}
		facts[factContextKeys] = append(facts[factContextKeys], name)
	}
	return true
}

// addRecipient adds the registers of a verified document. One that is zero says nothing and is not
// there: no condition can ask for it ("Cryptographic attestation", on debug mode).
func addRecipient(facts map[string][]string, doc *attest.Document) {
	for i, value := range doc.PCRs {
		if value.IsZero() {
			continue
		}
		facts[factPCR+strconv.Itoa(i)] = []string{value.String()}
		if i == 0 {
			facts[factImage] = []string{value.String()}
		}
	}
}
