package keys

import (
	"regexp"
	"strings"
)

// Partitions of AWS, and the one of the simulated KMS.
const (
	partitionAWS   = "aws"
	partitionChina = "aws-cn"
	partitionGov   = "aws-us-gov"
	// PartitionDev is where the simulated KMS is, the only one that is asked without TLS and at
	// an endpoint that is named.
	PartitionDev = "cloister-dev"
)

// suffix is what the names of a partition's KMS end in, after the region (AWS general
// reference, "AWS Key Management Service endpoints").
func suffix(partition string) (string, bool) {
	switch partition {
	case partitionAWS, partitionGov:
		return ".amazonaws.com", true
	case partitionChina:
		return ".amazonaws.com.cn", true
	}
	return "", false
}

// keyARN is the full ARN of a KMS key (KMS developer guide, "Key identifiers").
type keyARN struct{ partition, region, account string }

// arnPattern is the same as the bundle file's. Nothing of a region can end the name of a host.
const arnPattern = `^arn:(aws|aws-cn|aws-us-gov|cloister-dev):kms:([a-z][a-z0-9-]{0,31}):([0-9]{12}):key/` +
	`(?:mrk-[0-9a-f]{32}|[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})$`

const maxARN = 128

var arnRE = regexp.MustCompile(arnPattern)

// parseARN takes no alias: whoever may move it would move the owner.
func parseARN(s string) (keyARN, error) {
	if len(s) > maxARN {
		return keyARN{}, fail(ErrRequest, "the ARN of the key has %d bytes, at most %d", len(s), maxARN)
	}
	if strings.Contains(s, "alias/") {
		return keyARN{}, fail(ErrRequest, "the key %q is an alias", s)
	}
	m := arnRE.FindStringSubmatch(s)
	if m == nil {
		return keyARN{}, fail(ErrRequest, "the key %q is no full ARN of a KMS key", s)
	}
	return keyARN{partition: m[1], region: m[2], account: m[3]}, nil
}
