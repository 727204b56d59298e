package peltontest_test

import (
	"context"
	"errors"
	"testing"

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
