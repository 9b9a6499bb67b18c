package environment

import "context"

// Unpack unpacks one wheel into a new folder, within bounds.
func Unpack(ctx context.Context, dir, wheel, digest string, bytes int64, files int) error {
	u, err := newUnpacker(dir)
	if err != nil {
		return err
	}
	defer u.close()
	u.maxBytes, u.maxFiles = bytes, files
	_, _, err = u.wheel(ctx, wheel, map[string]bool{digest: true})
	return err
}

// Explain is what is made of what pip says.
func Explain(said string) error { return explain(said) }
