package broker_test

import (
	"errors"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/broker"
	"github.com/peltonq/pelton/internal/brokertest"
	"github.com/peltonq/pelton/internal/embed"
)

// synced is a broker that syncs every write, and an installation that knows it.
func synced(t *testing.T) (*broker.Broker, *nats.Conn) {
	t.Helper()
	srv := brokertest.StartServer(t, func(cfg *embed.Config) { cfg.Sync = embed.Sync{Always: true} })
	nc := brokertest.Connect(t, srv)
	first := open(t, nc, broker.Config{})
	if err := first.SaveHorizon(t.Context(), false, true); err != nil {
		t.Fatal(err)
	}
	b := open(t, nc, broker.Config{})
	eventually(t, "horizon is known", b.HorizonKnown)
	return b, nc
}

// batches counts the batches that streams have taken from now on.
func batches(t *testing.T, nc *nats.Conn) func() int {
	t.Helper()
	var mu sync.Mutex
	var commits []int
	sub, err := nc.Subscribe(">", func(msg *nats.Msg) {
		if msg.Header.Get("Nats-Batch-Commit") != "" {
			n, _ := strconv.Atoi(msg.Header.Get("Nats-Batch-Sequence"))
			mu.Lock()
			commits = append(commits, n)
			mu.Unlock()
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sub.Unsubscribe() })
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	return func() int {
		mu.Lock()
		defer mu.Unlock()
		if slices.Contains(commits, 1) {
			t.Error("a batch of one")
		}
		return len(commits)
	}
}

// What many callers write at a time is written together, each gets its own answer, and
// the sequences are those that the stream has.
func TestGroupCommit(t *testing.T) {
	t.Parallel()
	b, nc := synced(t)
	enqueued(t, b) // so that the lane is there
	count := batches(t, nc)
	var enqueuing sync.WaitGroup
	var mu sync.Mutex
	ids := map[pelton.ID]int{}
	for i := range 64 {
		enqueuing.Go(func() {
			for range 10 {
				r := newRecord("q", pelton.Normal)
				r.RateKey = strconv.Itoa(i)
				if err := b.Enqueue(t.Context(), r); err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				ids[r.ID] = i
				mu.Unlock()
			}
		})
	}
	enqueuing.Wait()
	if len(ids) != 640 {
		t.Errorf("%d ids", len(ids))
	}
	for id, i := range ids {
		if got, err := b.LoadRecord(t.Context(), id); err != nil || got.RateKey != strconv.Itoa(i) {
			t.Errorf("task %s of caller %d: %+v, %v", id, i, got, err)
		}
	}
	if n := count(); n == 0 || n > 320 {
		t.Errorf("640 tasks came in %d batches", n)
	}
}

// Whoever is connected to a fresh broker before its server has said that it syncs every write
// hears of it all the same.
func TestGroupsOfWhoCameEarly(t *testing.T) {
	t.Parallel()
	srv := brokertest.StartServer(t, func(cfg *embed.Config) { cfg.Sync = embed.Sync{Always: true} })
	nc := brokertest.Connect(t, srv)
	early := open(t, nc, broker.Config{})
	eventually(t, "it is taken for a broker without a horizon", early.HorizonKnown)
	if early.Groups() {
		t.Fatal("writes are grouped before anybody said that they are synced")
	}
	if err := open(t, nc, broker.Config{}).SaveHorizon(t.Context(), false, true); err != nil {
		t.Fatal(err)
	}
	eventually(t, "writes are grouped", early.Groups)
}

// A batch with a write that is refused is taken apart: only that one is refused.
func TestGroupWithAStaleWrite(t *testing.T) {
	t.Parallel()
	b, nc := synced(t)
	var records []*broker.Record
	for range 40 {
		r := newRecord("q", pelton.Normal)
		r.Retention = time.Minute // has a record
		if err := b.CreateRecord(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		records = append(records, r)
	}
	count := batches(t, nc)
	var saving sync.WaitGroup
	errs := make([]error, len(records))
	for i, r := range records {
		if r.State = pelton.Running; i%13 == 5 {
			r.Revision = records[0].Revision // not its own
		}
		saving.Go(func() { errs[i] = b.SaveRecord(t.Context(), r) })
	}
	saving.Wait()
	for i, r := range records {
		stale := i%13 == 5
		got, err := b.LoadRecord(t.Context(), r.ID)
		switch {
		case err != nil:
			t.Fatal(err)
		case errors.Is(errs[i], broker.ErrStale) != stale, !stale && errs[i] != nil:
			t.Errorf("write %d: %v", i, errs[i])
		case !stale && (got.State != pelton.Running || got.Revision != r.Revision):
			t.Errorf("write %d: record is %s at %d, answer was %d", i, got.State, got.Revision, r.Revision)
		case stale && got.State != pelton.Queued:
			t.Errorf("refused write %d was stored", i)
		}
	}
	if count() == 0 {
		t.Error("nothing was written together")
	}
}

// A batch of tasks, some with records, is stored as in any other broker.
func TestGroupedPipeline(t *testing.T) {
	t.Parallel()
	b, nc := synced(t)
	enqueued(t, b)
	count := batches(t, nc)
	var records []*broker.Record
	for i := range 1000 {
		r := newRecord("q", pelton.Normal)
		if i%10 == 0 {
			r.Retention = time.Minute
		}
		records = append(records, r)
	}
	for i, err := range b.EnqueueMany(t.Context(), records) {
		if err != nil {
			t.Fatalf("task %d: %v", i, err)
		}
	}
	for _, r := range records {
		if got, err := b.LoadRecord(t.Context(), r.ID); err != nil || got.Retention != r.Retention {
			t.Fatalf("task %s: %+v, %v", r.ID, got, err)
		}
	}
	if n := count(); n == 0 || n > 100 {
		t.Errorf("1,000 tasks came in %d batches", n)
	}
}

// Without a broker that syncs every write there are no batches.
func TestNoGroupsByDefault(t *testing.T) {
	t.Parallel()
	nc := brokertest.Start(t)
	b := open(t, nc, broker.Config{})
	count := batches(t, nc)
	var enqueuing sync.WaitGroup
	for range 16 {
		enqueuing.Go(func() { enqueued(t, b) })
	}
	enqueuing.Wait()
	if n := count(); n != 0 {
		t.Errorf("%d batches", n)
	}
}

// When the installation is closed, everybody has an answer.
func TestGroupClosed(t *testing.T) {
	t.Parallel()
	b, _ := synced(t)
	enqueued(t, b)
	var enqueuing sync.WaitGroup
	began := make(chan struct{}, 1)
	for range 16 {
		enqueuing.Go(func() {
			for {
				r := newRecord("q", pelton.Normal)
				if err := b.Enqueue(t.Context(), r); err != nil {
					if !errors.Is(err, pelton.ErrClosed) && !errors.Is(err, pelton.ErrUnknownOutcome) && !errors.Is(err, pelton.ErrUnavailable) {
						t.Error(err)
					}
					return
				}
				select {
				case began <- struct{}{}:
				default:
				}
			}
		})
	}
	<-began
	b.Close()
	enqueuing.Wait()
}
