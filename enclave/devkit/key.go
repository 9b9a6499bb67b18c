package devkit

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// key is a KMS key, and the shape of its file.
type key struct {
	// ID is a UUID; ARN is arn:cloister-dev:kms:REGION:ACCOUNT:key/ID.
	ID      string `json:"id"`
	Region  string `json:"region"`
	Account string `json:"account"`
	// Created is UTC.
	Created     time.Time `json:"created"`
	Description string    `json:"description,omitempty"`
	Disabled    bool      `json:"disabled,omitempty"`
	// Policy is the document as it was given.
	Policy string `json:"policy"`
	// Material is the key of AES-256 itself.
	Material []byte `json:"material"`
}

const materialSize = 32

var (
	uuidRE   = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`)
	regionRE = regexp.MustCompile(`^[a-z][a-z0-9-]{0,31}$`)
)

func keyARN(region, account, id string) string {
	return "arn:" + partition + ":kms:" + region + ":" + account + ":key/" + id
}

func (k *key) arn() string { return keyARN(k.Region, k.Account, k.ID) }

// errNoKey: the home has no such key.
var errNoKey = errors.New("there is no such key")

func (h *Home) keyFile(id string) string { return filepath.Join(h.dir, keysDir, id+".json") }

// newKey makes a key and keeps it.
func (h *Home) newKey(region, account, description, policy string, at time.Time) (*key, error) {
	k := &key{ID: newUUID(), Region: region, Account: account, Created: at.UTC(), Description: description, Policy: policy,
		Material: make([]byte, materialSize)}
	_, _ = rand.Read(k.Material) // never fails
	data, err := json.Marshal(k)
	if err != nil {
		return nil, err
	}
	return k, create(h.keyFile(k.ID), data)
}

// loadKey finds a key by its UUID; errNoKey if there is none.
func (h *Home) loadKey(id string) (*key, error) {
	if !uuidRE.MatchString(id) {
		return nil, errNoKey
	}
	data, err := readPrivate(h.keyFile(id))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errNoKey
	}
	if err != nil {
		return nil, err
	}
	k := new(key)
	if json.Unmarshal(data, k) != nil || k.ID != id || len(k.Material) != materialSize {
		return nil, fmt.Errorf("%s: not as it was made", h.keyFile(id)) // the cause might quote it
	}
	return k, nil
}

// editKey changes a key that is there.
func (h *Home) editKey(id string, edit func(*key)) error {
	return locked(filepath.Join(h.dir, lockFile), func() error {
		k, err := h.loadKey(id)
		if err != nil {
			return err
		}
		edit(k)
		data, err := json.Marshal(k)
		if err != nil {
			return err
		}
		return replace(h.keyFile(id), data)
	})
}

// listKeys are the ids of an account's keys in a region, in their order.
func (h *Home) listKeys(region, account string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(h.dir, keysDir)) // sorted
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, entry := range entries {
		id, ok := strings.CutSuffix(entry.Name(), ".json")
		if !ok || !uuidRE.MatchString(id) {
			continue
		}
		k, err := h.loadKey(id)
		if err != nil {
			return nil, err
		}
		if k.Region == region && k.Account == account {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

// A ciphertext blob is its version, the key's UUID, a nonce and what AES-256-GCM gives. Version and
// encryption context are authenticated; another UUID is another key.
const (
	blobVersion = 1
	blobKeyAt   = 1
	blobNonceAt = blobKeyAt + 16
	nonceSize   = 12
	blobDataAt  = blobNonceAt + nonceSize
	tagSize     = 16
)

// errBlob: no ciphertext of this key under this encryption context.
var errBlob = errors.New("the ciphertext does not open")

// seal encrypts a plaintext under an encryption context.
func (k *key) seal(plaintext []byte, encryptionContext map[string]string) ([]byte, error) {
	aead, err := k.aead()
	if err != nil {
		return nil, err
	}
	id, err := parseUUID(k.ID)
	if err != nil {
		return nil, err
	}
	var nonce [nonceSize]byte
	_, _ = rand.Read(nonce[:]) // never fails
	blob := append([]byte{blobVersion}, id[:]...)
	blob = append(blob, nonce[:]...)
	return aead.Seal(blob, nonce[:], plaintext, bound(encryptionContext)), nil
}

// blobKey is the UUID of the key that a blob names.
func blobKey(blob []byte) (string, error) {
	if len(blob) < blobDataAt+tagSize || blob[0] != blobVersion {
		return "", errBlob
	}
	return formatUUID([16]byte(blob[blobKeyAt:blobNonceAt])), nil
}

// open decrypts a blob that names this key; errBlob if it does not open.
func (k *key) open(blob []byte, encryptionContext map[string]string) ([]byte, error) {
	aead, err := k.aead()
	if err != nil {
		return nil, err
	}
	if id, err := blobKey(blob); err != nil || id != k.ID {
		return nil, errBlob
	}
	plaintext, err := aead.Open(nil, blob[blobNonceAt:blobDataAt], blob[blobDataAt:], bound(encryptionContext))
	if err != nil {
		return nil, errBlob
	}
	return plaintext, nil
}

func (k *key) aead() (cipher.AEAD, error) {
	block, err := aes.NewCipher(k.Material)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// bound is what a blob is authenticated with: every part preceded by its length as 4 bytes,
// big-endian, the encryption context sorted by its keys.
func bound(encryptionContext map[string]string) []byte {
	parts := []string{"cloister-dev-kms", string(rune(blobVersion))}
	for _, name := range slices.Sorted(maps.Keys(encryptionContext)) {
		parts = append(parts, name, encryptionContext[name])
	}
	var out []byte
	for _, part := range parts {
		out = binary.BigEndian.AppendUint32(out, uint32(len(part)))
		out = append(out, part...)
	}
	return out
}

func parseUUID(id string) ([16]byte, error) {
	b, err := hex.DecodeString(strings.ReplaceAll(id, "-", ""))
	if err != nil || len(b) != 16 {
		return [16]byte{}, fmt.Errorf("%.40q is no UUID", id)
	}
	return [16]byte(b), nil
}
