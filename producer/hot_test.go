package producer_test

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/brokertest"
	"github.com/peltonq/pelton/producer"
)

// countReads counts what is read from the streams of tasks and records from now on.
func countReads(t *testing.T, nc *nats.Conn) *atomic.Int64 {
	t.Helper()
	var n atomic.Int64
	sub, err := nc.Subscribe("$JS.API.DIRECT.GET.>", func(*nats.Msg) { n.Add(1) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sub.Unsubscribe() })
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	return &n
}

// poll reads a task with many callers until each has read it n times, or saw it over.
func poll(t *testing.T, client *producer.Client, id pelton.ID, n int) (reads int64) {
	t.Helper()
	var polling sync.WaitGroup
	var all atomic.Int64
	for range 32 {
		polling.Go(func() {
			for range n {
				if _, err := client.Get(t.Context(), id); err != nil {
					t.Error(err)
					return
				}
				all.Add(1)
			}
		})
	}
	polling.Wait()
	return all.Load()
}

// However many ask for a task, the broker is asked a few times: to begin with, after a
// change, and once a second.
func TestHotTask(t *testing.T) {
	t.Parallel()
	srv := brokertest.StartServer(t)
	client, other := open(t, brokertest.Connect(t, srv)), open(t, brokertest.Connect(t, srv))
	for name, task := range map[string]*pelton.Task{
		"without a record": enqueue(t, client, "k"),
		"delayed":          enqueue(t, client, "k", pelton.WithDelay(time.Hour)),
	} {
		poll(t, client, task.ID, 20) // to get it hot
		reads := countReads(t, brokertest.Connect(t, srv))
		began := time.Now()
		polls := poll(t, client, task.ID, 1000)
		if most := 20 + 4*int64(time.Since(began)/time.Second); reads.Load() > most {
			t.Errorf("%s: %d polls were %d reads, more than %d", name, polls, reads.Load(), most)
		}
		if _, err := other.Cancel(t.Context(), task.ID); err != nil {
			t.Fatal(err)
		}
		eventually(t, name+" is seen to be cancelled", func() bool { return get(t, client, task.ID).State == pelton.Cancelled })
		poll(t, client, task.ID, 20)
		if retried, err := client.Retry(t.Context(), task.ID); err != nil || retried.State != pelton.Queued {
			t.Fatalf("%s: Retry = %+v, %v", name, retried, err)
		}
		if got := get(t, client, task.ID); got.State != pelton.Queued {
			t.Errorf("%s: %s after its retry", name, got.State)
		}
	}
}

// A change made through a client is in every later read through it, also while others
// read all the time.
func TestHotTaskOwnChange(t *testing.T) {
	t.Parallel()
	client := open(t, brokertest.Start(t))
	for range 20 {
		task := enqueue(t, client, "k")
		stop := make(chan struct{})
		var polling sync.WaitGroup
		for range 8 {
			polling.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					if _, err := client.Get(t.Context(), task.ID); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		poll(t, client, task.ID, 20)
		if _, err := client.Cancel(t.Context(), task.ID); err != nil {
			t.Fatal(err)
		}
		for range 50 {
			if got := get(t, client, task.ID); got.State != pelton.Cancelled {
				t.Fatalf("%s after it was cancelled", got.State)
			}
		}
		close(stop)
		polling.Wait()
	}
}
