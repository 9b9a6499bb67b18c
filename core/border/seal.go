package border

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"

	"filippo.io/age"

	"github.com/cloister-run/cloister/core/tree"
	"github.com/cloister-run/cloister/jobspec"
)

// seal encrypts every artifact that has recipients, once everybody allowed what it holds: what leaves
// is an age file (age-encryption.org/v1), of a tar where the artifact is a folder. Its digest is the
// file's, for a digest of the content would tell of it.
func (c *Clearance) seal(ctx context.Context, leaving Leaving) error {
	for i := range c.frozen {
		f := &c.frozen[i]
		if f.Recipients == nil {
			continue
		}
		sealed, err := f.encrypt(ctx, leaving.Sealed)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if errors.Is(err, syscall.ENOSPC) { // everybody allowed it, so there is nothing to keep from the operator
			return &OutputError{Channel: f.Channel, Err: fmt.Errorf("sealing: %w", err)}
		}
		if err != nil {
			return fmt.Errorf("border: sealing %s: %w", f.Channel, err)
		}
		_ = f.source.Close() // it was read only
		*f = sealed
	}
	return nil
}

// encrypt writes an artifact's encryption into a folder and freezes it there.
func (f *frozen) encrypt(ctx context.Context, into *os.Root) (_ frozen, err error) {
	recipients, err := jobspec.ParseRecipients(f.Recipients)
	if err != nil {
		return frozen{}, err
	}
	name := string(f.Channel)
	file, err := into.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return frozen{}, err
	}
	w, err := age.Encrypt(file, recipients...)
	if err == nil {
		err = f.write(ctx, w)
	}
	if err == nil {
		err = w.Close()
	}
	if closed := file.Close(); err == nil {
		err = closed
	}
	if err != nil {
		return frozen{}, err
	}
	info, err := into.Lstat(name)
	if err != nil {
		return frozen{}, err
	}
	sealed, err := freeze(ctx, Candidate{Channel: f.Channel, Dir: into, Name: name}, tree.Limits{Bytes: info.Size(), Entries: 1})
	sealed.Recipients = f.Recipients
	return sealed, err
}
