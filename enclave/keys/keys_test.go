package keys_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/cloister-run/cloister/enclave/keys"
)

// TestAnErrorIsOneLine: whatever a KMS says of itself, what is shown of it is short, printable and
// in its place.
func TestAnErrorIsOneLine(t *testing.T) {
	for name, row := range map[string]struct{ code, id, detail, want string }{
		"all":             {"AccessDeniedException", "11-22", "not you", "the KMS refuses: AccessDeniedException: not you (request 11-22)"},
		"a code's escape": {"\x1b[31mDenied", "11-22", "not you", "the KMS refuses: not you (request 11-22)"},
		"a code of lines": {"a\nb", "", "", "the KMS refuses"},
		"a long code":     {strings.Repeat("a", 65), "", "", "the KMS refuses"},
		"an id's escape":  {"", "\x1b]0;x\a", "not you", "the KMS refuses: not you"},
		"a long id":       {"", strings.Repeat("1", 65), "", "the KMS refuses"},
		"lines":           {"", "", "one\ntwo\x1b[0m\u202e", "the KMS refuses: one?two?[0m?"},
	} {
		err := keys.NewError(keys.ErrRefused, row.code, row.id, row.detail)
		if err.Error() != row.want || !errors.Is(err, keys.ErrRefused) {
			t.Errorf("%s: %q", name, err)
		}
	}
	if long := keys.NewError(keys.ErrRefused, "", "", strings.Repeat("x", 10_000)).Error(); len(long) > 500 {
		t.Errorf("%d bytes", len(long))
	}
}
