package devkit_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/cloister-run/cloister/enclave/devkit"
)

const someKey = "arn:cloister-dev:kms:local:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"

// decides asks a policy for kms:Decrypt by the owner.
func decides(t *testing.T, policy string, facts map[string][]string) string {
	t.Helper()
	got, err := devkit.Decide(policy, owner, "kms:Decrypt", someKey, facts)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// statement is one that matches kms:Decrypt by the owner.
func statement(effect, condition string) string {
	return fmt.Sprintf(`{"Effect":%q,"Principal":"*","Action":"kms:Decrypt","Resource":"*","Condition":%s}`, effect, condition)
}

func policyOf(statements ...string) string {
	return `{"Version":"2012-10-17","Statement":[` + strings.Join(statements, ",") + `]}`
}

// TestConditions: every operator, on what is there and what is not.
func TestConditions(t *testing.T) {
	const asset, names = "kms:EncryptionContext:cloister:asset", "kms:EncryptionContextKeys"
	there := map[string][]string{
		"kms:encryptioncontext:cloister:asset":   {"Digits"},
		"kms:encryptioncontextkeys":              {"cloister:asset", "cloister:bundle"},
		"kms:recipientattestation:pcr4":          {"aa"},
		"kms:recipientattestation:imagesha384":   {"aa"},
		"kms:calleraccount":                      {owner},
		"aws:principalaccount":                   {owner},
		"aws:principalarn":                       {"arn:cloister-dev:iam::" + owner + ":root"},
		"aws:securetransport":                    {"false"},
		"aws:principalisawsservice":              {"false"},
		"aws:viaawsservice":                      {"false"},
		"kms:bypasspolicylockoutsafetycheck":     {"true"},
		"kms:encryptioncontext:cloister:another": {""},
	}
	one := func(operator, key, value string) string { return fmt.Sprintf(`{%q:{%q:%s}}`, operator, key, value) }
	for name, row := range map[string]struct {
		condition    string
		there, alone bool // whether it holds with these facts, and with none
	}{
		"none":                               {`{}`, true, true},
		"equals":                             {one("StringEquals", asset, `"Digits"`), true, false},
		"equals in another case":             {one("StringEquals", asset, `"digits"`), false, false},
		"equals one of several":              {one("StringEquals", asset, `["x","Digits"]`), true, false},
		"equals none of several":             {one("StringEquals", asset, `["x","y"]`), false, false},
		"equals is no pattern":               {one("StringEquals", asset, `"D*"`), false, false},
		"a key's case is none":               {one("StringEquals", "KMS:encryptioncontext:CLOISTER:Asset", `"Digits"`), true, false},
		"another context key":                {one("StringEquals", "kms:EncryptionContext:x", `"Digits"`), false, false},
		"ignoring case":                      {one("StringEqualsIgnoreCase", asset, `"dIGITS"`), true, false},
		"ignoring case, another":             {one("StringEqualsIgnoreCase", asset, `"digit"`), false, false},
		"differs":                            {one("StringNotEquals", asset, `"x"`), true, true},
		"does not differ":                    {one("StringNotEquals", asset, `"Digits"`), false, true},
		"differs from one, not from another": {one("StringNotEquals", asset, `["x","Digits"]`), false, true},
		"like":                               {one("StringLike", asset, `"D?g*s"`), true, false},
		"like in another case":               {one("StringLike", asset, `"d*"`), false, false},
		"like anything":                      {one("StringLike", asset, `"*"`), true, false},
		"like one character":                 {one("StringLike", asset, `"?"`), false, false},
		"null":                               {one("Null", asset, `"true"`), false, true},
		"null as a truth value":              {one("Null", asset, `true`), false, true},
		"not null":                           {one("Null", asset, `"false"`), true, false},
		"null or not":                        {one("Null", asset, `["true","false"]`), true, true},
		"an empty value is there":            {one("Null", "kms:EncryptionContext:cloister:another", `"false"`), true, false},
		"bool":                               {one("Bool", "aws:SecureTransport", `"false"`), true, false},
		"bool, another":                      {one("Bool", "aws:SecureTransport", `"TRUE"`), false, false},
		"bool of a service":                  {one("Bool", "aws:PrincipalIsAWSService", `false`), true, false},
		"bool by way of a service":           {one("Bool", "aws:ViaAWSService", `false`), true, false},
		"bool of the bypass":                 {one("Bool", "kms:BypassPolicyLockoutSafetyCheck", `true`), true, false},
		"all values":                         {one("ForAllValues:StringEquals", names, `["cloister:asset","cloister:bundle","more"]`), true, true},
		"not all values":                     {one("ForAllValues:StringEquals", names, `["cloister:asset"]`), false, true},
		"all values in another case":         {one("ForAllValues:StringEquals", names, `["Cloister:asset","cloister:bundle"]`), false, true},
		"any context":                        {one("Null", names, `"false"`), true, false},
		"the image":                          {one("StringEqualsIgnoreCase", "kms:RecipientAttestation:ImageSha384", `"AA"`), true, false},
		"a register":                         {one("StringEquals", "kms:RecipientAttestation:PCR4", `"aa"`), true, false},
		"another register":                   {one("StringEquals", "kms:RecipientAttestation:PCR31", `"aa"`), false, false},
		"the account":                        {one("StringEquals", "kms:CallerAccount", `"`+owner+`"`), true, false},
		"the principal's account":            {one("StringEquals", "aws:PrincipalAccount", `"`+owner+`"`), true, false},
		"the principal":                      {one("StringLike", "aws:PrincipalArn", `"arn:*:root"`), true, false},
		"by way of a service":                {one("StringEquals", "kms:ViaService", `"s3.eu-west-2.amazonaws.com"`), false, false},
		"not by way of a service":            {one("Null", "kms:ViaService", `"true"`), true, true},
		"two keys that hold":                 {`{"StringEquals":{"kms:CallerAccount":"` + owner + `","kms:RecipientAttestation:PCR4":"aa"}}`, true, false},
		"two keys, one holds":                {`{"StringEquals":{"kms:CallerAccount":"` + owner + `","kms:RecipientAttestation:PCR4":"bb"}}`, false, false},
		"two operators that hold":            {`{"StringEquals":{"kms:CallerAccount":"` + owner + `"},"Null":{"kms:ViaService":"true"}}`, true, false},
		"two operators, one holds":           {`{"StringEquals":{"kms:CallerAccount":"` + owner + `"},"Null":{"kms:ViaService":"false"}}`, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			for facts, holds := range map[*map[string][]string]bool{&there: row.there, {}: row.alone} {
				want := map[bool]string{true: "allowed", false: "not allowed"}[holds]
				if got := decides(t, policyOf(statement("Allow", row.condition)), *facts); got != want {
					t.Errorf("%d facts, allow: %s", len(*facts), got)
				}
				want = map[bool]string{true: "denied", false: "allowed"}[holds]
				if got := decides(t, policyOf(statement("Allow", `{}`), statement("Deny", row.condition)), *facts); got != want {
					t.Errorf("%d facts, deny: %s", len(*facts), got)
				}
			}
		})
	}
}

