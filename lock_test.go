package pelton_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/peltonq/pelton"
)

func TestValidateLock(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"a", "invoice/42", "Ärger * > .", "...", "a b", strings.Repeat("x", 256)} {
		if err := pelton.ValidateLock(name); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
	for _, name := range []string{"", ".", "..", "a\nb", "a\x00", "\xff", strings.Repeat("x", 257)} {
		if err := pelton.ValidateLock(name); !errors.Is(err, pelton.ErrInvalid) {
			t.Errorf("%q: %v, want ErrInvalid", name, err)
		}
	}
}
