package peltontest_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/peltontest"
	"github.com/peltonq/pelton/producer"
	"github.com/peltonq/pelton/worker"
)

type greeting struct {
	Name string `json:"name"`
}

var (
	greet = pelton.NewKind[greeting, string]("test.greet", pelton.WithQueue("greetings"))
	relay = pelton.NewKind[greeting, struct{}]("test.relay")
)

func TestRun(t *testing.T) {
	t.Parallel()
	mux := worker.NewMux()
	wrapped := false
	mux.Use(func(next worker.Handler) worker.Handler {
		wrapped = true
		return next
	})
	worker.Handle(mux, greet, func(ctx context.Context, g greeting) (string, error) {
		if g.Name == "" {
			return "", errors.New("nobody to greet")
		}
		return "hello " + g.Name + " from " + worker.From(ctx).Queue, nil
	})
	got, err := peltontest.Run(t, mux, greet, greeting{"Ada"})
	if err != nil || got != "hello Ada from greetings" {
		t.Errorf("Run = %q, %v", got, err)
	}
	if !wrapped {
		t.Error("middleware did not run")
	}
	if _, err := peltontest.Run(t, mux, greet, greeting{}); err == nil {
		t.Error("Run hides the handler's error")
	}
	if _, err := peltontest.Run(t, mux, relay, greeting{}); !errors.Is(err, pelton.ErrNotFound) {
		t.Errorf("Run of an unknown kind = %v, want ErrNotFound", err)
	}
}

func TestRequireEnqueuedAndDrain(t *testing.T) {
	t.Parallel()
	nc := peltontest.Start(t)
	client, err := producer.New(t.Context(), nc, producer.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	mux := worker.NewMux()
	var greeted []string
	worker.HandleFunc(mux, relay, func(ctx context.Context, g greeting) error {
		_, err := producer.Enqueue(ctx, client, greet, g) // into a queue that does not exist yet
		return err
	})
	worker.Handle(mux, greet, func(_ context.Context, g greeting) (string, error) {
		greeted = append(greeted, g.Name)
		return "hello " + g.Name, nil
	})
	task, err := producer.Enqueue(t.Context(), client, relay, greeting{"Grace"}, pelton.WithPriority(pelton.High))
	if err != nil {
		t.Fatal(err)
	}
	if got := peltontest.RequireEnqueued(t, client, relay); got.ID != task.ID {
		t.Errorf("RequireEnqueued = %s, want %s", got.ID, task.ID)
	}
	peltontest.Drain(t, nc, mux)
	if len(greeted) != 1 || greeted[0] != "Grace" {
		t.Errorf("greeted %v", greeted)
	}
	if task, err = client.Get(t.Context(), task.ID); err != nil || task.State != pelton.Succeeded {
		t.Errorf("task is %s, %v", task.State, err)
	}
}

// fails runs fn with a test that it is to fail, and gives what it said.
func fails(t *testing.T, fn func(t testing.TB)) string {
	t.Helper()
	fake := newT()
	defer fake.end()
	func() {
		defer func() {
			if p := recover(); p != nil && p != (failed{}) {
				panic(p)
			}
		}()
		fn(fake)
	}()
	if len(fake.failures) != 1 {
		t.Fatalf("failures = %q, want one", fake.failures)
	}
	return fake.failures[0]
}

func TestHelpersFailTheTest(t *testing.T) {
	t.Parallel()
	nc := peltontest.Start(t)
	client, err := producer.New(t.Context(), nc, producer.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if got := fails(t, func(t testing.TB) { peltontest.RequireEnqueued(t, client, greet) }); !strings.Contains(got, "no task of kind test.greet") {
		t.Errorf("RequireEnqueued said %q", got)
	}
	unencodable := pelton.NewKind[func(), int]("test.func")
	if got := fails(t, func(t testing.TB) { _, _ = peltontest.Run(t, worker.NewMux(), unencodable, func() {}) }); !strings.Contains(got, "test.func") {
		t.Errorf("Run said %q", got)
	}
	if _, err := producer.Enqueue(t.Context(), client, greet, greeting{"Ada"}); err != nil {
		t.Fatal(err)
	}
	if got := fails(t, func(t testing.TB) { peltontest.Drain(t, nc, worker.NewMux()) }); !strings.Contains(got, "without handlers") {
		t.Errorf("Drain said %q", got)
	}
}

// TestDrainLeavesWhatWaits: delayed tasks and retries are for later.
func TestDrainLeavesWhatWaits(t *testing.T) {
	t.Parallel()
	nc := peltontest.Start(t)
	client, err := producer.New(t.Context(), nc, producer.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	mux := worker.NewMux()
	worker.HandleFunc(mux, relay, func(context.Context, greeting) error { return pelton.RetryAfter(time.Hour, errors.New("later")) })
	peltontest.Drain(t, nc, mux) // nothing is there at all
	fails, err := producer.Enqueue(t.Context(), client, relay, greeting{})
	if err != nil {
		t.Fatal(err)
	}
	delayed, err := producer.Enqueue(t.Context(), client, relay, greeting{}, pelton.WithDelay(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	peltontest.Drain(t, nc, mux)
	for id, want := range map[pelton.ID]pelton.State{fails.ID: pelton.Retrying, delayed.ID: pelton.Scheduled} {
		if task, err := client.Get(t.Context(), id); err != nil || task.State != want {
			t.Errorf("task is %s, %v; want %s", task.State, err, want)
		}
	}
}
