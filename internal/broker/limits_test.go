package broker

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/brokertest"
	"github.com/peltonq/pelton/internal/embed"
)

func aLimit(t *testing.T, name string, perSecond int) pelton.Limit {
	t.Helper()
	l, err := pelton.Limit{Name: name, Kind: "email.send", Rate: pelton.RateLimit{Limit: perSecond}}.Normalized()
	must(t, err)
	return l
}

func TestLimitsAreSavedListedAndDeleted(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	if limits, err := b.Limits(t.Context()); err != nil || len(limits) != 0 {
		t.Errorf("limits at first: %v %v", limits, err)
	}
	mail, tenants := aLimit(t, "mail", 5), aLimit(t, "a-tenants", 7)
	must(t, b.SaveLimit(t.Context(), mail))
	must(t, b.SaveLimit(t.Context(), tenants))
	list := func() []pelton.Limit {
		t.Helper()
		limits, err := b.Limits(t.Context())
		must(t, err)
		return limits
	}
	if diff := cmp.Diff([]pelton.Limit{tenants, mail}, list()); diff != "" {
		t.Errorf("listed (-want +got):\n%s", diff)
	}
	must(t, b.DeleteLimit(t.Context(), "mail"))
	if err := b.DeleteLimit(t.Context(), "mail"); !errors.Is(err, pelton.ErrNotFound) {
		t.Errorf("deleted twice: %v", err)
	}
	if err := b.DeleteLimit(t.Context(), "never"); !errors.Is(err, pelton.ErrNotFound) {
		t.Errorf("what never was: %v", err)
	}
	if diff := cmp.Diff([]pelton.Limit{tenants}, list()); diff != "" {
		t.Errorf("after a deletion (-want +got):\n%s", diff)
	}
	must(t, b.SaveLimit(t.Context(), mail)) // on its delete marker
	if len(list()) != 2 {
		t.Error("a limit that was deleted cannot be made again")
	}
}

func TestSavingTheSameLimitKeepsItsRevision(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	rules, stop, err := b.WatchRules(t.Context())
	must(t, err)
	defer stop()
	if first := wait(t, rules, "rules"); len(first.Limits) != 0 {
		t.Fatalf("rules at first: %+v", first)
	}
	must(t, b.SaveLimit(t.Context(), aLimit(t, "mail", 5)))
	before := wait(t, rules, "new limit").Limits[0].Revision
	must(t, b.SaveLimit(t.Context(), aLimit(t, "mail", 5)))
	must(t, b.SaveLimit(t.Context(), aLimit(t, "other", 5)))
	for _, l := range wait(t, rules, "other limit").Limits {
		if l.Name == "mail" && l.Revision != before {
			t.Errorf("revision %d after the same was saved, was %d", l.Revision, before)
		}
	}
}

func TestLimitsAreBounded(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	for i := range maxLimits { // without the check before each
		l := aLimit(t, fmt.Sprintf("limit-%d", i), 1)
		_, err := b.do(t.Context(), write{subject: b.configKey(limitKeyPrefix + l.Name), data: []byte(`{"name":"` + l.Name + `","kind":"k","rate":{"limit":1}}`), expect: anyRevision})
		must(t, err)
	}
	err := b.SaveLimit(t.Context(), aLimit(t, "one-more", 1))
	if !errors.Is(err, pelton.ErrInvalid) || !strings.Contains(err.Error(), "more than the 1000") {
		t.Errorf("one more: %v", err)
	}
	must(t, b.SaveLimit(t.Context(), aLimit(t, "limit-7", 9))) // a change is none
}

