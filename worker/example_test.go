package worker_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/worker"
)

// Handlers are registered on a mux, with middleware around all of them. A worker
// runs the tasks of its queues with it:
//
//	nc, err := nats.Connect(url, nats.MaxReconnects(-1))
//	w, err := worker.New(nc, mux, worker.Config{Queues: []string{"images"}, Concurrency: 16})
//	err = w.Run(ctx) // until ctx ends: nil after a clean drain
//
// A mux is a handler itself, so what it does can be seen without a broker.
func Example() {
	type resize struct{ Path string }
	type size struct{ Bytes int }
	resizeImage := pelton.NewKind[resize, size]("image.resize", pelton.WithQueue("images"))
	cleanUp := pelton.NewKind[struct{}, struct{}]("clean.up")

	mux := worker.NewMux()
	mux.Use(func(next worker.Handler) worker.Handler {
		return worker.HandlerFunc(func(ctx context.Context, task *pelton.Task) (json.RawMessage, error) {
			fmt.Println("start", task.Kind)
			return next.ServeTask(ctx, task)
		})
	})
	worker.Handle(mux, resizeImage, func(ctx context.Context, r resize) (size, error) {
		switch r.Path {
		case "":
			return size{}, pelton.Discard(errors.New("no path")) // trying again is useless
		case "/slow":
			return size{}, pelton.RetryAfter(time.Minute, errors.New("storage is busy"))
		}
		worker.Progress(ctx, 1, 1, "resized")
		return size{Bytes: 512}, nil
	}, worker.CPUBound())
	worker.HandleFunc(mux, cleanUp, func(context.Context, struct{}) error { return nil })
	fmt.Println(mux.Kinds())

	for _, payload := range []string{`{"Path":"/a.png"}`, `{}`, `{"Path":"/slow"}`, `"not an object"`} {
		result, err := mux.ServeTask(context.Background(), &pelton.Task{Kind: "image.resize", Payload: json.RawMessage(payload)})
		fmt.Println(string(result), err)
	}
	// Output:
	// [clean.up image.resize]
	// start image.resize
	// {"Bytes":512} <nil>
	// start image.resize
	//  no path
	// start image.resize
	//  storage is busy
	// start image.resize
	//  decode payload into worker_test.resize: json: cannot unmarshal string into Go value of type worker_test.resize
}

// Only one task at a time works on an account, on whichever worker. The store gets
// the lock's token with every write, so that one which lost the lock without
// knowing can change nothing.
func ExampleLock() {
	type account struct{ ID string }
	bill := pelton.NewKind[account, string]("bill")
	mux := worker.NewMux()
	worker.Handle(mux, bill, func(ctx context.Context, a account) (string, error) {
		lock, err := worker.Lock(ctx, "account/"+a.ID)
		if err != nil {
			return "", err
		}
		defer func() { _ = lock.Unlock() }() // what was lost has ended the lock's Context
		return store(lock.Context(), a.ID, lock.Token())
	})

	// As in a test of yours, without a broker.
	task := &pelton.Task{Kind: "bill", Payload: json.RawMessage(`{"ID":"acme"}`)}
	result, err := mux.ServeTask(worker.WithTask(context.Background(), task), task)
	fmt.Println(string(result), err)
	// Output: "billed acme" <nil>
}

func store(ctx context.Context, id string, _ uint64) (string, error) {
	return "billed " + id, ctx.Err()
}
