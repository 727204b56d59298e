package pelton_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/peltonq/pelton"
)

func TestLimitDefaults(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ in, want pelton.Limit }{
		"kind alone": {
			pelton.Limit{Name: "mail", Kind: "email.send", Rate: pelton.RateLimit{Limit: 100}},
			pelton.Limit{Name: "mail", Kind: "email.send", Cost: 1, Rate: pelton.RateLimit{Limit: 100, Per: time.Second, Burst: 100, OnError: pelton.OnErrorLocal}},
		},
		"all given": {
			pelton.Limit{Name: "m-1", Kind: "k", RateKey: "a/[bc]?", Cost: 2, Rate: pelton.RateLimit{Limit: 5, Per: time.Minute, Burst: 3, OnError: pelton.OnErrorClosed}},
			pelton.Limit{Name: "m-1", Kind: "k", RateKey: "a/[bc]?", Cost: 2, Rate: pelton.RateLimit{Limit: 5, Per: time.Minute, Burst: 3, OnError: pelton.OnErrorClosed}},
		},
		"running of keys": {
			pelton.Limit{Name: "big", ConcurrencyKey: "acme*", MaxRunning: 3},
			pelton.Limit{Name: "big", ConcurrencyKey: "acme*", MaxRunning: 3},
		},
		"running and rate of a kind": {
			pelton.Limit{Name: "mail", Kind: "email.send", MaxRunning: 1000, Rate: pelton.RateLimit{Limit: 1}},
			pelton.Limit{Name: "mail", Kind: "email.send", MaxRunning: 1000, Cost: 1, Rate: pelton.RateLimit{Limit: 1, Per: time.Second, Burst: 1, OnError: pelton.OnErrorLocal}},
		},
	} {
		got, err := c.in.Normalized()
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestLimitRefuses(t *testing.T) {
	t.Parallel()
	rate := pelton.RateLimit{Limit: 1}
	for name, c := range map[string]struct {
		in             pelton.Limit
		field, message string
	}{
		"name":            {pelton.Limit{Name: "A", Kind: "k", Rate: rate}, "name", "must match"},
		"nothing limited": {pelton.Limit{Name: "a", Rate: rate}, "kind", "is required"},
		"kind":            {pelton.Limit{Name: "a", Kind: "k *", Rate: rate}, "kind", "must match"},
		"pattern":         {pelton.Limit{Name: "a", RateKey: "[", Rate: rate}, "rate_key", "is not a pattern"},
		"control":         {pelton.Limit{Name: "a", RateKey: "\n", Rate: rate}, "rate_key", "control character"},
		"long":            {pelton.Limit{Name: "a", RateKey: strings.Repeat("k", 257), Rate: rate}, "rate_key", "257 bytes"},
		"no rate":         {pelton.Limit{Name: "a", Kind: "k"}, "rate", "is required where there is no max_running"},
		"rate's limit":    {pelton.Limit{Name: "a", Kind: "k", Rate: pelton.RateLimit{Burst: 1}}, "rate.limit", "is required"},
		"many running":    {pelton.Limit{Name: "a", Kind: "k", MaxRunning: 1001}, "max_running", "1001 is not between 1 and 1000"},
		"few running":     {pelton.Limit{Name: "a", Kind: "k", MaxRunning: -1}, "max_running", "-1 is not between"},
		"running of none": {pelton.Limit{Name: "a", MaxRunning: 1}, "max_running", "one of them is required"},
		"running of two":  {pelton.Limit{Name: "a", Kind: "k", ConcurrencyKey: "c", MaxRunning: 1}, "concurrency_key", "excludes kind"},
		"key's pattern":   {pelton.Limit{Name: "a", ConcurrencyKey: "[", MaxRunning: 1}, "concurrency_key", "is not a pattern"},
		"key's control":   {pelton.Limit{Name: "a", ConcurrencyKey: "\n", MaxRunning: 1}, "concurrency_key", "control character"},
		"key alone":       {pelton.Limit{Name: "a", Kind: "k", ConcurrencyKey: "c", Rate: rate}, "concurrency_key", "is for max_running"},
		"key and rate":    {pelton.Limit{Name: "a", RateKey: "r", ConcurrencyKey: "c", MaxRunning: 1, Rate: rate}, "rate_key", "make two limits"},
		"running of rate": {pelton.Limit{Name: "a", ConcurrencyKey: "c", RateKey: "r", MaxRunning: 1}, "rate_key", "make two limits"},
		"cost of running": {pelton.Limit{Name: "a", ConcurrencyKey: "c", Cost: 2, MaxRunning: 1}, "cost", "is for a rate"},
		"per":             {pelton.Limit{Name: "a", Kind: "k", Rate: pelton.RateLimit{Limit: 1, Per: time.Microsecond}}, "rate.per", "is not between 1ms and 720h"},
		"limit":           {pelton.Limit{Name: "a", Kind: "k", Rate: pelton.RateLimit{Limit: -1}}, "rate.limit", "-1 is not between"},
		"burst":           {pelton.Limit{Name: "a", Kind: "k", Rate: pelton.RateLimit{Limit: 1, Burst: -1}}, "rate.burst", "-1 is not between"},
		"on_error":        {pelton.Limit{Name: "a", Kind: "k", Rate: pelton.RateLimit{Limit: 1, OnError: "shut"}}, "rate.on_error", "none of local"},
		"cost":            {pelton.Limit{Name: "a", Kind: "k", Cost: -1, Rate: rate}, "cost", "-1 is not between"},
		"cost and burst":  {pelton.Limit{Name: "a", Kind: "k", Cost: 3, Rate: pelton.RateLimit{Limit: 1, Burst: 2}}, "cost", "more than the burst of 2"},
	} {
		_, err := c.in.Normalized()
		var invalid *pelton.ValidationError
		if !errors.As(err, &invalid) || len(invalid.Fields) != 1 || invalid.Fields[0].Field != c.field || !strings.Contains(invalid.Fields[0].Message, c.message) {
			t.Errorf("%s: %v, want %s: %s", name, err, c.field, c.message)
		}
	}
}

func TestLimitApplies(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		kind, pattern string
		of, key       string
		want          bool
	}{
		{"email.send", "", "email.send", "", true},
		{"email.send", "", "email.send", "acme", true},
		{"email.send", "", "email.read", "", false},
		{"", "*", "any", "", false},
		{"", "*", "any", "a/b", true},
		{"", "acme*", "any", "acme/eu", true},
		{"", "acme?eu", "any", "acme/eu", true},
		{"", "acme/*", "any", "acme", false},
		{"", "acme", "any", "acme", true},
		{"", "acme", "any", "acme2", false},
		{"k", "acme", "k", "acme", true},
		{"k", "acme", "l", "acme", false},
		{"", "[^a]*", "any", "bcme", true},
	} {
		if got := (pelton.Limit{Kind: c.kind, RateKey: c.pattern, Rate: pelton.RateLimit{Limit: 1}}).Applies(c.of, c.key); got != c.want {
			t.Errorf("limit of %q and %q, task of %q with %q: %v", c.kind, c.pattern, c.of, c.key, got)
		}
	}
}

