package aws

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/cloister-run/cloister/enclave/attest"
	"github.com/cloister-run/cloister/enclave/keys"
)

// MaxKeyPolicy is the longest key policy in bytes (KMS developer guide, "Resource quotas").
const MaxKeyPolicy = 32 << 10

// Condition keys of KMS (KMS developer guide, "AWS KMS condition keys" and "Condition keys for
// attested platforms").
const (
	attestationKey = "kms:RecipientAttestation:"
	pcrKey         = attestationKey + "PCR"
	contextKey     = "kms:EncryptionContext:"
	// usedPCR is extended before the first executor starts: until then no document holds it.
	usedPCR = 16
)

// contextNames are the names of a bundle's encryption context (docs/bundle-format.md,
// "Encryption context").
func contextNames() []string {
	return []string{"cloister:asset", "cloister:bundle", "cloister:kind", "cloister:policy", "cloister:version"}
}

// PolicySpec says who may do what with a key that assets are sealed under. A principal is an ARN
// of IAM or STS, or the 12 digits of an account, which stand for everybody to whom that account
// gives the permission.
type PolicySpec struct {
	// Partition of the key and of everybody: "aws", "aws-cn", "aws-us-gov" or "cloister-dev".
	// Required.
	Partition string
	// Account is the owner's, 12 digits. Required.
	Account string
	// Admin administers the key. The account by default.
	Admin string
	// Sealers may seal. The account by default. Whoever may is the owner of what they seal.
	Sealers []string
	// Users may have keys released to their enclaves, and to nothing else. Required.
	Users []string
	// PCRs are those of the one image that is trusted: 0, 1 and 2, and where given 3 and 8.
	PCRs attest.PCRSet
	// Shared gives up that an enclave has run nothing before this owner's job: all jobs of one
	// boot are a single trust domain then.
	Shared bool
}

// statement is one of a key policy, in the order of fields in which KMS's documentation has them.
type statement struct {
	Sid       string
	Effect    string
	Principal principals
	Action    []string
	Resource  string
	Condition map[string]map[string]any `json:",omitempty"`
}

type principals struct{ AWS []string }

// KeyPolicy is a key policy under which a data key is released to the image that is named and to
// nothing else: indented JSON, always the same for the same spec. The error says everything
// that is wrong with the spec.
//
// Whoever administers a key may replace its policy (PutKeyPolicy). No policy closes that door:
// an owner trusts the owner's own administrators.
func KeyPolicy(s PolicySpec) ([]byte, error) {
	r, err := s.resolve()
	if err != nil {
		return nil, err
	}
	everybody := principals{[]string{"*"}}
	policy := struct {
		Version   string
		ID        string `json:"Id"`
		Statement []statement
	}{"2012-10-17", "cloister", []statement{
		{Sid: "Administration", Effect: "Allow", Principal: principals{r.admin}, Action: administration(), Resource: "*"},
		{Sid: "Sealing", Effect: "Allow", Principal: principals{r.sealers}, Action: []string{"kms:GenerateDataKey"}, Resource: "*",
			Condition: map[string]map[string]any{"Null": bound()}},
		{Sid: "ReleaseToTheEnclave", Effect: "Allow", Principal: principals{r.users}, Action: []string{"kms:Decrypt"}, Resource: "*",
			Condition: s.release()},
		// Policies of IAM and grants cannot open what is denied here.
		{Sid: "NothingWithoutAttestation", Effect: "Deny", Principal: everybody, Action: []string{"kms:Decrypt"}, Resource: "*",
			Condition: map[string]map[string]any{"Null": {pcrKey + "0": "true"}}},
		{Sid: "NoSideDoors", Effect: "Deny", Principal: everybody, Resource: "*",
			Action: []string{"kms:CreateGrant", "kms:ReEncrypt*", "kms:ReplicateKey", "kms:UpdatePrimaryRegion"}},
	}}
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(policy); err != nil {
		return nil, fmt.Errorf("aws: key policy: %w", err)
	}
	if out.Len() > MaxKeyPolicy {
		return nil, fail(ErrRequest, "the key policy has %d bytes and KMS takes %d; name accounts in place of users", out.Len(), MaxKeyPolicy)
	}
	return out.Bytes(), nil
}

