package broker

import (
	"errors"
	"slices"
	"testing"

	"github.com/peltonq/pelton"
)

func setLimit(t *testing.T, b *Broker, limit pelton.Limit) {
	t.Helper()
	must(t, b.LoadLimits(t.Context()))
	must(t, b.SaveLimit(t.Context(), limit))
	reaches(t, "the limit is known", func() bool {
		b.limits.mu.RLock()
		defer b.limits.mu.RUnlock()
		return b.limits.byKind[limit.Kind] == limit.MaxRunning || slices.Contains(b.limits.keys, limit)
	})
}

func TestLimitsOfLines(t *testing.T) {
	t.Parallel()
	l := &runningLimits{}
	l.set([]pelton.Limit{
		{Name: "a", ConcurrencyKey: "acme*", MaxRunning: 5},
		{Name: "b", ConcurrencyKey: "acme/eu", MaxRunning: 3},
		{Name: "c", Kind: "k", MaxRunning: 7},
		{Name: "d", Kind: "k", MaxRunning: 6, Rate: pelton.RateLimit{Limit: 1}},
		{Name: "e", Kind: "rated", Rate: pelton.RateLimit{Limit: 1}},
	})
	for line, want := range map[Line]int{
		{Key: "acme"}: 5, {Key: "acme/us"}: 5, {Key: "acme/eu"}: 3, {Key: "other"}: 1, {Key: "k"}: 1,
		{Kind: "k"}: 6, {Kind: "other"}: pelton.MaxLimitRunning, {Kind: "rated"}: pelton.MaxLimitRunning,
	} {
		if got := l.of(line); got != want {
			t.Errorf("limit of %+v = %d, want %d", line, got, want)
		}
	}
}

// Limits come and go while they are followed, whatever else is under their names.
func TestLimitsAreFollowed(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	setLimit(t, b, pelton.Limit{Name: "k", Kind: "k", MaxRunning: 2})
	if !b.KindLimited("k") || b.KindLimited("other") {
		t.Error("the limit of a kind is not known")
	}
	for name, value := range map[string]string{"rate": `{"name":"rate","rate":{"limit":1}}`, "bad": `{"kind":"other","max_running":-1}`, "junk": `junk`} {
		_, err := b.config.Put(t.Context(), limitKeyPrefix+name, []byte(value))
		must(t, err)
	}
	must(t, b.config.Delete(t.Context(), limitKeyPrefix+"k"))
	reaches(t, "the limit is gone", func() bool { return !b.KindLimited("k") })
	b.Close()
	if err := openNew(t).LoadLimits(t.Context()); err != nil {
		t.Error(err)
	}
	if err := b.LoadLimits(t.Context()); err != nil && !errors.Is(err, pelton.ErrClosed) {
		t.Errorf("load limits after Close = %v", err)
	}
}
