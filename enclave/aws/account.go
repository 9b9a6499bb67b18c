package aws

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/arn"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/feature/ec2/imds"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"github.com/cloister-run/cloister/enclave/envelope"
	"github.com/cloister-run/cloister/enclave/keys"
)

// DevEndpoint is where the simulated KMS is unless the environment names another place.
const DevEndpoint = "http://127.0.0.1:4577"

// devRegion is the region of the partition cloister-dev where nothing names one.
const devRegion = "local"

// timeout bounds one call with everything that belongs to it: credentials, and asking again.
const timeout = 30 * time.Second

// Options say which account is meant.
type Options struct {
	// Partition is "aws", "aws-cn", "aws-us-gov" or "cloister-dev". Required.
	Partition string
	// Region is that of the configuration by default. A key's ARN names its own.
	Region string
}

// Account is what the AWS configuration of this process stands for, in one partition. It is
// safe for concurrent use and holds no connection open.
type Account struct {
	partition string
	config    aws.Config
	// endpoint is that of the simulated KMS; empty in AWS's own partitions.
	endpoint string
	// attempt bounds one request; tune, if not nil, changes the SDK's options. Both are for tests.
	attempt time.Duration
	tune    func(*kms.Options)
}

var _ envelope.DataKeys = (*Account)(nil)

// Credentials are those of one job. They print as nothing; see [keys.Credentials].
type Credentials = keys.Credentials

// Load takes what the environment and the AWS configuration of the user say: profiles, SSO, the
// role of an instance. It asks for nothing yet. In the partition cloister-dev no metadata
// service is ever asked, and the KMS is that of [DevKMS].
func Load(ctx context.Context, o Options) (*Account, error) {
	a := &Account{partition: o.Partition, attempt: attemptTimeout}
	load := []func(*config.LoadOptions) error{config.WithRegion(o.Region)} // empty is none
	switch o.Partition {
	case "aws", "aws-cn", "aws-us-gov":
	case keys.PartitionDev:
		endpoint, err := DevKMS()
		if err != nil {
			return nil, err
		}
		a.endpoint = endpoint
		load = append(load, config.WithEC2IMDSClientEnableState(imds.ClientDisabled))
	default:
		return nil, fail(ErrRequest, "the partition %.40q is not known", o.Partition)
	}
	var err error
	if a.config, err = config.LoadDefaultConfig(ctx, load...); err != nil {
		return nil, fail(ErrConfiguration, "%v", err)
	}
	if a.config.Region == "" && a.endpoint != "" {
		a.config.Region = devRegion
	}
	return a, nil
}

// Region is that of the configuration; empty where it names none.
func (a *Account) Region() string { return a.config.Region }

// DevKMS is the URL of the simulated KMS: AWS_ENDPOINT_URL_KMS, else AWS_ENDPOINT_URL, else
// [DevEndpoint].
func DevKMS() (string, error) {
	for _, name := range []string{"AWS_ENDPOINT_URL_KMS", "AWS_ENDPOINT_URL"} {
		value := os.Getenv(name)
		if value == "" {
			continue
		}
		u, err := url.Parse(strings.TrimSuffix(value, "/"))
		if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Hostname() == "" || u.Port() == "" ||
			*u != (url.URL{Scheme: u.Scheme, Host: u.Host}) {
			return "", fail(ErrConfiguration, "%s: write it like %s: http or https, a host, a port and nothing else", name, DevEndpoint)
		}
		return u.String(), nil
	}
	return DevEndpoint, nil
}

// Credentials gives the credentials of now, for one job.
func (a *Account) Credentials(ctx context.Context) (Credentials, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return a.credentials(ctx)
}

func (a *Account) credentials(ctx context.Context) (Credentials, error) {
	if a.config.Credentials == nil {
		return Credentials{}, fail(ErrConfiguration, "it has no credentials")
	}
	c, err := a.config.Credentials.Retrieve(ctx)
	if err != nil && ctx.Err() != nil {
		return Credentials{}, ended(ctx)
	}
	if err != nil || !c.HasKeys() {
		return Credentials{}, fail(ErrConfiguration, "it has no credentials: %v", err)
	}
	return Credentials{AccessKeyID: c.AccessKeyID, SecretAccessKey: c.SecretAccessKey, SessionToken: c.SessionToken}, nil
}

