package broker

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/brokertest"
)

// TestReadyCountsWhatWasAcknowledged enqueues from several sides at once: no count
// misses a task whose enqueuing was over when the count began.
func TestReadyCountsWhatWasAcknowledged(t *testing.T) {
	t.Parallel()
	srv := brokertest.StartServer(t)
	var over atomic.Uint64
	var enqueuing sync.WaitGroup
	const each = 200
	for _, p := range pelton.Priorities() {
		b := openOn(t, brokertest.Connect(t, srv), Config{})
		enqueuing.Go(func() {
			for range each {
				if err := b.Enqueue(t.Context(), aRecord("q", p)); err != nil {
					t.Error(err)
					return
				}
				least := over.Add(1)
				if n, err := b.Ready(t.Context(), "q"); err != nil || n < least {
					t.Errorf("%d ready, %v; %d were enqueued", n, err, least)
				}
			}
		})
	}
	enqueuing.Wait()
	b := openOn(t, brokertest.Connect(t, srv), Config{})
	if n, err := b.Ready(t.Context(), "q"); err != nil || n != 4*each {
		t.Errorf("%d ready in four lanes, %v", n, err)
	}
	if n, err := b.Ready(t.Context(), "other"); err != nil || n != 0 {
		t.Errorf("%d ready in a queue that is not there, %v", n, err)
	}
}

// TestReadyIsWithoutWhatIsOut has tasks handed out.
func TestReadyIsWithoutWhatIsOut(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	for range 5 {
		must(t, b.Enqueue(t.Context(), aRecord("q", pelton.Low)))
	}
	must(t, b.EnsureScheduled(t.Context(), Lane{Queue: "q", Priority: pelton.Low})) // other subjects of the queue
	taken := make(chan *Delivery, 10)
	puller, err := b.OpenPuller(Lane{Queue: "q", Priority: pelton.Low}, func(d *Delivery) { taken <- d }, func(PullEnd) {})
	must(t, err)
	defer puller.Close(t.Context())
	for out := range uint64(2) {
		must(t, puller.Pull(1, 10*time.Second))
		wait(t, taken, "delivery")
		if n, err := b.Ready(t.Context(), "q"); err != nil || n != 4-out {
			t.Errorf("%d ready with %d out, %v", n, out+1, err)
		}
	}
}
