package peltontest_test

import (
	"context"
	"fmt"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/peltontest"
	"github.com/peltonq/pelton/producer"
	"github.com/peltonq/pelton/worker"
)

// In a test of yours, t is the *testing.T that the test gets.
func Example() {
	t := newT()
	defer t.end()

	type signup struct{ Email string }
	welcome := pelton.NewKind[signup, string]("signup.welcome")
	mux := worker.NewMux()
	worker.Handle(mux, welcome, func(_ context.Context, s signup) (string, error) {
		fmt.Println("welcome", s.Email)
		return "sent", nil
	})

	// One handler, without a broker.
	result, err := peltontest.Run(t, mux, welcome, signup{Email: "ada@example.org"})
	fmt.Println(result, err)

	// Code that enqueues, against a real broker in this process.
	nc := peltontest.Start(t)
	client, err := producer.New(t.Context(), nc, producer.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, err := producer.Enqueue(t.Context(), client, welcome, signup{Email: "grace@example.org"}); err != nil {
		t.Fatal(err)
	}
	task := peltontest.RequireEnqueued(t, client, welcome)
	fmt.Println(task.State, string(task.Payload))

	// And run what was enqueued.
	peltontest.Drain(t, nc, mux)
	if task, err = client.Get(t.Context(), task.ID); err != nil {
		t.Fatal(err)
	}
	fmt.Println(task.State, string(task.Result))
	// Output:
	// welcome ada@example.org
	// sent <nil>
	// queued {"Email":"grace@example.org"}
	// welcome grace@example.org
	// succeeded "sent"
}