func TestUnreadableLimitsDoNotHold(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	for name, data := range map[string]string{
		"no-json": "{", "no-rate": `{"name":"no-rate","kind":"k","rate":{}}`, "of-another": `{"name":"x","kind":"k","rate":{"limit":1}}`,
		"of-newer": `{"name":"of-newer","kind":"k","rate":{"limit":1},"shape":"round"}`,
	} {
		_, err := b.do(t.Context(), write{subject: b.configKey(limitKeyPrefix + name), data: []byte(data), expect: anyRevision})
		must(t, err)
	}
	limits, err := b.Limits(t.Context())
	if err != nil || len(limits) != 1 || limits[0].Name != "of-newer" {
		t.Errorf("limits: %+v %v", limits, err)
	}
}

func TestPausesComeAndGo(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	rules, stop, err := b.WatchRules(t.Context())
	must(t, err)
	defer stop()
	wait(t, rules, "rules")
	until := time.Now().Add(2 * time.Second).UTC().Truncate(time.Microsecond)
	long := Pause{RateKey: "a b/ü", Until: until.Add(time.Hour)}
	must(t, b.SavePause(t.Context(), Pause{Kind: "k", Until: until}))
	if diff := cmp.Diff([]Pause{{Kind: "k", Until: until}}, wait(t, rules, "a pause").Pauses); diff != "" {
		t.Errorf("paused (-want +got):\n%s", diff)
	}
	must(t, b.SavePause(t.Context(), Pause{Kind: "k", Until: until.Add(-time.Second)})) // the longer one stays
	must(t, b.SavePause(t.Context(), long))
	got := wait(t, rules, "another pause").Pauses
	if len(got) != 2 || !got[0].Until.Equal(until) && !got[1].Until.Equal(until) {
		t.Errorf("two pauses: %+v", got)
	}
	must(t, b.SavePause(t.Context(), Pause{Kind: "k", Until: until.Add(time.Second)}))
	wait(t, rules, "a longer pause")
	for { // the broker forgets it
		if left := wait(t, rules, "end of a pause").Pauses; len(left) == 1 {
			if diff := cmp.Diff([]Pause{long}, left); diff != "" {
				t.Errorf("left (-want +got):\n%s", diff)
			}
			break
		}
	}
	must(t, b.SavePause(t.Context(), Pause{Kind: "k", Until: time.Now().Add(time.Minute)})) // on the marker
	if left := wait(t, rules, "a pause again").Pauses; len(left) != 2 {
		t.Errorf("paused again: %+v", left)
	}
}

// What changed while the connection was away is in the first rules after it.
func TestWatchRulesOverARestart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	srv := brokertest.StartServer(t, brokertest.In(dir), brokertest.Listening)
	url := srv.ClientURL()
	nc, err := nats.Connect(url, nats.MaxReconnects(-1), nats.ReconnectWait(10*time.Millisecond))
	must(t, err)
	t.Cleanup(nc.Close)
	b := openOn(t, nc, Config{})
	must(t, b.SaveLimit(t.Context(), aLimit(t, "goes", 5)))
	rules, stop, err := b.WatchRules(t.Context())
	must(t, err)
	defer stop()
	wait(t, rules, "rules")

	brokertest.Stop(t, srv)
	srv = brokertest.StartServer(t, brokertest.In(dir), func(cfg *embed.Config) { cfg.Listen = strings.TrimPrefix(url, "nats://") })
	direct := openOn(t, brokertest.Connect(t, srv), Config{})
	must(t, direct.DeleteLimit(t.Context(), "goes"))
	must(t, direct.SaveLimit(t.Context(), aLimit(t, "comes", 5)))
	for range rules { // ends when the connection is back
	}
	reaches(t, "the watch to begin again", func() bool {
		again, stopAgain, err := b.WatchRules(t.Context())
		if err != nil {
			return false
		}
		defer stopAgain()
		first := wait(t, again, "rules after the restart")
		return len(first.Limits) == 1 && first.Limits[0].Name == "comes"
	})
}

func TestWatchRulesEnds(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	ctx, cancel := context.WithCancel(t.Context())
	rules, stop, err := b.WatchRules(ctx)
	must(t, err)
	cancel()
	for range rules { // nobody has to take what it had to send
	}
	stop()
}