// TestStatements: whom and what they are about.
func TestStatements(t *testing.T) {
	s := func(effect, principal, action, resource string) string {
		return fmt.Sprintf(`{"Sid":"x","Effect":%q,"Principal":%s,"Action":%s,"Resource":%s}`, effect, principal, action, resource)
	}
	root := `{"AWS":"arn:cloister-dev:iam::` + owner + `:root"}`
	for name, row := range map[string]struct{ policy, want string }{
		"the root":                  {policyOf(s("Allow", root, `"kms:Decrypt"`, `"*"`)), "allowed"},
		"the account":               {policyOf(s("Allow", `{"AWS":"`+owner+`"}`, `"kms:Decrypt"`, `"*"`)), "allowed"},
		"everybody":                 {policyOf(s("Allow", `{"AWS":"*"}`, `"kms:Decrypt"`, `"*"`)), "allowed"},
		"one of several":            {policyOf(s("Allow", `{"AWS":["`+stranger+`","`+owner+`"]}`, `"kms:Decrypt"`, `"*"`)), "allowed"},
		"another account":           {policyOf(s("Allow", `{"AWS":"`+stranger+`"}`, `"kms:Decrypt"`, `"*"`)), "not allowed"},
		"every action":              {policyOf(s("Allow", root, `"*"`, `"*"`)), "allowed"},
		"every action of KMS":       {policyOf(s("Allow", root, `"kms:*"`, `"*"`)), "allowed"},
		"actions like it":           {policyOf(s("Allow", root, `["kms:Get*","KMS:dec?ypt"]`, `"*"`)), "allowed"},
		"another action":            {policyOf(s("Allow", root, `"kms:Encrypt"`, `"*"`)), "not allowed"},
		"an action that begins so":  {policyOf(s("Allow", root, `"kms:Dec"`, `"*"`)), "not allowed"},
		"this key":                  {policyOf(s("Allow", root, `"kms:*"`, `"`+someKey+`"`)), "allowed"},
		"another key":               {policyOf(s("Allow", root, `"kms:*"`, `"`+someKey+`0"`)), "not allowed"},
		"a denial wins":             {policyOf(s("Allow", root, `"kms:*"`, `"*"`), s("Deny", root, `"kms:De*"`, `"*"`)), "denied"},
		"a denial wins, whatever 1": {policyOf(s("Deny", `"*"`, `"*"`, `"*"`), s("Allow", root, `"kms:*"`, `"*"`)), "denied"},
		"a denial of another":       {policyOf(s("Allow", root, `"kms:*"`, `"*"`), s("Deny", `{"AWS":"`+stranger+`"}`, `"*"`, `"*"`)), "allowed"},
		"one statement, no list":    {`{"Statement":` + s("Allow", root, `"kms:*"`, `"*"`) + `}`, "allowed"},
		"the older version":         {`{"Version":"2008-10-17","Id":"x","Statement":` + s("Allow", root, `"kms:*"`, `"*"`) + `}`, "allowed"},
	} {
		if got := decides(t, row.policy, nil); got != row.want {
			t.Errorf("%s: %s", name, got)
		}
	}
}

