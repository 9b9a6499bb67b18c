package devkit

import (
	"crypto/rand"
	"errors"
	"slices"
	"strings"
)

// The defaults, which are also all that is supported.
const (
	symmetric   = "SYMMETRIC_DEFAULT"
	usage       = "ENCRYPT_DECRYPT"
	originKMS   = "AWS_KMS"
	policyName  = "default"
	maxDescribe = 8192
)

// actionOf is what an action does, nil if it is not offered. ReEncrypt is not: it would move a data
// key to another owner.
func actionOf(name string) func(*call) (any, error) {
	switch name {
	case "CreateKey":
		return (*call).createKey
	case "DescribeKey":
		return (*call).describeKey
	case "EnableKey":
		return func(c *call) (any, error) { return c.setDisabled(false) }
	case "DisableKey":
		return func(c *call) (any, error) { return c.setDisabled(true) }
	case "ListKeys":
		return (*call).listKeys
	case "GetKeyPolicy":
		return (*call).getKeyPolicy
	case "PutKeyPolicy":
		return (*call).putKeyPolicy
	case "GenerateDataKey":
		return (*call).generateDataKey
	case "Encrypt":
		return (*call).encrypt
	case "Decrypt":
		return (*call).decrypt
	}
	return nil
}

// keyMetadata is what KMS tells of a key (KMS API, "KeyMetadata").
type keyMetadata struct {
	AWSAccountID          string  `json:"AWSAccountId"`
	KeyID                 string  `json:"KeyId"`
	Arn                   string  `json:"Arn"`
	CreationDate          float64 `json:"CreationDate"`
	Enabled               bool    `json:"Enabled"`
	Description           string  `json:"Description"`
	KeyUsage              string  `json:"KeyUsage"`
	KeyState              string  `json:"KeyState"`
	Origin                string  `json:"Origin"`
	KeyManager            string  `json:"KeyManager"`
	CustomerMasterKeySpec string  `json:"CustomerMasterKeySpec"`
	KeySpec               string  `json:"KeySpec"`
	EncryptionAlgorithms  []string
	MultiRegion           bool `json:"MultiRegion"`
}

func metadataOf(k *key) any {
	state := "Enabled"
	if k.Disabled {
		state = "Disabled"
	}
	return map[string]any{"KeyMetadata": keyMetadata{
		AWSAccountID: k.Account, KeyID: k.ID, Arn: k.arn(), CreationDate: float64(k.Created.UnixMilli()) / 1000,
		Enabled: !k.Disabled, Description: k.Description, KeyUsage: usage, KeyState: state, Origin: originKMS, KeyManager: "CUSTOMER",
		CustomerMasterKeySpec: symmetric, KeySpec: symmetric, EncryptionAlgorithms: []string{symmetric},
	}}
}

func (c *call) createKey() (any, error) {
	var in struct {
		Policy, Description, KeyUsage, KeySpec, CustomerMasterKeySpec, Origin string
		BypassPolicyLockoutSafetyCheck, MultiRegion                           bool
		Tags                                                                  []any
	}
	if err := c.decode(&in); err != nil {
		return nil, err
	}
	switch only := func(value, supported string) bool { return value == "" || value == supported }; {
	case !only(in.KeySpec, symmetric) || !only(in.CustomerMasterKeySpec, symmetric):
		return nil, unsupported("a KeySpec other than %s", symmetric)
	case !only(in.KeyUsage, usage):
		return nil, unsupported("a KeyUsage other than %s", usage)
	case !only(in.Origin, originKMS):
		return nil, unsupported("an Origin other than %s", originKMS)
	case in.MultiRegion || len(in.Tags) > 0:
		return nil, unsupported("MultiRegion and Tags")
	case len(in.Description) > maxDescribe:
		return nil, invalid("Description: over %d bytes", maxDescribe)
	}
	if in.Policy == "" {
		// What KMS gives a key that is made without (KMS developer guide, "Default key policy").
		in.Policy = `{"Version":"2012-10-17","Id":"key-default-1","Statement":[{"Sid":"Enable IAM User Permissions",` +
			`"Effect":"Allow","Principal":{"AWS":"` + c.caller.ARN + `"},"Action":"kms:*","Resource":"*"}]}`
	}
	if err := c.checkPolicy(in.Policy, "*", in.BypassPolicyLockoutSafetyCheck); err != nil {
		return nil, err
	}
	k, err := c.kms.home.newKey(c.region, c.caller.ID, in.Description, in.Policy, c.at)
	if err != nil {
		return nil, internal(err)
	}
	c.key = k.arn()
	return metadataOf(k), nil
}

