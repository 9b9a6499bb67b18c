package aws

import (
	"fmt"
	"slices"
	"strings"
)

// Door is a way to a data key, or to its owner's name, that a key policy can leave open.
type Door string

// The doors, in the order in which they are reported.
const (
	// DoorUnattested: Decrypt outside of any enclave.
	DoorUnattested Door = "decrypt-unattested"
	// DoorPCR0, DoorPCR1 and DoorPCR2: Decrypt in an enclave of another image.
	DoorPCR0 Door = "decrypt-pcr0"
	DoorPCR1 Door = "decrypt-pcr1"
	DoorPCR2 Door = "decrypt-pcr2"
	// DoorDebug: Decrypt in an enclave in debug mode, whose memory its operator reads.
	DoorDebug Door = "decrypt-debug"
	// DoorUsed: Decrypt in an enclave that has run something before.
	DoorUsed Door = "decrypt-used-enclave"
	// DoorContext: Decrypt of what is no bundle, or not this one.
	DoorContext Door = "decrypt-without-context"
	// DoorReEncrypt: what is sealed can be put under a key of somebody else.
	DoorReEncrypt Door = "re-encrypt"
	// DoorGrant: rights that no key policy shows.
	DoorGrant Door = "create-grant"
	// DoorReplicate: the same key in another region, under another policy.
	DoorReplicate Door = "replicate"
	// DoorEverything: every action, those to come included.
	DoorEverything Door = "everything"
	// DoorAdministration: somebody else than the owner may replace the policy.
	DoorAdministration Door = "put-key-policy"
	// DoorSeal: somebody else than the owner may seal in the owner's name.
	DoorSeal Door = "seal"
)

// Finding is a door that a key policy leaves open.
type Finding struct {
	Door Door `json:"door"`
	// Statements are those that open it, by Sid or by number.
	Statements []string `json:"statements"`
	// Message says what is open, Cure how to close it: one line each.
	Message string `json:"message"`
	Cure    string `json:"cure"`
}

// LintOptions say what is known of a key.
type LintOptions struct {
	// Account is the owner's, 12 digits. Empty: who is a stranger is not known, but for everybody.
	Account string
	// Shared accepts that keys are released to enclaves that have run something before.
	Shared bool
}

// LintKeyPolicy names every door that a key policy leaves open. A door counts as open unless the
// document is sure to close it: conditions that the linter does not know, or that hold for some
// values, let through where they allow and stop nobody where they deny.
//
// It sees the document alone, and not the grants of a key. It does not report that those of the
// owner's account who may PutKeyPolicy can open every door. Errors say that the document is no
// key policy.
func LintKeyPolicy(policy []byte, o LintOptions) ([]Finding, error) {
	if o.Account != "" && !accountRE.MatchString(o.Account) {
		return nil, fail(ErrRequest, "the account %.40q is not 12 digits", o.Account)
	}
	d, err := decodePolicy(policy)
	if err != nil {
		return nil, fail(ErrPolicy, "%v", err)
	}
	var found []Finding
	for _, p := range probes(o) {
		var open []string
		for i := range d.statements {
			if s := &d.statements[i]; p.opens(d, s) {
				open = append(open, s.label)
			}
		}
		if open != nil {
			found = append(found, Finding{Door: p.door, Statements: open, Message: p.message, Cure: p.cure})
		}
	}
	return found, nil
}

// probe is a request that a key policy should not let through.
type probe struct {
	door    Door
	actions []string
	// when is what the request carries; a condition key that is not there may be anything.
	when map[string]value
	// strangers: only principals that are not the owner's count.
	strangers, everything bool
	// unless are wider doors: a statement that opens one is not reported for this one too.
	unless        []*probe
	message, cure string
	account       string
}

// opens reports whether a statement lets the request through and no other surely stops it.
func (p *probe) opens(d *document, s *judged) bool {
	if !s.allow || slices.ContainsFunc(p.unless, func(wider *probe) bool { return wider.opens(d, s) }) {
		return false
	}
	if p.everything {
		return s.allowsEverything()
	}
	if s.holds(p.when) == no {
		return false
	}
	for _, action := range p.actions {
		if !s.names(action) {
			continue
		}
		for _, who := range s.principals {
			if p.strangers && !p.stranger(who) {
				continue
			}
			if !d.denied(action, who, p.when) {
				return true
			}
		}
	}
	return false
}

// stranger reports whether a principal is not known to be the owner's.
func (p *probe) stranger(who string) bool {
	if p.account == "" {
		return who == everyone
	}
	return accountOf(who) != p.account
}

// inEnclave is what a request carries that comes out of an enclave, with the values that the
// policy wants, but for changes.
func inEnclave(changes map[string]value) map[string]value {
	when := map[string]value{}
	for _, name := range contextNames() {
		when[strings.ToLower(contextKey+name)] = value{kind: wanted}
	}
	for i := range 3 {
		when[register(i)] = value{kind: wanted}
	}
	when[register(usedPCR)] = value{kind: absent}
	for name, v := range changes {
		when[name] = v
	}
	// PCR0 has a second name (KMS developer guide, "kms:RecipientAttestation:ImageSha384").
	when[imageKey] = when[register(0)]
	return when
}

