package aws

import (
	"time"

	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/service/kms"
)

// Impatient makes an account that waits for no answer long, and not before it asks again.
func Impatient(a *Account) *Account {
	a.attempt = 250 * time.Millisecond
	a.tune = func(o *kms.Options) {
		o.Retryer = retry.NewStandard(func(s *retry.StandardOptions) { s.MaxBackoff = time.Millisecond })
	}
	return a
}
