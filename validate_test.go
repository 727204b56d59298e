package pelton_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/peltonq/pelton"
)

var now = time.Date(2026, 5, 4, 3, 2, 1, 123456789, time.UTC)

func TestNormalizedDefaults(t *testing.T) {
	t.Parallel()
	got, err := pelton.Spec{Kind: "email.send"}.Normalized(now)
	if err != nil {
		t.Fatal(err)
	}
	want := pelton.Spec{
		Kind:        "email.send",
		Queue:       "default",
		Priority:    pelton.Normal,
		Timeout:     5 * time.Minute,
		MaxAttempts: 20,
		Retention:   24 * time.Hour,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestNormalizedKeepsWhatIsSet(t *testing.T) {
	t.Parallel()
	spec := pelton.Spec{
		Kind:        "a/b:c-D_1.e",
		Payload:     json.RawMessage(" {\"a\" : 1} "),
		Queue:       "emails_2-x",
		Priority:    pelton.Low,
		RunAt:       now.Add(time.Nanosecond),
		ExpiresAt:   now.Add(time.Hour),
		Timeout:     30 * time.Second,
		MaxAttempts: 1,
		Retention:   time.Second,
		RateKey:     "acme & sons",
		Labels:      map[string]string{"tenant": "acme & sons", "empty": ""},

		ConcurrencyKey: "acme & sons/é",
	}
	got, err := spec.Normalized(now)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(spec, got); diff != "" {
		t.Error(diff)
	}
	again, err := got.Normalized(now)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(got, again); diff != "" {
		t.Errorf("a second time: %s", diff)
	}
}

func TestNormalizedTimes(t *testing.T) {
	t.Parallel()
	cest := time.FixedZone("CEST", 2*60*60)
	for name, tt := range map[string]struct {
		spec  pelton.Spec
		runAt time.Time
	}{
		"delay":           {pelton.Spec{Delay: 90 * time.Second}, now.Add(90 * time.Second)},
		"delay, expires":  {pelton.Spec{Delay: time.Second, ExpiresAt: now.Add(2 * time.Second)}, now.Add(time.Second)},
		"run_at":          {pelton.Spec{RunAt: now.Add(time.Hour).In(cest)}, now.Add(time.Hour)},
		"run_at in 2261":  {pelton.Spec{RunAt: time.Date(2261, 12, 31, 23, 59, 59, 0, time.UTC)}, time.Date(2261, 12, 31, 23, 59, 59, 0, time.UTC)},
		"run_at is now":   {pelton.Spec{RunAt: now}, time.Time{}},
		"run_at was past": {pelton.Spec{RunAt: now.Add(-time.Hour), ExpiresAt: now.Add(time.Hour).In(cest)}, time.Time{}},
		"no delay":        {pelton.Spec{}, time.Time{}},
	} {
		tt.spec.Kind = "k"
		got, err := tt.spec.Normalized(now)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if !got.RunAt.Equal(tt.runAt) || got.RunAt.Location() != time.UTC || got.Delay != 0 {
			t.Errorf("%s: RunAt %s, Delay %s, want %s and none", name, got.RunAt, got.Delay, tt.runAt)
		}
		if !got.ExpiresAt.Equal(tt.spec.ExpiresAt) || (!got.ExpiresAt.IsZero() && got.ExpiresAt.Location() != time.UTC) {
			t.Errorf("%s: ExpiresAt %s, want %s in UTC", name, got.ExpiresAt, tt.spec.ExpiresAt)
		}
	}
}

func TestNormalizedRefuses(t *testing.T) {
	t.Parallel()
	after := time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)
	many := make(map[string]string)
	for i := range 33 {
		many[fmt.Sprint("l", i)] = ""
	}
	for name, tt := range map[string]struct {
		change func(*pelton.Spec)
		field  string
		says   string
	}{
		"no kind":             {func(s *pelton.Spec) { s.Kind = "" }, "kind", "is required"},
		"bad kind":            {func(s *pelton.Spec) { s.Kind = "a b" }, "kind", `"a b" must match`},
		"long kind":           {func(s *pelton.Spec) { s.Kind = strings.Repeat("k", 129) }, "kind", "must match"},
		"bad queue":           {func(s *pelton.Spec) { s.Queue = "a.b" }, "queue", `"a.b" must match`},
		"long queue":          {func(s *pelton.Spec) { s.Queue = strings.Repeat("q", 65) }, "queue", "must match"},
		"bad priority":        {func(s *pelton.Spec) { s.Priority = "urgent" }, "priority", `"urgent" is none of`},
		"no JSON":             {func(s *pelton.Spec) { s.Payload = []byte("{") }, "payload", "is not JSON"},
		"two values":          {func(s *pelton.Spec) { s.Payload = []byte("1 2") }, "payload", "is not JSON"},
		"blank payload":       {func(s *pelton.Spec) { s.Payload = []byte(" ") }, "payload", "is not JSON"},
		"payload not UTF-8":   {func(s *pelton.Spec) { s.Payload = []byte("\"\xff\"") }, "payload", "is not UTF-8"},
		"large payload":       {func(s *pelton.Spec) { s.Payload = quoted(pelton.MaxPayload + 1) }, "payload", "262145 bytes, more than 262144"},
		"negative delay":      {func(s *pelton.Spec) { s.Delay = -1 }, "delay", "is negative"},
		"delay and run_at":    {func(s *pelton.Spec) { s.Delay, s.RunAt = 1, now.Add(1) }, "delay", "excludes run_at"},
		"late run_at":         {func(s *pelton.Spec) { s.RunAt = after }, "run_at", "year 2261"},
		"run_at in 2262":      {func(s *pelton.Spec) { s.RunAt = time.Date(2262, 1, 1, 0, 0, 0, 0, time.UTC) }, "run_at", "year 2261"},
		"long delay":          {func(s *pelton.Spec) { s.Delay = 1<<63 - 1 }, "delay", "year 2261"},
		"late expires_at":     {func(s *pelton.Spec) { s.ExpiresAt = after }, "expires_at", "year 9999"},
		"expired":             {func(s *pelton.Spec) { s.ExpiresAt = now }, "expires_at", "has passed"},
		"expires before run":  {func(s *pelton.Spec) { s.RunAt, s.ExpiresAt = now.Add(2), now.Add(1) }, "expires_at", "not after the time"},
		"expires with delay":  {func(s *pelton.Spec) { s.Delay, s.ExpiresAt = 2, now.Add(2) }, "expires_at", "not after the time"},
		"negative timeout":    {func(s *pelton.Spec) { s.Timeout = -1 }, "timeout", "not between 1ms and 720h"},
		"short timeout":       {func(s *pelton.Spec) { s.Timeout = time.Microsecond }, "timeout", "not between 1ms and 720h"},
		"long timeout":        {func(s *pelton.Spec) { s.Timeout = 721 * time.Hour }, "timeout", "721h is not between 1ms and 720h"},
		"negative attempts":   {func(s *pelton.Spec) { s.MaxAttempts = -1 }, "max_attempts", "-1 is not between 1 and 1000"},
		"many attempts":       {func(s *pelton.Spec) { s.MaxAttempts = 1001 }, "max_attempts", "1001 is not between 1 and 1000"},
		"short backoff":       {func(s *pelton.Spec) { s.Backoff.Initial = 1 }, "backoff.initial", "not between 1ms and 720h"},
		"backoff's bound":     {func(s *pelton.Spec) { s.Backoff.Max = time.Millisecond }, "backoff.max", "1ms is not between the initial delay and 720h"},
		"backoff's factor":    {func(s *pelton.Spec) { s.Backoff.Factor = 0.5 }, "backoff.factor", "0.5 is not between 1 and 10"},
		"backoff's NaN":       {func(s *pelton.Spec) { s.Backoff.Factor = math.NaN() }, "backoff.factor", "NaN is not between"},
		"short retention":     {func(s *pelton.Spec) { s.Retention = time.Millisecond }, "retention", "1ms is not between 1s and 8784h"},
		"long retention":      {func(s *pelton.Spec) { s.Retention = 8785 * time.Hour }, "retention", "not between 1s and 8784h"},
		"concurrency key":     {func(s *pelton.Spec) { s.ConcurrencyKey = "a\tb" }, "concurrency_key", "control character U+0009"},
		"long key":            {func(s *pelton.Spec) { s.ConcurrencyKey = strings.Repeat("k", 257) }, "concurrency_key", "257 bytes, more than 256"},
		"many labels":         {func(s *pelton.Spec) { s.Labels = many }, "labels", "33 entries, more than 32"},
		"rate key":            {func(s *pelton.Spec) { s.RateKey = "a\tb" }, "rate_key", "control character U+0009"},
		"long rate key":       {func(s *pelton.Spec) { s.RateKey = strings.Repeat("k", 257) }, "rate_key", "257 bytes, more than 256"},
		"label's name":        {func(s *pelton.Spec) { s.Labels = map[string]string{"a b": ""} }, "labels", `name "a b" must match`},
		"label without name":  {func(s *pelton.Spec) { s.Labels = map[string]string{"": "x"} }, "labels", `name "" must match`},
		"label's value":       {func(s *pelton.Spec) { s.Labels = map[string]string{"a": "x\n"} }, "labels.a", "control character U+000A"},
		"long label's value":  {func(s *pelton.Spec) { s.Labels = map[string]string{"a": strings.Repeat("v", 257)} }, "labels.a", "257 bytes, more than 256"},
		"label is not UTF-8":  {func(s *pelton.Spec) { s.Labels = map[string]string{"a": "\xff"} }, "labels.a", "is not UTF-8"},
		"label with C1 value": {func(s *pelton.Spec) { s.Labels = map[string]string{"a": "\u0085"} }, "labels.a", "control character U+0085"},
	} {
		spec := pelton.Spec{Kind: "k"}
		tt.change(&spec)
		got, err := spec.Normalized(now)
		if !errors.Is(err, pelton.ErrInvalid) {
			t.Errorf("%s: error %v", name, err)
			continue
		}
		if diff := cmp.Diff(pelton.Spec{}, got); diff != "" {
			t.Errorf("%s: a spec next to the error: %s", name, diff)
		}
		invalid, ok := errors.AsType[*pelton.ValidationError](err)
		if !ok || len(invalid.Fields) != 1 {
			t.Errorf("%s: error %#v, want one field", name, err)
			continue
		}
		if f := invalid.Fields[0]; f.Field != tt.field || !strings.Contains(f.Message, tt.says) {
			t.Errorf("%s: %s %q, want %s … %s …", name, f.Field, f.Message, tt.field, tt.says)
		}
		if !strings.HasPrefix(err.Error(), "invalid "+tt.field+": ") || len(err.Error()) > 400 {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestNormalizedNamesEveryField(t *testing.T) {
	t.Parallel()
	_, err := pelton.Spec{
		Queue:       "*",
		Priority:    "x",
		Payload:     []byte("x"),
		Delay:       -1,
		ExpiresAt:   now.Add(-1),
		Timeout:     -1,
		MaxAttempts: -1,
		Retention:   -1,
		Labels:      map[string]string{"a": "\n", "b": "\n", "c": "\n", "*": ""},
	}.Normalized(now)
	invalid, ok := errors.AsType[*pelton.ValidationError](err)
	if !ok {
		t.Fatalf("error %v", err)
	}
	var fields []string
	for _, f := range invalid.Fields {
		fields = append(fields, f.Field)
	}
	want := []string{
		"kind", "queue", "priority", "payload", "delay", "expires_at", "timeout", "max_attempts", "retention",
		"labels", "labels.a", "labels.b", "labels.c",
	}
	if diff := cmp.Diff(want, fields); diff != "" {
		t.Error(diff)
	}
}

func TestNormalizedTakesTheLargest(t *testing.T) {
	t.Parallel()
	labels := make(map[string]string)
	for i := range 32 {
		labels[fmt.Sprint("l", i)] = strings.Repeat("ä", 128)
	}
	_, err := pelton.Spec{
		Kind:        strings.Repeat("K", 128),
		Queue:       strings.Repeat("q", 64),
		Payload:     quoted(pelton.MaxPayload),
		RunAt:       time.Date(2261, 12, 31, 23, 59, 59, 0, time.UTC),
		ExpiresAt:   time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC),
		Timeout:     720 * time.Hour,
		MaxAttempts: 1000,
		Retention:   8784 * time.Hour,
		Labels:      labels,
	}.Normalized(now)
	if err != nil {
		t.Error(err)
	}
}

// quoted is a JSON string of n bytes.
func quoted(n int) json.RawMessage {
	return json.RawMessage(`"` + strings.Repeat("x", n-2) + `"`)
}

func TestValidateKey(t *testing.T) {
	t.Parallel()
	for _, key := range []string{"", "user-42", "a b.c>*/ü\u200b", strings.Repeat("k", 256)} {
		if err := pelton.ValidateKey(key); err != nil {
			t.Errorf("ValidateKey(%q): %v", key, err)
		}
	}
	for _, key := range []string{"\x00", "a\tb", "\x7f", "\u009f", "\xc3", strings.Repeat("k", 257)} {
		if err := pelton.ValidateKey(key); !errors.Is(err, pelton.ErrInvalid) {
			t.Errorf("ValidateKey(%q): %v", key, err)
		}
	}
}

// Names are matched by hand; what the errors say they must match is what counts.
func TestNamesMatchTheirExpressions(t *testing.T) {
	t.Parallel()
	queue, kind := regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,63}$`), regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.:/-]{0,127}$`)
	check := func(name string) {
		t.Helper()
		if err := pelton.ValidateQueue(name); (err == nil) != queue.MatchString(name) || err != nil && !strings.HasSuffix(err.Error(), " must match "+queue.String()) {
			t.Errorf("queue %q: %v", name, err)
		}
		if err := pelton.ValidateKind(name); (err == nil) != kind.MatchString(name) || err != nil && !strings.HasSuffix(err.Error(), " must match "+kind.String()) {
			t.Errorf("kind %q: %v", name, err)
		}
	}
	for b := range 256 {
		for _, name := range []string{string([]byte{byte(b)}), string([]byte{'a', byte(b)}), string([]byte{byte(b), 'a'}), string([]byte{'a', byte(b), 'a'})} {
			check(name)
		}
	}
	for n := range 140 {
		check(strings.Repeat("a", n))
		check("A" + strings.Repeat("/", n))
	}
}

// FuzzValidateNames checks that no name that passes can say more in a subject
// than itself: a queue is one token, and a kind has neither wildcards nor space.
func FuzzValidateNames(f *testing.F) {
	for _, s := range []string{"default", "email.send", "a/b:c", "", "*", "a.>", "a b", "a\n", "a\r\nb", "a\x00", "ä", "a\u2028", "-a", ".a", "_a", strings.Repeat("a", 65), strings.Repeat("a", 129)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, name string) {
		for what, check := range map[string]struct {
			err     error
			special string
			most    int
		}{
			"queue": {pelton.ValidateQueue(name), "*>.:/$", 64},
			"kind":  {pelton.ValidateKind(name), "*>$", 128},
		} {
			if check.err != nil {
				if !errors.Is(check.err, pelton.ErrInvalid) || !utf8.ValidString(check.err.Error()) {
					t.Errorf("%s %q: %v", what, name, check.err)
				}
				continue
			}
			if name == "" || len(name) > check.most || strings.ContainsAny(name, check.special) || strings.ContainsAny(name[:1], ".-_/:") {
				t.Errorf("%s %q passed", what, name)
			}
			for _, r := range name {
				if r <= ' ' || r >= 0x7f {
					t.Errorf("%s %q passed with %U", what, name, r)
				}
			}
		}
		// Normalized refuses what the validators refuse.
		_, err := pelton.Spec{Kind: name, Queue: "q"}.Normalized(now)
		if (err == nil) != (pelton.ValidateKind(name) == nil) {
			t.Errorf("kind %q: Normalized says %v", name, err)
		}
		_, err = pelton.Spec{Kind: "k", Queue: name}.Normalized(now)
		if name != "" && (err == nil) != (pelton.ValidateQueue(name) == nil) {
			t.Errorf("queue %q: Normalized says %v", name, err)
		}
	})
}