// TestWhatIsNoPolicy: and what this KMS could not decide as AWS would, is refused and named.
func TestWhatIsNoPolicy(t *testing.T) {
	good := `"Effect":"Allow","Principal":"*","Action":"kms:Decrypt","Resource":"*"`
	without := func(part, instead string) string {
		return policyOf("{" + strings.Replace(good, part, instead, 1) + "}")
	}
	condition := func(c string) string { return policyOf("{" + good + `,"Condition":` + c + "}") }
	if err := devkit.CheckPolicy(policyOf("{" + good + "}")); err != nil {
		t.Fatal(err)
	}
	for text, says := range map[string]string{
		"":                            "JSON",
		"x":                           "JSON",
		"[]":                          "no JSON object",
		"null":                        "no JSON object",
		"{}":                          "Statement[0]",
		`{"Statement":[]}`:            "there is none",
		policyOf("1"):                 "no JSON object",
		policyOf("{"+good+"}") + "{}": "more after the end",
		`{"Version":"2020-01-01","Statement":{` + good + `}}`:                 "Version",
		`{"Id":1,"Statement":{` + good + `}}`:                                 "Id",
		`{"version":"2012-10-17","Statement":{` + good + `}}`:                 `"version"`,
		policyOf("{" + good + `,"Effect":"Deny"}`):                            `"Effect" comes twice`,
		policyOf("{" + good + `,"effect":"Deny"}`):                            `"effect"`,
		policyOf("{" + good + `,"NotAction":"kms:Encrypt"}`):                  "NotAction",
		policyOf("{" + good + `,"Sid":1}`):                                    "Sid",
		without(`"Allow"`, `"allow"`):                                         "Effect",
		without(`"Effect":"Allow",`, ``):                                      "Effect",
		without(`"Principal":"*",`, ``):                                       "Principal",
		without(`"Principal":"*"`, `"NotPrincipal":"*"`):                      "NotPrincipal",
		without(`"*"`, `{"Service":"s3.amazonaws.com"}`):                      "Service",
		without(`"*"`, `{"AWS":[]}`):                                          "empty list",
		without(`"*"`, `{"AWS":1}`):                                           "AWS",
		without(`"*"`, `{"AWS":"arn:aws:iam::111122223333:root"}`):            "invalid principals",
		without(`"*"`, `{"AWS":"arn:cloister-dev:iam::111122223333:user/a"}`): "invalid principals",
		without(`"*"`, `{"AWS":"arn:cloister-dev:iam::111122223333"}`):        "invalid principals",
		without(`"*"`, `{"AWS":"111122223333:root"}`):                         "invalid principals",
		without(`"*"`, `{"AWS":"11112222333"}`):                               "invalid principals",
		without(`"kms:Decrypt"`, `"s3:GetObject"`):                            "s3:GetObject",
		without(`"kms:Decrypt"`, `"kms:"`):                                    "no action",
		without(`"kms:Decrypt"`, `[]`):                                        "empty list",
		without(`"kms:Decrypt"`, `""`):                                        "Action",
		without(`,"Resource":"*"`, ``):                                        "Resource",
		without(`"Resource":"*"`, `"Resource":"${aws:username}"`):             "variables",
		condition(`[]`):                                                               "Condition",
		condition(`null`):                                                             "Condition",
		condition(`{"StringEquals":{}}`):                                              "StringEquals",
		condition(`{"StringEquals":"x"}`):                                             "StringEquals",
		condition(`{"StringEquals":{"kms:CallerAccount":[]}}`):                        "empty list",
		condition(`{"StringEquals":{"kms:CallerAccount":1}}`):                         "kms:CallerAccount",
		condition(`{"StringEquals":{"kms:CallerAccount":{}}}`):                        "kms:CallerAccount",
		condition(`{"StringEquals":{"aws:SourceIp":"x"}}`):                            "aws:SourceIp",
		condition(`{"StringEquals":{"kms:RecipientAttestation:PCR32":"x"}}`):          "PCR32",
		condition(`{"StringEquals":{"kms:RecipientAttestation:PCR01":"x"}}`):          "PCR01",
		condition(`{"StringEquals":{"kms:RecipientAttestation:PCR":"x"}}`):            "PCR",
		condition(`{"StringEquals":{"kms:EncryptionContext:":"x"}}`):                  "kms:EncryptionContext:",
		condition(`{"StringEquals":{"kms:EncryptionContextKeys":"x"}}`):               "ForAllValues",
		condition(`{"StringNotEquals":{"kms:encryptioncontextkeys":"x"}}`):            "ForAllValues",
		condition(`{"StringEqualsIfExists":{"kms:CallerAccount":"x"}}`):               "StringEqualsIfExists",
		condition(`{"ForAnyValue:StringEquals":{"kms:CallerAccount":"x"}}`):           "ForAnyValue",
		condition(`{"stringequals":{"kms:CallerAccount":"x"}}`):                       "stringequals",
		condition(`{"Null":{"kms:CallerAccount":"maybe"}}`):                           "true",
		condition(`{"Bool":{"aws:SecureTransport":"1"}}`):                             "true",
		condition(`{"StringEquals":{"kms:CallerAccount":"${aws:PrincipalAccount}"}}`): "variables",
		strings.Repeat("[", 100) + strings.Repeat("]", 100):                           "deeper",
		policyOf("{" + good + `,"Sid":"` + strings.Repeat("x", 32<<10) + `"}`):        "at most 32768",
	} {
		if err := devkit.CheckPolicy(text); err == nil || !strings.Contains(err.Error(), says) || len(err.Error()) > 500 {
			t.Errorf("%.200s: %v", text, err)
		}
	}
}

// TestACostlyPatternEnds: a pattern of many stars takes no longer than its length times the text's.
func TestACostlyPatternEnds(t *testing.T) {
	pattern := strings.Repeat("a*", 2000) + "b"
	c := fmt.Sprintf(`{"StringLike":{"kms:EncryptionContext:x":%q}}`, pattern)
	if got := decides(t, policyOf(statement("Allow", c)), map[string][]string{"kms:encryptioncontext:x": {strings.Repeat("a", 8000)}}); got != "not allowed" {
		t.Error(got)
	}
}
