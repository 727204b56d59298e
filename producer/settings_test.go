package producer_test

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/admin"
	"github.com/peltonq/pelton/internal/brokertest"
	"github.com/peltonq/pelton/producer"
	"github.com/peltonq/pelton/worker"
)

func operator(t *testing.T, nc *nats.Conn) *admin.Client {
	t.Helper()
	client, err := admin.New(t.Context(), nc, admin.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client
}

func set(t *testing.T, client *admin.Client, queue, patch string) {
	t.Helper()
	if _, err := client.PatchQueue(t.Context(), queue, []byte(patch)); err != nil {
		t.Fatal(err)
	}
}

// Task, then kind, then queue, then what is built in.
func TestDefaultsInTheirOrder(t *testing.T) {
	t.Parallel()
	nc := brokertest.Start(t)
	set(t, operator(t, nc), "emails", `{"max_attempts":3,"timeout":"10s","retention":"2h"}`)
	client := open(t, nc) // knows it from the start
	kind := pelton.NewKind[string, string]("k", pelton.WithQueue("emails"), pelton.WithTimeout(20*time.Second))
	task, err := producer.Enqueue(t.Context(), client, kind, "", pelton.WithRetention(time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	if task.Retention != time.Minute || task.Timeout != 20*time.Second || task.MaxAttempts != 3 {
		t.Errorf("task = %+v", task)
	}
	if task := enqueue(t, client, "k"); task.Timeout != pelton.DefaultTimeout || task.MaxAttempts != pelton.DefaultMaxAttempts || task.Retention != pelton.DefaultRetention {
		t.Errorf("of another queue: %+v", task)
	}
	items, err := client.EnqueueMany(t.Context(), []pelton.Spec{{Kind: "k", Queue: "emails"}, {Kind: "k", Queue: "emails", MaxAttempts: 7}})
	if err != nil || items[0].Task.MaxAttempts != 3 || items[0].Task.Timeout != 10*time.Second || items[1].Task.MaxAttempts != 7 {
		t.Errorf("many: %+v, %v", items, err)
	}
}

// A change while the connection was lost is learnt after it.
func TestSettingsOverReconnection(t *testing.T) {
	t.Parallel()
	srv := brokertest.StartServer(t, brokertest.Listening)
	p := newTap(t, srv.ClientURL()[len("nats://"):])
	nc, err := nats.Connect(p.url(), nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond), nats.ReconnectJitter(0, 0))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	client := open(t, nc)
	desk := operator(t, brokertest.Connect(t, srv))
	p.cut()
	eventually(t, "the loss is known", func() bool { return !nc.IsConnected() || nc.Stats().Reconnects > 0 })
	set(t, desk, pelton.DefaultQueue, `{"max_attempts":3}`)
	eventually(t, "the connection is back", nc.IsConnected)
	eventually(t, "the producer follows", func() bool {
		task, err := client.Enqueue(t.Context(), pelton.Spec{Kind: "k"})
		return err == nil && task.MaxAttempts == 3
	})
}

func TestMaxDepth(t *testing.T) {
	t.Parallel()
	nc := brokertest.Start(t)
	desk, client := operator(t, nc), open(t, nc)
	const most = 20
	set(t, desk, pelton.DefaultQueue, `{"max_depth":20}`)
	eventually(t, "the producer knows", func() bool {
		_, err := client.Enqueue(t.Context(), pelton.Spec{Kind: "k"})
		return errors.Is(err, pelton.ErrOverloaded)
	})
	ready := func() uint64 {
		t.Helper()
		q, err := desk.Queue(t.Context(), pelton.DefaultQueue)
		if err != nil {
			t.Fatal(err)
		}
		return q.Ready
	}
	// What the broker shows of the queue follows a moment after what it took.
	eventually(t, "the queue is full", func() bool { return ready() >= most })
	if _, err := desk.Purge(t.Context(), pelton.DefaultQueue, "", ""); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the queue is empty", func() bool { return ready() == 0 })

	// At once, over all priorities: not one more than there is room for. A count that
	// falls into the burst may leave some of it over, for those that come after it.
	eventually(t, "there is room", func() bool {
		_, err := client.Enqueue(t.Context(), pelton.Spec{Kind: "k", Priority: pelton.Critical})
		return err == nil
	})
	var taken, full atomic.Int32
	var enqueuing sync.WaitGroup
	for i := range 3 * most {
		enqueuing.Go(func() {
			switch _, err := client.Enqueue(t.Context(), pelton.Spec{Kind: "k", Priority: pelton.Priorities()[i%4]}); {
			case err == nil:
				taken.Add(1)
			case errors.Is(err, pelton.ErrOverloaded):
				full.Add(1)
			default:
				t.Error(err)
			}
		})
	}
	enqueuing.Wait()
	if taken.Load() > most-1 || taken.Load()+full.Load() != 3*most {
		t.Errorf("%d taken, %d refused", taken.Load(), full.Load())
	}
	eventually(t, "the queue is full again", func() bool {
		_, err := client.Enqueue(t.Context(), pelton.Spec{Kind: "k"})
		if err == nil {
			taken.Add(1)
		}
		if taken.Load() > most-1 {
			t.Fatalf("%d taken", taken.Load())
		}
		return errors.Is(err, pelton.ErrOverloaded) && taken.Load() == most-1
	})
	eventually(t, "the queue shows it", func() bool { return ready() == most })
	// Delayed tasks are taken, other queues are not concerned, and a bad task is bad.
	enqueue(t, client, "k", pelton.WithDelay(time.Hour))
	enqueue(t, client, "k", pelton.WithQueue("other"))
	if _, err := client.Enqueue(t.Context(), pelton.Spec{Kind: " "}); !errors.Is(err, pelton.ErrInvalid) {
		t.Errorf("a bad task = %v, want ErrInvalid", err)
	}
	items, err := client.EnqueueMany(t.Context(), []pelton.Spec{{Kind: "k"}, {Kind: "k", Queue: "other"}, {Kind: "k", Delay: time.Hour}})
	if err != nil || !errors.Is(items[0].Err, pelton.ErrOverloaded) || items[1].Err != nil || items[2].Err != nil {
		t.Errorf("many: %+v, %v", items, err)
	}
	// Nobody is refused any more once there is room, or no bound.
	if _, err := desk.Purge(t.Context(), pelton.DefaultQueue, pelton.Critical, ""); err != nil {
		t.Fatal(err)
	}
	eventually(t, "there is room again", func() bool {
		_, err := client.Enqueue(t.Context(), pelton.Spec{Kind: "k"})
		return err == nil
	})
	set(t, desk, pelton.DefaultQueue, `{"max_depth":null}`)
	eventually(t, "there is no bound", func() bool {
		items, err := client.EnqueueMany(t.Context(), make([]pelton.Spec, 0))
		if err != nil || len(items) != 0 {
			t.Fatal(items, err)
		}
		for range 2 * most {
			if _, err := client.Enqueue(t.Context(), pelton.Spec{Kind: "k"}); err != nil {
				return false
			}
		}
		return true
	})
}

// Workers that keep up let a small queue take many tasks: what counts is what is
// ready, not what came. How often that is counted: TestDepthGateCounts.
func TestMaxDepthWithWorkers(t *testing.T) {
	t.Parallel()
	nc := brokertest.Start(t)
	set(t, operator(t, nc), pelton.DefaultQueue, `{"max_depth":5}`)
	client := open(t, nc)
	mux := worker.NewMux()
	mux.Handle("k", handler(func(context.Context, *pelton.Task) (json.RawMessage, error) { return nil, nil }))
	serve(t, nc, mux, worker.Config{})
	const n = 200
	for taken := 0; taken < n; {
		switch _, err := client.Enqueue(t.Context(), pelton.Spec{Kind: "k"}); {
		case err == nil:
			taken++
		case !errors.Is(err, pelton.ErrOverloaded):
			t.Fatal(err)
		}
	}
}

// A queue that is full takes no new task with keys, but answers a repeat with the
// task that it repeats. Purging it frees the keys of its tasks.
func TestFullQueueAndKeys(t *testing.T) {
	t.Parallel()
	nc := brokertest.Start(t)
	desk, client := operator(t, nc), open(t, nc)
	first := enqueue(t, client, "a", unique("k"), pelton.WithIdempotencyKey("once"))
	set(t, desk, pelton.DefaultQueue, `{"max_depth":1}`)
	eventually(t, "the queue is full", func() bool {
		_, err := client.Enqueue(t.Context(), pelton.Spec{Kind: "k"})
		return errors.Is(err, pelton.ErrOverloaded)
	})
	for _, opts := range [][]pelton.Option{{unique("other")}, {pelton.WithIdempotencyKey("new")}} {
		if _, err := client.Submit(t.Context(), pelton.Spec{Kind: "a"}, opts...); !errors.Is(err, pelton.ErrOverloaded) {
			t.Errorf("a new task = %v, want ErrOverloaded", err)
		}
	}
	again, err := client.Submit(t.Context(), pelton.Spec{Kind: "a"}, unique("k"), pelton.WithIdempotencyKey("once"))
	if err != nil || !again.Replayed || again.Task.ID != first.ID {
		t.Errorf("a repeat = %+v, %v", again, err)
	}
	if _, err := desk.Purge(t.Context(), pelton.DefaultQueue, "", ""); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the key is free and there is room", func() bool {
		_, err := client.Enqueue(t.Context(), pelton.Spec{Kind: "a"}, unique("k"))
		return err == nil
	})
}

