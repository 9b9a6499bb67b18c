package rego

import (
	"crypto/md5"  //nolint:gosec // a policy may compare with what others hashed
	"crypto/sha1" //nolint:gosec // as above
	"crypto/sha256"
	"crypto/sha512"
	"strings"
)

// builtins are the built-in functions that OPA leaves to the host and this host offers: those that are
// functions of their arguments and of the request, and whose work is bounded by the size of what they get.
// Not among them is what reaches out (http.send, net.lookup_ip_addr, opa.runtime, trace), and what takes a
// library of its own (io.jwt.*, crypto.x509.*, graphql.*, json.match_schema, yaml.*, rego.parse_module).
var builtins = map[string]builtin{
	"base64url.encode_no_pad":   text1(base64NoPad),
	"crypto.hmac.equal":         text2(hmacEqual),
	"crypto.hmac.md5":           text2(mac(md5.New)),
	"crypto.hmac.sha1":          text2(mac(sha1.New)),
	"crypto.hmac.sha256":        text2(mac(sha256.New)),
	"crypto.hmac.sha512":        text2(mac(sha512.New)),
	"crypto.md5":                text1(digest(md5.New)),
	"crypto.sha1":               text1(digest(sha1.New)),
	"crypto.sha256":             text1(digest(sha256.New)),
	"glob.quote_meta":           text1(globQuote),
	"hex.decode":                text1(hexDecode),
	"hex.encode":                text1(hexEncode),
	"indexof_n":                 indexOfN,
	"json.marshal_with_options": marshalWithOptions,
	"json.patch":                jsonPatch,
	"net.cidr_is_valid":         cidrIsValid,
	"numbers.range_step":        rangeStep,
	"object.subset":             objectSubset,
	"rand.intn":                 randIntn,
	"regex.find_n":              regexFindN,
	"regex.replace":             regexReplace,
	"regex.split":               regexSplit,
	"regex.template_match":      regexTemplateMatch,
	"semver.compare":            text2(semverCompare),
	"semver.is_valid":           semverIsValid,
	"sprintf":                   sprintf,
	"strings.any_prefix_match":  anyMatch(strings.HasPrefix),
	"strings.any_suffix_match":  anyMatch(strings.HasSuffix),
	"strings.count":             text2(stringsCount),
	"strings.split_n":           splitN,
	"time.add_date":             timeAddDate,
	"time.clock":                timeClock,
	"time.date":                 timeDate,
	"time.diff":                 timeDiff,
	"time.format":               timeFormat,
	"time.now_ns":               timeNow,
	"time.parse_duration_ns":    text1(timeParseDuration),
	"time.parse_ns":             text2(timeParse),
	"time.parse_rfc3339_ns":     text1(timeParseRFC3339),
	"time.weekday":              timeWeekday,
	"urlquery.decode":           text1(queryDecode),
	"urlquery.decode_object":    text1(queryDecodeObject),
	"urlquery.encode":           text1(queryEncode),
	"urlquery.encode_object":    queryEncodeObject,
	"uuid.rfc4122":              text1(uuidNew),
}
