package pelton_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/peltonq/pelton"
)

func TestKindDefaultsAndOptions(t *testing.T) {
	t.Parallel()
	kind := pelton.NewKind[int, string]("email.send",
		pelton.WithQueue("emails"), pelton.WithTimeout(30*time.Second), pelton.WithLabels(map[string]string{"team": "post", "tier": "a"}))
	if kind.Name() != "email.send" {
		t.Errorf("Name = %q", kind.Name())
	}
	want := pelton.Spec{Kind: "email.send", Queue: "emails", Timeout: 30 * time.Second, Labels: map[string]string{"team": "post", "tier": "a"}}
	if diff := cmp.Diff(want, kind.Spec()); diff != "" {
		t.Error(diff)
	}

	later := kind.Spec(
		pelton.WithQueue("bulk"), pelton.WithPriority(pelton.High), pelton.WithExpiresAt(now), pelton.WithMaxAttempts(3),
		pelton.WithRetention(time.Hour), pelton.WithRateKey("acme"), pelton.WithConcurrencyKey("tenant"), pelton.WithLabels(map[string]string{"tier": "b"}))
	wantLater := pelton.Spec{
		Kind: "email.send", Queue: "bulk", Priority: pelton.High, ExpiresAt: now, Timeout: 30 * time.Second,
		MaxAttempts: 3, Retention: time.Hour, RateKey: "acme", ConcurrencyKey: "tenant", Labels: map[string]string{"team": "post", "tier": "b"},
	}
	if diff := cmp.Diff(wantLater, later); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(want, kind.Spec()); diff != "" {
		t.Errorf("one call's options reached the kind: %s", diff)
	}
}

func TestDelayAndRunAtReplaceEachOther(t *testing.T) {
	t.Parallel()
	delay, at := pelton.WithDelay(time.Minute), pelton.WithRunAt(now)
	for name, tt := range map[string]struct {
		opts []pelton.Option
		want pelton.Spec
	}{
		"delay last":  {[]pelton.Option{at, delay}, pelton.Spec{Delay: time.Minute}},
		"run_at last": {[]pelton.Option{delay, at}, pelton.Spec{RunAt: now}},
		"no delay":    {[]pelton.Option{at, pelton.WithDelay(0)}, pelton.Spec{}},
	} {
		var spec pelton.Spec
		spec.Apply(tt.opts...)
		if diff := cmp.Diff(tt.want, spec); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func TestNewKindPanicsOnBadName(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"", "a b", "*", strings.Repeat("k", 129)} {
		func() {
			defer func() {
				if r, ok := recover().(string); !ok || !strings.HasPrefix(r, "pelton.NewKind: ") {
					t.Errorf("NewKind(%.20q) panics with %v", name, r)
				}
			}()
			pelton.NewKind[int, int](name)
		}()
	}
}