// Generate implements [envelope.DataKeys] with the KMS of the key's partition and region.
func (a *Account) Generate(ctx context.Context, keyARN string, encryptionContext map[string]string) (plaintext, wrapped []byte, err error) {
	key, err := a.parseKey(keyARN)
	if err != nil {
		return nil, nil, err
	}
	if len(encryptionContext) == 0 {
		return nil, nil, fail(ErrRequest, "there is no encryption context")
	}
	var out *kms.GenerateDataKeyOutput
	err = a.call(ctx, key.Region, func(ctx context.Context, c *kms.Client) (err error) {
		out, err = c.GenerateDataKey(ctx, &kms.GenerateDataKeyInput{
			KeyId: aws.String(keyARN), KeySpec: types.DataKeySpecAes256, EncryptionContext: encryptionContext,
		})
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	if err := check(out, keyARN); err != nil {
		clear(out.Plaintext)
		return nil, nil, err
	}
	return out.Plaintext, out.CiphertextBlob, nil
}

// check holds an answer against what was asked.
func check(out *kms.GenerateDataKeyOutput, keyARN string) error {
	detail := ""
	switch n := len(out.CiphertextBlob); {
	case aws.ToString(out.KeyId) != keyARN:
		detail = fmt.Sprintf("it is for the key %.128q", aws.ToString(out.KeyId))
	case len(out.Plaintext) != envelope.KeySize:
		detail = fmt.Sprintf("the data key is not %d bytes long", envelope.KeySize)
	case n == 0 || n > envelope.MaxWrappedKey:
		detail = fmt.Sprintf("the wrapped data key has %d bytes, not 1 to %d", n, envelope.MaxWrappedKey)
	default:
		return nil
	}
	return keys.NewError(ErrAnswer, "", requestID(out.ResultMetadata), detail)
}

// CreateKey makes a symmetric key of one region under a key policy and gives its full ARN.
func (a *Account) CreateKey(ctx context.Context, policy []byte) (string, error) {
	if a.config.Region == "" {
		return "", fail(ErrConfiguration, "it names no region; set AWS_REGION")
	}
	var out *kms.CreateKeyOutput
	err := a.call(ctx, a.config.Region, func(ctx context.Context, c *kms.Client) (err error) {
		out, err = c.CreateKey(ctx, &kms.CreateKeyInput{
			Policy: aws.String(string(policy)), KeySpec: types.KeySpecSymmetricDefault, KeyUsage: types.KeyUsageTypeEncryptDecrypt,
			Description: aws.String("seals assets for Cloister"),
		})
		return err
	})
	if err != nil {
		return "", err
	}
	made := ""
	if out.KeyMetadata != nil {
		made = aws.ToString(out.KeyMetadata.Arn)
	}
	if key, err := a.parseKey(made); err != nil || key.Region != a.config.Region {
		return "", keys.NewError(ErrAnswer, "", requestID(out.ResultMetadata), fmt.Sprintf("the new key is called %.128q", made))
	}
	return made, nil
}

// parseKey takes the full ARN of a key of this partition, and no alias: whoever may move it
// would move the owner (KMS developer guide, "Key identifiers").
func (a *Account) parseKey(keyARN string) (arn.ARN, error) {
	key, err := arn.Parse(keyARN)
	id, isKey := strings.CutPrefix(key.Resource, "key/")
	switch {
	case err != nil || !isKey || !keyIDRE.MatchString(id) || key.Service != "kms" || !accountRE.MatchString(key.AccountID) ||
		!regionRE.MatchString(key.Region):
		return arn.ARN{}, fail(ErrRequest, "the key %.128q is no full ARN of a KMS key", keyARN)
	case key.Partition != a.partition:
		return arn.ARN{}, fail(ErrRequest, "the key is of the partition %.40q; this account is of %q", key.Partition, a.partition)
	}
	return key, nil
}
