package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/worker"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestRegister(t *testing.T) {
	t.Parallel()
	mux := worker.NewMux()
	Register(mux, Config{})
	want := []string{"demo.echo", "demo.fail", "demo.fetch", "demo.image", "demo.lock", "demo.panic", "demo.sleep", "demo.stuck"}
	if diff := cmp.Diff(want, mux.Kinds()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if len(Kinds()) != len(want) {
		t.Errorf("Kinds() is %q", Kinds())
	}
}

func TestEcho(t *testing.T) {
	t.Parallel()
	for _, payload := range []string{"", "null", `{ "b":1.50, "a":"<&>` + "\u2028" + `" }`} {
		got, err := echo(t.Context(), &pelton.Task{Payload: json.RawMessage(payload)})
		if err != nil || string(got) != payload {
			t.Errorf("%q came back as %q, %v", payload, got, err)
		}
	}
}

func TestSleep(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		got, err := sleep(t.Context(), duration{MS: 90_000})
		if err != nil || got.MS != 90_000 || time.Since(start) != 90*time.Second {
			t.Errorf("%+v, %v after %s", got, err, time.Since(start))
		}

		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, pelton.ErrTimeout)
		defer cancel()
		start = time.Now()
		if _, err = sleep(ctx, duration{MS: 90_000}); !errors.Is(err, pelton.ErrTimeout) || time.Since(start) != time.Second {
			t.Errorf("%v after %s", err, time.Since(start))
		}
		if got, err := sleep(t.Context(), duration{}); err != nil || got.MS != 0 {
			t.Errorf("%+v, %v", got, err)
		}
	})
}

func TestStuckIgnoresItsContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		start := time.Now()
		if _, err := stuck(ctx, duration{MS: 5000}); err != nil || time.Since(start) != 5*time.Second {
			t.Errorf("%v after %s", err, time.Since(start))
		}
	})
}

func TestSleepersRefuse(t *testing.T) {
	t.Parallel()
	for _, ms := range []int64{-1, maxSleep.Milliseconds() + 1, 1 << 62} {
		_, err := sleep(t.Context(), duration{MS: ms})
		requireDiscard(t, err)
		_, err = stuck(t.Context(), duration{MS: ms})
		requireDiscard(t, err)
	}
}

func TestProgressEvery(t *testing.T) {
	t.Parallel()
	for total, want := range map[time.Duration]time.Duration{
		0: 500 * time.Millisecond, time.Second: 500 * time.Millisecond, 20 * time.Second: 2 * time.Second, time.Hour: 5 * time.Second,
	} {
		if got := progressEvery(total); got != want {
			t.Errorf("progressEvery(%s) = %s, want %s", total, got, want)
		}
	}
}

func TestFail(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		payload string
		attempt int
		want    string // the result, or the error after "!"
	}{
		{`{"times":2}`, 1, "!failing as told"},
		{`{"times":2,"message":"broken"}`, 2, "!broken"},
		{`{"times":2}`, 3, "3"},
		{`{"times":-1}`, 1, "1"},
		{``, 1, "1"},
		{`{"times":"two"}`, 1, "!decode payload"},
	} {
		got, err := fail(t.Context(), &pelton.Task{Payload: json.RawMessage(test.payload), Attempt: test.attempt})
		if message, failing := strings.CutPrefix(test.want, "!"); failing {
			if err == nil || !strings.HasPrefix(err.Error(), message) {
				t.Errorf("%s, attempt %d: %v", test.payload, test.attempt, err)
			}
		} else if err != nil || string(got) != test.want {
			t.Errorf("%s, attempt %d: %s, %v", test.payload, test.attempt, got, err)
		}
	}
}

func TestPanic(t *testing.T) {
	t.Parallel()
	for payload, want := range map[panicArgs]string{{}: "demo.panic", {Message: "boom"}: "boom"} {
		func() {
			defer func() {
				if got := fmt.Sprint(recover()); got != want {
					t.Errorf("panic %q, want %q", got, want)
				}
			}()
			_ = panics(t.Context(), payload)
		}()
	}
}

func requireDiscard(t *testing.T, err error) {
	t.Helper()
	var directive *pelton.Directive
	if !errors.As(err, &directive) || directive.Verb != pelton.DirectiveDiscard {
		t.Errorf("%v, want a discard", err)
	}
}

// requireRetry wants an error without a directive.
func requireRetry(t *testing.T, err error) {
	t.Helper()
	var directive *pelton.Directive
	if err == nil || errors.As(err, &directive) {
		t.Errorf("%v, want an ordinary error", err)
	}
}
