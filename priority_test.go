package pelton_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/peltonq/pelton"
)

func TestPriorities(t *testing.T) {
	t.Parallel()
	all := pelton.Priorities()
	if diff := cmp.Diff([]pelton.Priority{"critical", "high", "normal", "low"}, all); diff != "" {
		t.Error(diff)
	}
	for rank, p := range all {
		if p.Rank() != rank {
			t.Errorf("%s.Rank() = %d, want %d", p, p.Rank(), rank)
		}
		if got, err := pelton.ParsePriority(string(p)); err != nil || got != p {
			t.Errorf("ParsePriority(%q) = %s, %v", p, got, err)
		}
	}
	if got, err := pelton.ParsePriority(""); err != nil || got != pelton.Normal {
		t.Errorf(`ParsePriority("") = %s, %v`, got, err)
	}
	if got := pelton.Priority("").Rank(); got != pelton.Normal.Rank() {
		t.Errorf("the zero priority has rank %d", got)
	}
	for _, in := range []string{"High", "urgent", " low", "low ", "0", "*", strings.Repeat("x", 1<<12)} {
		got, err := pelton.ParsePriority(in)
		if !errors.Is(err, pelton.ErrInvalid) || got != "" || len(err.Error()) > 300 {
			t.Errorf("ParsePriority(%.20q) = %q, %v", in, got, err)
		}
		if pelton.Priority(in).Rank() != -1 {
			t.Errorf("%.20q has rank %d", in, pelton.Priority(in).Rank())
		}
	}
	slices.Reverse(all)
	if pelton.Priorities()[0] != pelton.Critical {
		t.Error("callers of Priorities share a slice")
	}
}
