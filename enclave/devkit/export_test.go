package devkit

import (
	"crypto/rsa"
	"time"
)

// What tests of this package look at from outside.

// SetClock makes a KMS live at another time.
func (k *KMS) SetClock(now func() time.Time) { k.now = now }

// Busy takes every place of a KMS until release is called.
func (k *KMS) Busy() (release func()) {
	for range maxAtOnce {
		k.free <- struct{}{}
	}
	return func() {
		for range maxAtOnce {
			<-k.free
		}
	}
}

// CheckPolicy parses a policy.
func CheckPolicy(text string) error {
	_, err := parsePolicy(text)
	return err
}

// Decide asks a policy. The verdict is "allowed", "not allowed" or "denied".
func Decide(text, account, action, resource string, facts map[string][]string) (string, error) {
	p, err := parsePolicy(text)
	if err != nil {
		return "", err
	}
	return map[verdict]string{notAllowed: "not allowed", allowed: "allowed", explicitlyDenied: "denied"}[p.decide(&access{account: account, action: action, resource: resource, facts: facts})], nil
}

// SealTo encrypts as KMS does.
func SealTo(public *rsa.PublicKey, spki, plaintext []byte, constructed bool) ([]byte, error) {
	return sealTo(public, spki, plaintext, constructed)
}

// MaxBody bounds a request.
const MaxBody = maxBody

// Create makes a file where there is none.
func Create(path string, data []byte) error { return create(path, data) }

// LockFile is the file under which a home is changed.
const LockFile = lockFile