func TestLimitAppliesToKey(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		pattern, key string
		want         bool
	}{{"acme*", "acme/eu", true}, {"acme", "acme2", false}, {"", "acme", false}, {"*", "", true}} {
		if got := (pelton.Limit{ConcurrencyKey: c.pattern, MaxRunning: 1}).AppliesToKey(c.key); got != c.want {
			t.Errorf("limit of %q, key %q: %v", c.pattern, c.key, got)
		}
	}
	if (pelton.Limit{Kind: "k", MaxRunning: 1}).Applies("k", "") {
		t.Error("a limit without a rate applies as one")
	}
}

func TestLimitJSON(t *testing.T) {
	t.Parallel()
	const text = `{"name":"mail","kind":"email.send","cost":2,"rate":{"limit":100,"per":"1m30s","burst":10,"on_error":"open"}}`
	var l pelton.Limit
	if err := json.Unmarshal([]byte(text), &l); err != nil {
		t.Fatal(err)
	}
	want := pelton.Limit{Name: "mail", Kind: "email.send", Cost: 2, Rate: pelton.RateLimit{Limit: 100, Per: 90 * time.Second, Burst: 10, OnError: pelton.OnErrorOpen}}
	if diff := cmp.Diff(want, l); diff != "" {
		t.Errorf("read (-want +got):\n%s", diff)
	}
	if got, err := json.Marshal(l); err != nil || string(got) != text {
		t.Errorf("written: %s %v", got, err)
	}
	if err := json.Unmarshal([]byte(`{"rate":{"per":"soon"}}`), &l); err == nil {
		t.Error("a per that is no duration was read")
	}
}