// checkPolicy refuses what is no policy, and one that locks the caller out (KMS API, "CreateKey",
// Policy).
func (c *call) checkPolicy(text, arn string, bypass bool) error {
	p, err := parsePolicy(text)
	if problem, ok := errors.AsType[*policyError](err); ok {
		return refused(codeMalformedPolicy, "%s", problem.text)
	}
	if err != nil {
		return internal(err)
	}
	if bypass {
		return nil
	}
	a := c.access("PutKeyPolicy", arn)
	a.facts[factBypass] = []string{"false"}
	if p.decide(a) != allowed {
		return refused(codeMalformedPolicy, "The new key policy will not allow you to update the key policy in the future.")
	}
	return nil
}

func (c *call) describeKey() (any, error) {
	var in struct {
		KeyID       string `json:"KeyId"`
		GrantTokens []string
	}
	k, err := c.administer(&in, &in.KeyID, &in.GrantTokens)
	if err != nil {
		return nil, err
	}
	return metadataOf(k), nil
}

// administer decodes the parameters of an action on a key, finds the key and asks its policy.
func (c *call) administer(in any, keyID *string, grants *[]string) (*key, error) {
	if err := c.decode(in); err != nil {
		return nil, err
	}
	if grants != nil && len(*grants) > 0 {
		return nil, unsupported("GrantTokens")
	}
	k, err := c.find(*keyID)
	if err != nil {
		return nil, err
	}
	return k, c.authorize(k, c.access(c.action, k.arn()))
}

func (c *call) setDisabled(disabled bool) (any, error) {
	var in struct {
		KeyID string `json:"KeyId"`
	}
	k, err := c.administer(&in, &in.KeyID, nil)
	if err != nil {
		return nil, err
	}
	if err := c.kms.home.editKey(k.ID, func(k *key) { k.Disabled = disabled }); err != nil {
		return nil, internal(err)
	}
	return nil, nil
}

func (c *call) listKeys() (any, error) {
	var in struct {
		Limit  *int
		Marker string
	}
	if err := c.decode(&in); err != nil {
		return nil, err
	}
	limit := 100
	if in.Limit != nil {
		limit = *in.Limit
	}
	if limit < 1 || limit > 1000 {
		return nil, invalid("Limit: %d is not 1 to 1000", limit)
	}
	if in.Marker != "" && !uuidRE.MatchString(in.Marker) {
		return nil, refused(codeInvalidMarker, "The marker is not one that this action gave.")
	}
	ids, err := c.kms.home.listKeys(c.region, c.caller.ID)
	if err != nil {
		return nil, internal(err)
	}
	from := 0
	if in.Marker != "" {
		from = slices.IndexFunc(ids, func(id string) bool { return id > in.Marker })
		if from < 0 {
			from = len(ids)
		}
	}
	ids = ids[from:]
	out := struct {
		Keys       []map[string]string
		Truncated  bool
		NextMarker string `json:",omitempty"`
	}{Keys: []map[string]string{}, Truncated: len(ids) > limit}
	for _, id := range ids[:min(limit, len(ids))] {
		out.Keys = append(out.Keys, map[string]string{"KeyId": id, "KeyArn": keyARN(c.region, c.caller.ID, id)})
	}
	if out.Truncated {
		out.NextMarker = ids[limit-1]
	}
	return out, nil
}

