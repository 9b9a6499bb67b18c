package keys

import (
	"context"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	smithyendpoints "github.com/aws/smithy-go/endpoints"
	"github.com/aws/smithy-go/middleware"

	"github.com/cloister-run/cloister/enclave/attest"
)

// keyBits is the size of the key that KMS answers to: the smallest that KMS takes (KMS API,
// "RecipientInfo"), since one is made for every request.
const keyBits = 2048

// maxWrapped is the most that a CiphertextBlob has (KMS API, "Decrypt").
const maxWrapped = 6144

// KMS is the KMS that an enclave asks, as its trust profile fixes it. It is safe for concurrent use
// and holds no connection open.
type KMS struct {
	config Config
	spares *spares
	closed sync.Once
}

// New checks the configuration and makes no connection. The caller closes the KMS.
func New(c Config) (*KMS, error) {
	if err := c.check(); err != nil {
		return nil, fmt.Errorf("keys: %w", err)
	}
	return &KMS{config: c.withDefaults(), spares: newSpares()}, nil
}

// Close ends what the KMS does in the background: no [Client] of it can ask any more. It may be called
// again, and always gives nil.
func (k *KMS) Close() error {
	k.closed.Do(k.spares.close)
	return nil
}

// Login checks the credentials of one job and asks for nothing.
func (k *KMS) Login(c Credentials) (*Client, error) {
	if err := c.check(); err != nil {
		return nil, fmt.Errorf("keys: %w", err)
	}
	return &Client{config: k.config, spares: k.spares, credentials: c.provider()}, nil
}

// Client asks a KMS for data keys with the credentials of one job. It is safe for concurrent
// use, holds nothing open and keeps nothing of a request.
type Client struct {
	config Config
	spares *spares
	// credentials are inside a function, where no verb of package fmt looks.
	credentials aws.CredentialsProvider
}

// Decrypt has the KMS unwrap a data key of [Size] bytes that it wrapped under the key keyARN and
// that encryption context, which the caller has computed from the bundle. It returns the data
// key, which the caller owns and zeroes, and the KMS's id of the request. Errors are an
// [*Error], unless the attester fails.
//
// Each attempt has an RSA key and an attestation document of its own.
func (c *Client) Decrypt(ctx context.Context, keyARN string, wrapped []byte, encryptionContext map[string]string) (dataKey []byte, requestID string, err error) {
	arn, err := parseARN(keyARN)
	switch {
	case err != nil:
		return nil, "", err
	case arn.partition != c.config.Partition:
		return nil, "", fail(ErrRequest, "the key is of the partition %s; this enclave asks in %s", arn.partition, c.config.Partition)
	case len(wrapped) == 0 || len(wrapped) > maxWrapped:
		return nil, "", fail(ErrRequest, "the wrapped key has %d bytes, not 1 to %d", len(wrapped), maxWrapped)
	case len(encryptionContext) == 0:
		return nil, "", fail(ErrRequest, "there is no encryption context")
	}
	ctx, cancel := context.WithTimeout(ctx, c.config.Timeout)
	defer cancel()
	pause := c.config.Pause
	for attempt := 1; ; attempt++ {
		dataKey, requestID, err = c.attempt(ctx, keyARN, arn.region, wrapped, encryptionContext)
		if !errors.Is(err, ErrUnavailable) || attempt == c.config.Attempts || !wait(ctx, pause) {
			return dataKey, requestID, err
		}
		pause *= 2
	}
}