// administration is what can be done to a key without using it, or letting others use it, but
// for PutKeyPolicy.
func administration() []string {
	return []string{
		"kms:CancelKeyDeletion", "kms:DescribeKey", "kms:DisableKey", "kms:DisableKeyRotation", "kms:EnableKey",
		"kms:EnableKeyRotation", "kms:GetKeyPolicy", "kms:GetKeyRotationStatus", "kms:ListGrants", "kms:ListKeyPolicies",
		"kms:ListKeyRotations", "kms:ListResourceTags", "kms:PutKeyPolicy", "kms:RevokeGrant", "kms:RotateKeyOnDemand",
		"kms:ScheduleKeyDeletion", "kms:TagResource", "kms:UntagResource", "kms:UpdateKeyDescription",
	}
}

// bound requires a bundle's encryption context.
func bound() map[string]any {
	null := map[string]any{}
	for _, name := range contextNames() {
		null[contextKey+name] = "false"
	}
	return null
}

// release is under which conditions a data key is released.
func (s PolicySpec) release() map[string]map[string]any {
	measured, null := map[string]any{}, bound()
	for i, p := range s.PCRs {
		measured[pcrKey+strconv.Itoa(i)] = p.String()
	}
	if !s.Shared {
		null[pcrKey+strconv.Itoa(usedPCR)] = "true"
	}
	return map[string]map[string]any{"StringEqualsIgnoreCase": measured, "Null": null}
}

var (
	accountRE   = regexp.MustCompile(`^[0-9]{12}$`)
	keyIDRE     = regexp.MustCompile(`^[0-9A-Za-z-]{1,64}$`)
	regionRE    = regexp.MustCompile(`^[a-z][a-z0-9-]{0,31}$`)
	principalRE = regexp.MustCompile(`^arn:([a-z-]+):(?:iam|sts)::([0-9]{12}):(?:root|(?:user|role|assumed-role|federated-user)/[\w+=,.@/-]{1,600})$`)
)

// resolved are the principals of a spec.
type resolved struct{ admin, sealers, users []string }

// resolve applies every rule and reports every problem.
func (s PolicySpec) resolve() (resolved, error) {
	var problems []error
	problem := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	if !slices.Contains([]string{"aws", "aws-cn", "aws-us-gov", keys.PartitionDev}, s.Partition) {
		problem("partition: %.40q is not known", s.Partition)
	}
	if !accountRE.MatchString(s.Account) {
		problem("account: %.40q is not 12 digits", s.Account)
	}
	all := func(what string, given []string) []string {
		var list []string
		for _, p := range given {
			arn, why := s.principal(p)
			if why != "" {
				problem("%s: %.80q %s", what, p, why)
			}
			list = append(list, arn)
		}
		slices.Sort(list)
		return slices.Compact(list)
	}
	own := func(given ...string) []string {
		if len(given) == 0 || given[0] == "" {
			return []string{s.Account}
		}
		return given
	}
	r := resolved{users: all("user", s.Users)}
	if accountRE.MatchString(s.Account) {
		r.admin, r.sealers = all("admin", own(s.Admin)), all("sealer", own(s.Sealers...))
		if account := accountOf(r.admin[0]); account != "" && account != s.Account {
			problem("admin: %q is of another account; whoever administers a key may replace its policy", s.Admin)
		}
	}
	if len(s.Users) == 0 {
		problem("user: nobody is named; name the account whose enclaves may use what is sealed")
	}
	for i := range attest.MaxPCRs {
		p, given := s.PCRs[i]
		switch {
		case !given && i < 3:
			problem("PCR%d: missing; PCR0, PCR1 and PCR2 are all needed", i)
		case given && i > 2 && i != 3 && i != 8:
			problem("PCR%d: only 0, 1, 2, 3 and 8 say which image it is", i)
		case given && p.IsZero():
			problem("PCR%d: zeros are what enclaves in debug mode have", i)
		}
	}
	if len(problems) > 0 {
		return resolved{}, &Error{Kind: ErrRequest, Detail: strings.ReplaceAll(errors.Join(problems...).Error(), "\n", "; ")}
	}
	return r, nil
}

// principal is the ARN of a principal, or why it is none.
func (s PolicySpec) principal(p string) (arn, why string) {
	if accountRE.MatchString(p) {
		return "arn:" + s.Partition + ":iam::" + p + ":root", ""
	}
	m := principalRE.FindStringSubmatch(p)
	switch {
	case m == nil:
		return "", "is neither the 12 digits of an account nor the ARN of a user or role"
	case m[1] != s.Partition:
		return "", "is of another partition than " + s.Partition
	}
	return p, ""
}

// accountOf is the account of a principal; empty for one of another kind.
func accountOf(principal string) string {
	if accountRE.MatchString(principal) {
		return principal
	}
	if parts := strings.SplitN(principal, ":", 6); len(parts) == 6 && accountRE.MatchString(parts[4]) {
		return parts[4]
	}
	return ""
}