func (c *call) getKeyPolicy() (any, error) {
	var in struct {
		KeyID      string `json:"KeyId"`
		PolicyName string
	}
	k, err := c.administer(&in, &in.KeyID, nil)
	switch {
	case err != nil:
		return nil, err
	case in.PolicyName != "" && in.PolicyName != policyName:
		return nil, refused(codeNotFound, "No such policy exists")
	}
	return map[string]string{"Policy": k.Policy, "PolicyName": policyName}, nil
}

func (c *call) putKeyPolicy() (any, error) {
	var in struct {
		KeyID                          string `json:"KeyId"`
		PolicyName, Policy             string
		BypassPolicyLockoutSafetyCheck bool
	}
	if err := c.decode(&in); err != nil {
		return nil, err
	}
	switch {
	case in.PolicyName != "" && in.PolicyName != policyName:
		return nil, invalid("PolicyName: not %q", policyName)
	case in.Policy == "":
		return nil, invalid("Policy: missing")
	}
	k, err := c.find(in.KeyID)
	if err != nil {
		return nil, err
	}
	a := c.access(c.action, k.arn())
	a.facts[factBypass] = []string{boolText(in.BypassPolicyLockoutSafetyCheck)}
	if err := c.authorize(k, a); err != nil {
		return nil, err
	}
	if err := c.checkPolicy(in.Policy, k.arn(), in.BypassPolicyLockoutSafetyCheck); err != nil {
		return nil, err
	}
	if err := c.kms.home.editKey(k.ID, func(k *key) { k.Policy = in.Policy }); err != nil {
		return nil, internal(err)
	}
	return nil, nil
}

func boolText(b bool) string {
	if b {
		return "true"
	}
	return "false"
}

// find is the key that a KeyId names: a UUID, of the caller's account and the request's region, or
// an ARN.
func (c *call) find(name string) (*key, error) {
	arn := name
	switch isARN := strings.HasPrefix(name, "arn:"); {
	case name == "":
		return nil, invalid("KeyId: missing")
	case !isARN && !uuidRE.MatchString(name):
		return nil, refused(codeNotFound, "Invalid keyId '%.100s'", name) // an alias too: there are none
	case !isARN:
		arn = keyARN(c.region, c.caller.ID, name)
	}
	missing := refused(codeNotFound, "Key '%.200s' does not exist", arn)
	k, err := c.kms.home.loadKey(arn[strings.LastIndexByte(arn, '/')+1:])
	switch {
	case errors.Is(err, errNoKey):
		return nil, missing
	case err != nil:
		return nil, internal(err)
	case k.arn() != arn || k.Region != c.region:
		return nil, missing
	}
	c.key = arn
	return k, nil
}

// access is what a caller asks of a policy, with what is known of every request.
func (c *call) access(action, arn string) *access {
	return &access{account: c.caller.ID, action: actionPrefix + action, resource: arn, facts: map[string][]string{
		factCaller: {c.caller.ID}, factAccount: {c.caller.ID}, factPrincipal: {c.caller.ARN},
		factSecure: {boolText(c.secure)}, factIsService: {"false"}, factViaAWS: {"false"},
	}}
}

// authorize asks the policy of a key.
func (c *call) authorize(k *key, a *access) error {
	p, err := parsePolicy(k.Policy)
	if err != nil {
		return internal(err)
	}
	denied := "User: " + c.caller.ARN + " is not authorized to perform: " + a.action + " on resource: " + a.resource
	switch p.decide(a) {
	case allowed:
		return nil
	case explicitlyDenied:
		return refused(codeAccessDenied, "%s with an explicit deny in a resource-based policy", denied)
	}
	return refused(codeAccessDenied, "%s because no resource-based policy allows the %s action", denied, a.action)
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return b
}
