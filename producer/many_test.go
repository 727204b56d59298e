package producer_test

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/broker"
	"github.com/peltonq/pelton/internal/brokertest"
)

// distant is a connection to a broker that is d away: every write of the client
// reaches it that much later, in order.
func distant(t *testing.T, url string, d time.Duration) *nats.Conn {
	t.Helper()
	nc, err := nats.Connect(url, nats.SetCustomDialer(&lateDialer{d: d}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

type lateDialer struct{ d time.Duration }

func (l *lateDialer) Dial(network, address string) (net.Conn, error) {
	conn, err := net.DialTimeout(network, address, patience)
	if err != nil {
		return nil, err
	}
	late := &lateConn{Conn: conn, d: l.d, sent: make(chan lateWrite, 10_000), done: make(chan struct{})}
	go late.run()
	return late, nil
}

type lateWrite struct {
	at   time.Time
	data []byte
}

// lateConn delivers what is written after a while.
type lateConn struct {
	net.Conn

	d    time.Duration
	sent chan lateWrite
	done chan struct{}
	once sync.Once
}

func (c *lateConn) Write(p []byte) (int, error) {
	select {
	case c.sent <- lateWrite{time.Now().Add(c.d), append([]byte(nil), p...)}:
		return len(p), nil
	case <-c.done:
		return 0, net.ErrClosed
	}
}

func (c *lateConn) Close() error {
	c.once.Do(func() { close(c.done) })
	return c.Conn.Close()
}

func (c *lateConn) run() {
	for {
		select {
		case w := <-c.sent:
			<-time.After(time.Until(w.at))
			if _, err := c.Conn.Write(w.data); err != nil {
				return
			}
		case <-c.done:
			return
		}
	}
}

func batchOf(n int, change func(i int, spec *pelton.Spec)) []pelton.Spec {
	specs := make([]pelton.Spec, n)
	for i := range specs {
		specs[i] = pelton.Spec{Kind: "a", Payload: fmt.Appendf(nil, "%d", i)}
		change(i, &specs[i])
	}
	return specs
}

// With 4 ms to the broker, a batch costs each of its tasks a fraction of what it
// costs alone, with every sort of key.
func TestBatchesWithKeysArePipelined(t *testing.T) {
	t.Parallel()
	srv := brokertest.StartServer(t, brokertest.Listening)
	client := open(t, distant(t, srv.ClientURL(), 4*time.Millisecond))
	enqueue(t, client, "a", pelton.WithConcurrencyKey("first")) // what is made once
	for name, key := range map[string]func(i int, spec *pelton.Spec){
		"none":        func(int, *pelton.Spec) {},
		"concurrency": func(i int, s *pelton.Spec) { s.ConcurrencyKey = fmt.Sprint("k", i%50) },
		"idempotency": func(i int, s *pelton.Spec) { s.IdempotencyKey = fmt.Sprint("i", i) },
		"unique":      func(i int, s *pelton.Spec) { s.Unique = &pelton.Unique{Key: fmt.Sprint("u", i)} },
	} {
		const n, alone = 1000, 10
		specs := batchOf(n+alone, key)
		began := time.Now()
		for _, spec := range specs[n:] {
			if _, err := client.Submit(t.Context(), spec); err != nil {
				t.Fatal(err)
			}
		}
		each := time.Since(began) / alone
		began = time.Now()
		items, err := client.EnqueueMany(t.Context(), specs[:n])
		inBatch := time.Since(began) / n
		if err != nil {
			t.Fatal(err)
		}
		for i, item := range items {
			if item.Err != nil {
				t.Fatalf("%s: item %d: %v", name, i, item.Err)
			}
		}
		ratio := float64(each) / float64(inBatch)
		t.Logf("key %s: %s alone, %s in a batch: %.0f times", name, each, inBatch, ratio)
		if ratio < 4 { // one by one it is 1
			t.Errorf("key %s: a task of a batch takes 1/%.1f of the time that it takes alone", name, ratio)
		}
	}
}

// Tasks of a concurrency key run in the order of their batch, whatever other keys
// they have, and items of one key find what those before them did.
func TestBatchesKeepTheOrderOfKeys(t *testing.T) {
	t.Parallel()
	const n, keys = 300, 7
	nc := brokertest.Start(t)
	client := open(t, nc)
	var order []*pelton.Task
	specs := batchOf(n, func(i int, spec *pelton.Spec) {
		spec.ConcurrencyKey = fmt.Sprint("k", i%keys)
		switch {
		case i%100 < 40: // one run of keyed items
			spec.IdempotencyKey = fmt.Sprint("i", i)
		case i%3 == 0:
			spec.Unique = &pelton.Unique{Key: fmt.Sprint("u", i)}
		}
	})
	again := specs[5]
	conflicting := specs[42]
	specs = append(specs, again, conflicting)
	items, err := client.EnqueueMany(t.Context(), specs)
	if err != nil {
		t.Fatal(err)
	}
	for i, item := range items[:n] {
		if item.Err != nil || item.Replayed {
			t.Fatalf("item %d: %+v", i, item)
		}
		order = append(order, item.Task)
	}
	if got := items[n]; got.Err != nil || !got.Replayed || got.Task.ID != items[5].Task.ID {
		t.Errorf("the repeat of item 5: %+v", got)
	}
	if got := items[n+1].Err; specs[42].Unique == nil || got == nil || !strings.Contains(got.Error(), items[42].Task.ID.String()) {
		t.Errorf("another item with the unique key of item 42: %v", got)
	}
	b, err := broker.Open(t.Context(), nc, broker.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	places := map[pelton.ID]int{}
	err = b.Scan(t.Context(), func(e *broker.Envelope) bool { // in the order in which they were taken
		if places[e.ID] == 0 { // else it is a copy, which the repeat published in case there was none
			places[e.ID] = len(places) + 1
		}
		return true
	})
	if err != nil || len(places) != n {
		t.Fatalf("%d places of %d tasks, %v", len(places), n, err)
	}
	for i, task := range order[keys:] {
		if before := order[i]; places[task.ID] < places[before.ID] {
			t.Errorf("item %d stands before item %d of its key", i+keys, i)
		}
	}
}

// Items that turn out to need a record only by the settings of their queue go as they do without
// batches, and so do those behind them; what is wrong with one is its own.
func TestBatchOfPlainTasksMeetsOthers(t *testing.T) {
	t.Parallel()
	nc := brokertest.Start(t)
	client := open(t, nc)
	set(t, operator(t, nc), "short", `{"retention":"1m"}`)
	eventually(t, "the setting is known", func() bool {
		return enqueue(t, client, "a", pelton.WithQueue("short")).Retention == time.Minute
	})
	specs := batchOf(12, func(i int, spec *pelton.Spec) {
		switch i {
		case 3:
			spec.Kind = ""
		case 7, 8:
			spec.Queue = "short"
		case 10, 11:
			spec.Queue = "then" // queues go by their names
		}
	})
	items, err := client.EnqueueMany(t.Context(), specs)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[pelton.ID]bool{}
	for i, item := range items {
		if i == 3 {
			if !errors.Is(item.Err, pelton.ErrInvalid) || item.Task != nil {
				t.Errorf("item without a kind: %+v", item)
			}
			continue
		}
		if item.Err != nil {
			t.Fatalf("item %d: %v", i, item.Err)
		}
		task := item.Task
		if recorded := i == 7 || i == 8; task.ID.Minted() != recorded || recorded != (task.Revision > 0) || seen[task.ID] {
			t.Errorf("item %d: %+v", i, task)
		}
		seen[task.ID] = true
		got, err := client.Get(t.Context(), task.ID)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(task, got); diff != "" {
			t.Errorf("item %d as it was answered, and as it is read (-answered +read):\n%s", i, diff)
		}
	}
}

// The tasks of a batch of several queues are stored queue by queue, in order within each, and answered as they were
// given.
func TestBatchGoesByQueue(t *testing.T) {
	t.Parallel()
	client := open(t, brokertest.Start(t))
	queues := []string{"north", "", "south", pelton.DefaultQueue}
	specs := batchOf(80, func(i int, spec *pelton.Spec) { spec.Queue = queues[i%len(queues)] })
	items, err := client.EnqueueMany(t.Context(), specs)
	if err != nil {
		t.Fatal(err)
	}
	sequences := map[string][]uint64{}
	for i, item := range items {
		if item.Err != nil {
			t.Fatalf("item %d: %v", i, item.Err)
		}
		task, want := item.Task, specs[i].Queue
		if want == "" {
			want = pelton.DefaultQueue
		}
		if task.Queue != want || string(task.Payload) != string(specs[i].Payload) {
			t.Fatalf("item %d is of queue %s with %s, want %s with %s", i, task.Queue, task.Payload, want, specs[i].Payload)
		}
		sequences[task.Queue] = append(sequences[task.Queue], task.ID.Sequence())
	}
	for queue, of := range sequences {
		for i := range of {
			if of[i] != of[0]+uint64(i) {
				t.Errorf("tasks of %s are at %d: not one after the other", queue, of)
				break
			}
		}
	}
}