// wait reports whether the time passed before ctx ended.
func wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// attempt asks once. The private key is good for this call alone.
func (c *Client) attempt(ctx context.Context, keyARN, region string, wrapped []byte, encryptionContext map[string]string) ([]byte, string, error) {
	ctx, cancel := context.WithTimeout(ctx, c.config.Attempt)
	defer cancel()
	key, err := c.spares.take(ctx)
	if err != nil {
		return nil, "", fmt.Errorf("keys: single-use key: %w", err)
	}
	spki, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return nil, "", fmt.Errorf("keys: single-use key: %w", err)
	}
	document, err := attest.ForKMS(ctx, c.config.Attester, spki)
	if err != nil {
		return nil, "", fmt.Errorf("keys: %w", err)
	}
	carrier := newTransport(&c.config)
	answer, err := c.kms(region, carrier).Decrypt(ctx, &kms.DecryptInput{
		KeyId:             aws.String(keyARN),
		CiphertextBlob:    wrapped,
		EncryptionContext: encryptionContext,
		// A key that anybody can encrypt under has no owner.
		EncryptionAlgorithm: types.EncryptionAlgorithmSpecSymmetricDefault,
		Recipient: &types.RecipientInfo{
			AttestationDocument:    document,
			KeyEncryptionAlgorithm: types.KeyEncryptionMechanismRsaesOaepSha256,
		},
	})
	if err != nil {
		return nil, "", classify(err, carrier)
	}
	return take(answer, keyARN, key)
}

// take holds an answer against what was asked, and opens it.
func take(answer *kms.DecryptOutput, keyARN string, key *rsa.PrivateKey) ([]byte, string, error) {
	id, _ := awsmiddleware.GetRequestIDMetadata(answer.ResultMetadata)
	wrong := func(format string, args ...any) ([]byte, string, error) {
		e := fail(ErrAnswer, format, args...)
		e.RequestID = word(id)
		return nil, "", e
	}
	switch {
	case word(id) == "":
		return wrong("it has no request id")
	case len(answer.Plaintext) != 0:
		clear(answer.Plaintext)
		return wrong("it has the data key in plain")
	case aws.ToString(answer.KeyId) != keyARN:
		return wrong("it is for the key %.*q", maxARN, aws.ToString(answer.KeyId))
	case answer.EncryptionAlgorithm != "" && answer.EncryptionAlgorithm != types.EncryptionAlgorithmSpecSymmetricDefault:
		return wrong("it is for the algorithm %.40q", answer.EncryptionAlgorithm)
	case len(answer.CiphertextForRecipient) == 0:
		return wrong("nothing in it is encrypted to this enclave")
	}
	dataKey, err := openEnvelope(answer.CiphertextForRecipient, key)
	if err != nil {
		return wrong("%v", err)
	}
	if len(dataKey) != Size {
		clear(dataKey)
		return wrong("the data key is not %d bytes long", Size)
	}
	return dataKey, id, nil
}

// kms makes a client of the SDK, field by field: what is not named here is the SDK's constant,
// never something that it found. LoadDefaultConfig is not used anywhere.
func (c *Client) kms(region string, carrier *transport) *kms.Client {
	return kms.New(kms.Options{
		Region:                     region,
		EndpointResolverV2:         endpoint(c.config.endpoint(region)),
		Credentials:                c.credentials,
		HTTPClient:                 carrier,
		Retryer:                    aws.NopRetryer{},
		DefaultsMode:               aws.DefaultsModeStandard,
		ClientLogMode:              0,
		DisableClockSkewCorrection: true,
		APIOptions:                 []func(*middleware.Stack) error{unmeasured},
	})
}

// unmeasured removes the two steps of the SDK that read the environment: AWS_EXECUTION_ENV for
// the user agent, _X_AMZN_TRACE_ID for a header.
func unmeasured(stack *middleware.Stack) error {
	for _, id := range []string{"UserAgent", "RecursionDetection"} {
		if _, err := stack.Build.Remove(id); err != nil {
			return err
		}
	}
	return nil
}

// provider gives the credentials and nothing else.
func (c Credentials) provider() aws.CredentialsProvider {
	return aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
		return aws.Credentials{AccessKeyID: c.AccessKeyID, SecretAccessKey: c.SecretAccessKey, SessionToken: c.SessionToken}, nil
	})
}

// endpoint is the one URL that is asked, whatever the SDK knows of regions and partitions.
type endpoint string

var _ kms.EndpointResolverV2 = endpoint("")

// ResolveEndpoint implements [kms.EndpointResolverV2].
func (e endpoint) ResolveEndpoint(context.Context, kms.EndpointParameters) (smithyendpoints.Endpoint, error) {
	u, err := url.Parse(string(e))
	if err != nil {
		return smithyendpoints.Endpoint{}, err
	}
	return smithyendpoints.Endpoint{URI: *u}, nil
}