// TestMaxDepthOfSeveralProducers is bounded by what each may not know of the others.
func TestMaxDepthOfSeveralProducers(t *testing.T) {
	t.Parallel()
	srv := brokertest.StartServer(t)
	desk := operator(t, brokertest.Connect(t, srv))
	set(t, desk, pelton.DefaultQueue, `{"max_depth":50}`)
	var taken atomic.Int32
	var enqueuing sync.WaitGroup
	const producers = 3
	for range producers {
		client := open(t, brokertest.Connect(t, srv))
		enqueuing.Go(func() {
			for refused := 0; refused < 20; {
				switch _, err := client.Enqueue(t.Context(), pelton.Spec{Kind: "k"}); {
				case err == nil:
					taken.Add(1)
				case errors.Is(err, pelton.ErrOverloaded):
					refused++
				default:
					t.Error(err)
					return
				}
			}
		})
	}
	enqueuing.Wait()
	if n := taken.Load(); n < 50 || n > producers*50 {
		t.Errorf("%d taken with max_depth 50 and %d producers", n, producers)
	}
}

func TestNewWithoutABrokerAndCloseAfterIt(t *testing.T) {
	t.Parallel()
	srv := brokertest.StartServer(t)
	nc := brokertest.Connect(t, srv)
	client := open(t, nc)
	nc.Close()
	if err := quick(t, "Close", func() error { client.Close(); return nil }); err != nil {
		t.Error(err)
	}
	if _, err := producer.New(t.Context(), nc, producer.Config{}); !errors.Is(err, pelton.ErrUnavailable) {
		t.Errorf("New without a connection = %v, want ErrUnavailable", err)
	}
}
