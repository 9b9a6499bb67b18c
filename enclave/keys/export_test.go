package keys

// What tests of this package look at from outside.
var (
	OpenEnvelope = openEnvelope
	ErrDecrypt   = errDecrypt
	ErrRecipient = errRecipient
)

// The parts of a parsed envelope.
func ParseEnvelope(ber []byte) (recipient, encryptedKey, iv, ciphertext []byte, err error) {
	e, err := parseEnvelope(ber)
	if err != nil {
		return nil, nil, nil, nil, err
	}
	return e.recipient, e.encryptedKey, e.iv, e.ciphertext, nil
}

// HasProxy tells whether requests may go through a proxy: package net/http reads the environment
// for one once in a process, so a test that sets it comes too late.
func HasProxy(c Config) bool { return newTransport(&c).http.Proxy != nil }

// Bounds.
const (
	MaxEnvelope = maxEnvelope
	MaxElements = maxElements
	MaxAnswer   = maxAnswer
)

// Spare is how many single-use keys lie ready.
func Spare(k *KMS) int { return len(k.spares.ready) }
