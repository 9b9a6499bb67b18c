package attest

import (
	"fmt"
	"strconv"
)

// Rule names one thing that Verify requires of a document. The list is closed: see [Rules].
type Rule string

// The rules, in the order in which they are checked.
const (
	RuleSize        Rule = "size"              // 1 byte to MaxDocument
	RuleCOSE        Rule = "cose"              // one COSE_Sign1, nothing unsigned, nothing after it
	RuleAlg         Rule = "alg"               // the protected header is exactly {alg: ES384}
	RulePayload     Rule = "payload"           // one map, no key twice, no unknown key
	RuleNitroTPM    Rule = "nitrotpm"          // a document of an enclave, not of an instance's NitroTPM
	RuleModuleID    Rule = "field:module_id"   //
	RuleDigest      Rule = "field:digest"      //
	RuleTimestamp   Rule = "field:timestamp"   //
	RulePCRs        Rule = "field:pcrs"        //
	RuleCertificate Rule = "field:certificate" //
	RuleBundle      Rule = "field:cabundle"    //
	RulePublicKey   Rule = "field:public_key"  //
	RuleUserData    Rule = "field:user_data"   //
	RuleNonce       Rule = "field:nonce"       //
	RuleRoot        Rule = "root"              // cabundle[0] is the root that the caller trusts
	RuleSignature   Rule = "signature"         // 96 bytes r‖s, by the key of the leaf certificate
	RuleTime        Rule = "time"              // every certificate is valid at that time; the document is neither older nor from the future
	RuleChain       Rule = "chain"             // root → cabundle → leaf, P-384 throughout
	RuleRealm       Rule = "realm"             // as expected
	RuleDebug       Rule = "debug"             // PCR0, PCR1 and PCR2 are not zero
	RuleWantNonce   Rule = "nonce"             // as expected
	RuleWantData    Rule = "user_data"         // as expected
	RuleWantKey     Rule = "public_key"        // there or not, as its kind requires
	RuleWantPCRs    Rule = "pcrs"              // there is something to match
)

// RulePCR is the rule that PCR i is there and as expected: "pcr0", "pcr1", …
func RulePCR(i int) Rule { return Rule("pcr" + strconv.Itoa(i)) }

// Rules lists every rule that a [Violation] can name.
func Rules() []Rule {
	rules := []Rule{
		RuleSize, RuleCOSE, RuleAlg, RulePayload, RuleNitroTPM,
		RuleModuleID, RuleDigest, RuleTimestamp, RulePCRs, RuleCertificate, RuleBundle, RulePublicKey, RuleUserData, RuleNonce,
		RuleRoot, RuleSignature, RuleTime, RuleChain, RuleRealm, RuleDebug,
		RuleWantNonce, RuleWantData, RuleWantKey, RuleWantPCRs,
	}
	for i := range MaxPCRs {
		rules = append(rules, RulePCR(i))
	}
	return rules
}

// Violation says which rule a document breaks. Its text is bounded, whatever the document holds.
type Violation struct {
	Rule Rule
	// Reason is for people.
	Reason string
}

// Error is "RULE: REASON".
func (v *Violation) Error() string { return string(v.Rule) + ": " + v.Reason }

// breaks makes a Violation. The longest reason holds two PCRs.
func breaks(rule Rule, format string, args ...any) error {
	return &Violation{Rule: rule, Reason: fmt.Sprintf("%.320s", fmt.Sprintf(format, args...))}
}
