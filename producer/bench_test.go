package producer_test

import (
	"context"
	"encoding/json"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/brokertest"
	"github.com/peltonq/pelton/producer"
	"github.com/peltonq/pelton/worker"
)

// What the benchmarks enqueue: 128 bytes of JSON.
const benchPayload = `{"to":"someone@example.org","subject":"a hundred and twenty-eight bytes of JSON, as in most of these comparisons","n":1234567}`

func benchSpec() pelton.Spec {
	return pelton.Spec{Kind: "noop", Payload: json.RawMessage(benchPayload)}
}

// BenchmarkEnqueue is one of the plain tasks that 64 goroutines enqueue at a time, each
// awaited, with the server in the same process. Allocations are the server's, too.
func BenchmarkEnqueue(b *testing.B) {
	const callers = 64
	client := open(b, brokertest.Start(b))
	var left atomic.Int64
	left.Store(int64(b.N))
	var running sync.WaitGroup
	b.ReportAllocs()
	b.ResetTimer()
	for range callers {
		running.Go(func() {
			for left.Add(-1) >= 0 {
				if _, err := client.Enqueue(b.Context(), benchSpec()); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	running.Wait()
}

// BenchmarkEnqueueMany is one call with 1,000 plain tasks, with the server in the same
// process.
func BenchmarkEnqueueMany(b *testing.B) {
	client := open(b, brokertest.Start(b))
	specs := thousand()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := client.EnqueueMany(b.Context(), specs); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkGetWaiting reads plain tasks that wait, which have no record but a message:
// a thousand in turn, so that none is read often enough to be kept in memory.
func BenchmarkGetWaiting(b *testing.B) {
	client := open(b, brokertest.Start(b))
	benchmarkGet(b, client, enqueueThousand(b, client), pelton.Queued)
}

// BenchmarkGetFinished reads the records of tasks that a worker has finished, a thousand
// in turn.
func BenchmarkGetFinished(b *testing.B) {
	nc := brokertest.Start(b)
	client := open(b, nc)
	ids := enqueueThousand(b, client)
	mux := worker.NewMux()
	mux.Handle("noop", handler(func(context.Context, *pelton.Task) (json.RawMessage, error) { return nil, nil }))
	w, err := worker.New(nc, mux, worker.Config{Concurrency: 64})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	for _, id := range ids {
		if _, err := client.Wait(b.Context(), id); err != nil {
			b.Fatal(err)
		}
	}
	cancel()
	if err := <-ended; err != nil {
		b.Fatal(err)
	}
	benchmarkGet(b, client, ids, pelton.Succeeded)
}

func thousand() []pelton.Spec {
	specs := make([]pelton.Spec, 1000)
	for i := range specs {
		specs[i] = benchSpec()
	}
	return specs
}

func enqueueThousand(b *testing.B, client *producer.Client) []pelton.ID {
	b.Helper()
	results, err := client.EnqueueMany(b.Context(), thousand())
	if err != nil {
		b.Fatal(err)
	}
	ids := make([]pelton.ID, len(results))
	for i, r := range results {
		if r.Err != nil {
			b.Fatal(r.Err)
		}
		ids[i] = r.Task.ID
	}
	return ids
}

// benchmarkGet reads the tasks in turn, which are all in the state.
func benchmarkGet(b *testing.B, client *producer.Client, ids []pelton.ID, state pelton.State) {
	b.Helper()
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		task, err := client.Get(b.Context(), ids[i%len(ids)])
		if err != nil {
			b.Fatal(err)
		}
		if task.State != state {
			b.Fatalf("task %s is %s, want %s", task.ID, task.State, state)
		}
	}
}
