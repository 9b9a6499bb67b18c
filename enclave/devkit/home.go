package devkit

import (
	"crypto/rand"
	"encoding/base32"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"time"

	"github.com/cloister-run/cloister/enclave/attest/devca"
)

// The names in a home, beside devca.FileName.
const (
	accountsDir = "accounts"
	keysDir     = "keys"
	lockFile    = "lock"
)

// Home is a folder with what the simulation keeps: the development root, accounts and keys. It is
// safe for concurrent use, by several processes too.
type Home struct {
	dir string
	ca  *devca.CA
}

// DefaultHome is $XDG_STATE_HOME/cloister/dev, or ~/.local/state/cloister/dev (XDG base directory
// specification, which has relative paths ignored).
func DefaultHome() (string, error) {
	if state := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(state) {
		return filepath.Join(state, "cloister", "dev"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("devkit: no folder for the simulation's state: %w", err)
	}
	return filepath.Join(home, ".local", "state", "cloister", "dev"), nil
}

// OpenHome opens a home, and makes what is missing of it: folders of mode 0700, files of mode 0600. A
// folder that others may look into is refused.
func OpenHome(dir string) (*Home, error) {
	for _, folder := range []string{dir, filepath.Join(dir, accountsDir), filepath.Join(dir, keysDir)} {
		if err := os.MkdirAll(folder, 0o700); err != nil {
			return nil, fmt.Errorf("devkit: %w", err)
		}
		info, err := os.Stat(folder)
		if err != nil {
			return nil, fmt.Errorf("devkit: %w", err)
		}
		if !private(info) {
			return nil, fmt.Errorf("devkit: %s: others may look into this folder; chmod 700 it, or name another", folder)
		}
	}
	ca, err := devca.Open(dir, time.Now())
	if err != nil {
		return nil, fmt.Errorf("devkit: %w", err)
	}
	return &Home{dir: dir, ca: ca}, nil
}

// CA is the root of the simulated enclaves of this home.
func (h *Home) CA() *devca.CA { return h.ca }

// Dir is the folder.
func (h *Home) Dir() string { return h.dir }

// Account is one account of the simulated AWS, which has one principal: its root.
type Account struct {
	// ID has 12 digits.
	ID string
	// ARN is arn:cloister-dev:iam::ID:root.
	ARN string
	// AccessKeyID and SecretAccessKey sign requests.
	AccessKeyID, SecretAccessKey string
}

// Format writes the ARN alone, whatever the verb: a secret is not for logs.
func (a Account) Format(s fmt.State, _ rune) { _, _ = s.Write([]byte(a.ARN)) }

// storedAccount is the file of an account.
type storedAccount struct {
	ID              string `json:"account"`
	AccessKeyID     string `json:"access_key_id"`
	SecretAccessKey string `json:"secret_access_key"`
}

const accountDigits = 12

var accountRE = regexp.MustCompile(`^[0-9]{12}$`)

func rootARN(account string) string { return "arn:" + partition + ":iam::" + account + ":root" }

// errNoAccount: nobody asked for credentials of that account here.
var errNoAccount = errors.New("there is no such account")

// Account gives an account of 12 digits, which is made at first use. All who ask get the same.
func (h *Home) Account(id string) (Account, error) {
	if !accountRE.MatchString(id) {
		return Account{}, fmt.Errorf("devkit: %.20q is no account; one has %d digits, such as 111122223333", id, accountDigits)
	}
	account, err := h.loadAccount(id)
	if errors.Is(err, errNoAccount) {
		if err = h.makeAccount(id); err == nil {
			account, err = h.loadAccount(id)
		}
	}
	if err != nil {
		return Account{}, fmt.Errorf("devkit: account %s: %w", id, err)
	}
	return account, nil
}

func (h *Home) accountFile(id string) string {
	return filepath.Join(h.dir, accountsDir, id+".json")
}

func (h *Home) loadAccount(id string) (Account, error) {
	data, err := readPrivate(h.accountFile(id))
	if errors.Is(err, fs.ErrNotExist) {
		return Account{}, errNoAccount
	}
	if err != nil {
		return Account{}, err
	}
	var stored storedAccount
	if json.Unmarshal(data, &stored) != nil || stored.ID != id || stored.AccessKeyID == "" || stored.SecretAccessKey == "" {
		// The cause might quote the secret.
		return Account{}, fmt.Errorf("%s: not as it was made; remove it to get new credentials", h.accountFile(id))
	}
	return Account{ID: id, ARN: rootARN(id), AccessKeyID: stored.AccessKeyID, SecretAccessKey: stored.SecretAccessKey}, nil
}

func (h *Home) makeAccount(id string) error {
	var secret [30]byte
	_, _ = rand.Read(secret[:]) // never fails
	stored := storedAccount{ID: id, AccessKeyID: newAccessKeyID(id), SecretAccessKey: base64.StdEncoding.EncodeToString(secret[:])}
	data, err := json.Marshal(stored)
	if err != nil {
		return err
	}
	if err := create(h.accountFile(id), data); !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil // another was faster
}

// An access key id begins as those of users do (IAM user guide, "Unique identifiers"). The 10 bytes
// in base32 after that are the number of the account in 5 bytes, then 5 random ones.
const (
	accessKeyPrefix = "AKIA"
	accountBytes    = 5
)

func newAccessKeyID(account string) string {
	number, _ := strconv.ParseUint(account, 10, 64) // 12 digits, less than 2^40
	var b [10]byte
	for i := range accountBytes {
		b[i] = byte(number >> (8 * (accountBytes - 1 - i)))
	}
	_, _ = rand.Read(b[accountBytes:]) // never fails
	return accessKeyPrefix + base32.StdEncoding.EncodeToString(b[:])
}

// byAccessKey finds whose access key it is; errNoAccount if nobody's.
func (h *Home) byAccessKey(accessKeyID string) (Account, error) {
	text, ok := cutLength(accessKeyID, accessKeyPrefix, 16)
	if !ok {
		return Account{}, errNoAccount
	}
	b, err := base32.StdEncoding.DecodeString(text)
	if err != nil {
		return Account{}, errNoAccount
	}
	var number uint64
	for _, digit := range b[:accountBytes] {
		number = number<<8 | uint64(digit)
	}
	id := fmt.Sprintf("%0*d", accountDigits, number)
	if !accountRE.MatchString(id) {
		return Account{}, errNoAccount
	}
	account, err := h.loadAccount(id)
	if err != nil {
		return Account{}, err
	}
	if account.AccessKeyID != accessKeyID {
		return Account{}, errNoAccount
	}
	return account, nil
}

// cutLength cuts a prefix off if exactly n bytes remain.
func cutLength(s, prefix string, n int) (string, bool) {
	if len(s) != len(prefix)+n || s[:len(prefix)] != prefix {
		return "", false
	}
	return s[len(prefix):], true
}
