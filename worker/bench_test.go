package worker_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/admin"
	"github.com/peltonq/pelton/internal/brokertest"
	"github.com/peltonq/pelton/producer"
	"github.com/peltonq/pelton/worker"
)

// BenchmarkDrain works off tasks that are there, with handlers that do nothing: server,
// connection over TCP and worker in one process.
func BenchmarkDrain(b *testing.B) { drain(b, nil, func(int, *pelton.Spec) {}) }

// BenchmarkDrainRate does so with a rate of the queue that never binds.
func BenchmarkDrainRate(b *testing.B) {
	drain(b, nil, func(int, *pelton.Spec) {}, `{"rate":{"limit":1000000,"per":"1s","burst":1000000}}`)
}

// BenchmarkDrainKeys does so with a thousand concurrency keys in turn.
func BenchmarkDrainKeys(b *testing.B) {
	drain(b, nil, func(i int, spec *pelton.Spec) { spec.ConcurrencyKey = strconv.Itoa(i % 1000) })
}

// BenchmarkDrainKind does so with a kind of which as many may run at a time as the worker has slots.
func BenchmarkDrainKind(b *testing.B) {
	drain(b, nil, func(_ int, spec *pelton.Spec) { spec.Kind = "few" })
}

// BenchmarkDrainQueues does so with a hundred queues in turn.
func BenchmarkDrainQueues(b *testing.B) {
	queues := make([]string, 100)
	for i := range queues {
		queues[i] = fmt.Sprintf("q%02d", i)
	}
	drain(b, queues, func(i int, spec *pelton.Spec) { spec.Queue = queues[i%len(queues)] })
}

// drain works off b.N tasks that what has made what they are. No queues are the default one, which
// gets the settings.
func drain(b *testing.B, queues []string, what func(i int, spec *pelton.Spec), settings ...string) {
	b.Helper()
	srv := brokertest.StartServer(b, brokertest.Listening)
	nc := brokertest.Dial(b, srv)
	client, err := producer.New(b.Context(), nc, producer.Config{})
	if err != nil {
		b.Fatal(err)
	}
	defer client.Close()
	operator, err := admin.New(b.Context(), nc, admin.Config{})
	if err != nil {
		b.Fatal(err)
	}
	defer operator.Close()
	for _, patch := range settings {
		if _, err := operator.PatchQueue(b.Context(), "default", []byte(patch)); err != nil {
			b.Fatal(err)
		}
	}
	if _, err := operator.SetLimit(b.Context(), pelton.Limit{Name: "few", Kind: "few", MaxRunning: 64}); err != nil {
		b.Fatal(err)
	}
	payload := json.RawMessage(`{"to":"someone@example.org","subject":"a hundred and twenty-eight bytes of JSON, as in most of these comparisons","n":1234567}`)
	for left := b.N; left > 0; left -= pelton.MaxBatch {
		specs := make([]pelton.Spec, min(left, pelton.MaxBatch))
		for i := range specs {
			specs[i] = pelton.Spec{Kind: "noop", Payload: payload}
			what(left+i, &specs[i])
		}
		if _, err := client.EnqueueMany(b.Context(), specs); err != nil {
			b.Fatal(err)
		}
	}
	var done atomic.Int64
	all := make(chan struct{})
	mux := worker.NewMux()
	for _, kind := range []string{"noop", "few"} {
		mux.Handle(kind, worker.HandlerFunc(func(context.Context, *pelton.Task) (json.RawMessage, error) {
			if done.Add(1) == int64(b.N) {
				close(all)
			}
			return nil, nil
		}))
	}
	w, err := worker.New(brokertest.Dial(b, srv), mux, worker.Config{Concurrency: 64, Queues: queues})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	ended := make(chan error, 1)
	b.ReportAllocs()
	b.ResetTimer()
	before := cpu(b)
	go func() { ended <- w.Run(ctx) }()
	<-all
	b.ReportMetric(float64(cpu(b)-before)/float64(b.N), "cpu-ns/op")
	cancel()
	if err := <-ended; err != nil {
		b.Fatal(err)
	}
}

// cpu is the time that the process has computed: what others take of the machine is not
// in it.
func cpu(b *testing.B) time.Duration {
	b.Helper()
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
