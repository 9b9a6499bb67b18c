package rootfs

import (
	"context"
	"io"
)

// TarUpTo is [Tar] of a plain stream, with bounds of its own.
func TarUpTo(ctx context.Context, from io.Reader, entries int, bytes int64) (*Tree, error) {
	return spooled(func(t *Tree, s *spool) error {
		t.most = bounds{entries, bytes}
		return (&layer{ctx: ctx, tree: t, spool: s}).read(from)
	})
}