func register(i int) string { return strings.ToLower(fmt.Sprint(pcrKey, i)) }

// imageKey is lower-case, as condition keys are compared.
const imageKey = "kms:recipientattestation:imagesha384"

func probes(o LintOptions) []*probe {
	decrypt := []string{"kms:Decrypt"}
	const pin = `allow kms:Decrypt with StringEqualsIgnoreCase "kms:RecipientAttestation:PCR%d" alone`
	outside := map[string]value{}
	for i := range 32 {
		outside[register(i)] = value{kind: absent}
	}
	unattested := &probe{
		door: DoorUnattested, actions: decrypt, when: inEnclave(outside),
		message: "data keys are given out without any attestation, to whoever may Decrypt",
		cure:    `deny kms:Decrypt to {"AWS": "*"} with Null "kms:RecipientAttestation:PCR0": "true"`,
	}
	all := []*probe{unattested}
	for i, door := range []Door{DoorPCR0, DoorPCR1, DoorPCR2} {
		all = append(all, &probe{
			door: door, actions: decrypt, when: inEnclave(map[string]value{register(i): {kind: other}}), unless: []*probe{unattested},
			message: fmt.Sprintf("data keys are given to enclaves with any PCR%d", i), cure: fmt.Sprintf(pin, i),
		})
	}
	zeros := map[string]value{}
	for i := range 3 {
		zeros[register(i)] = value{kind: exact, text: strings.Repeat("0", 96)}
	}
	all = append(all, &probe{
		door: DoorDebug, actions: decrypt, when: inEnclave(zeros), unless: all[:2],
		message: "data keys are given to enclaves in debug mode, whose PCRs are zeros", cure: "take the PCR of zeros out of the conditions",
	})
	if !o.Shared {
		all = append(all, &probe{
			door: DoorUsed, actions: decrypt, when: inEnclave(map[string]value{register(usedPCR): {kind: wanted}}), unless: []*probe{unattested},
			message: "data keys are given to enclaves that ran something of others before",
			cure:    `allow kms:Decrypt only with Null "kms:RecipientAttestation:PCR16": "true", or accept it with --shared`,
		})
	}
	unbound := map[string]value{}
	for _, name := range contextNames() {
		unbound[strings.ToLower(contextKey+name)] = value{kind: absent}
	}
	all = append(all, &probe{
		door: DoorContext, actions: decrypt, when: inEnclave(unbound), unless: []*probe{unattested},
		message: "what is decrypted need be no sealed bundle: no encryption context is required",
		cure:    `allow kms:Decrypt only with Null "kms:EncryptionContext:cloister:version": "false"`,
	})
	return append(all, sideDoors(o)...)
}

// sideDoors are those that need no Decrypt.
func sideDoors(o LintOptions) []*probe {
	return []*probe{
		{
			door: DoorReEncrypt, actions: []string{"kms:ReEncryptFrom"},
			message: "what is sealed can be put under another key", cure: `deny kms:ReEncrypt* to {"AWS": "*"}`,
		}, {
			door: DoorGrant, actions: []string{"kms:CreateGrant"},
			message: "grants can be made, which no key policy shows", cure: `deny kms:CreateGrant to {"AWS": "*"}`,
		}, {
			door: DoorReplicate, actions: []string{"kms:ReplicateKey", "kms:UpdatePrimaryRegion"},
			message: "the key can get a second policy in another region", cure: `deny kms:ReplicateKey and kms:UpdatePrimaryRegion to {"AWS": "*"}`,
		}, {
			door: DoorEverything, everything: true,
			message: "every action is allowed, and for an account its IAM policies decide", cure: "name the actions; cloister key-policy print has them",
		}, {
			door: DoorAdministration, actions: []string{"kms:PutKeyPolicy"}, strangers: true, account: o.Account,
			message: "somebody else than the owner may replace this policy", cure: "allow kms:PutKeyPolicy to the owner's account alone",
		}, {
			door: DoorSeal, strangers: true, account: o.Account,
			actions: []string{"kms:Encrypt", "kms:GenerateDataKey", "kms:GenerateDataKeyWithoutPlaintext", "kms:ReEncryptTo"},
			message: "somebody else than the owner may seal under this key, and counts as its owner",
			cure:    "allow kms:GenerateDataKey to the owner's account alone, and kms:Encrypt to nobody",
		},
	}
}

// denied reports whether a request is sure to be stopped.
func (d *document) denied(action, who string, when map[string]value) bool {
	return slices.ContainsFunc(d.statements, func(s judged) bool {
		return !s.allow && s.everywhere && s.names(action) && s.covers(who) && s.holds(when) == yes
	})
}
