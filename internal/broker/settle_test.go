package broker

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/brokertest"
)

// set changes a queue's settings by merge patch.
func set(t *testing.T, b *Broker, queue, patch string) {
	t.Helper()
	_, err := b.SetQueue(t.Context(), queue, true, func(c *QueueConfig) (err error) {
		c.Settings, err = c.Settings.Merge([]byte(patch))
		return err
	})
	must(t, err)
}

func setPaused(t *testing.T, b *Broker, queue string, paused bool, ps ...pelton.Priority) {
	t.Helper()
	_, err := b.SetQueue(t.Context(), queue, false, func(c *QueueConfig) error {
		if paused {
			c.Pause(ps...)
		} else {
			c.Resume(ps...)
		}
		return nil
	})
	must(t, err)
}

func laneInfo(t *testing.T, b *Broker, queue string, p pelton.Priority) *jetstream.ConsumerInfo {
	t.Helper()
	info, err := b.consumer(t.Context(), b.tasks(0), laneConsumer(queue, p))
	must(t, err)
	if info == nil {
		t.Fatalf("no lane %s/%s", queue, p)
	}
	return info
}

// isLane checks what a lane's consumer is.
func isLane(t *testing.T, b *Broker, queue string, p pelton.Priority, want wanted) {
	t.Helper()
	info := laneInfo(t, b, queue, p)
	got := wanted{info.Config.AckWait, info.Config.MaxAckPending, isPaused(info)}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(wanted{})); diff != "" {
		t.Errorf("lane %s/%s (-want +got):\n%s", queue, p, diff)
	}
}

func TestLanesFollowTheirQueue(t *testing.T) {
	t.Parallel()
	nc := brokertest.Start(t)
	b, other := openOn(t, nc, Config{}), openOn(t, nc, Config{Lease: time.Minute})
	set(t, b, "q", `{"max_running":{"low":3,"high":5},"lease":"10s"}`) // before there is a lane
	must(t, other.EnsureLane(t.Context(), Lane{Queue: "q", Priority: pelton.Low}))
	isLane(t, b, "q", pelton.Low, wanted{10 * time.Second, 3, false})
	set(t, b, "q", `{"max_running":{"low":4},"lease":"20s"}`)
	isLane(t, b, "q", pelton.Low, wanted{20 * time.Second, 4, false})
	setPaused(t, b, "q", true, pelton.Priorities()...)
	isLane(t, b, "q", pelton.Low, wanted{20 * time.Second, 4, true})
	// A lane that comes later is all of it from the start.
	must(t, other.EnsureLane(t.Context(), Lane{Queue: "q", Priority: pelton.High}))
	isLane(t, b, "q", pelton.High, wanted{20 * time.Second, 5, true})
	set(t, b, "q", `{"max_running":null}`) // and this does not resume
	isLane(t, b, "q", pelton.Low, wanted{20 * time.Second, -1, true})
	setPaused(t, b, "q", false, pelton.Low)
	isLane(t, b, "q", pelton.Low, wanted{20 * time.Second, -1, false})
	isLane(t, b, "q", pelton.High, wanted{20 * time.Second, -1, true})
	// Without the setting, the lease is that of whoever made the queue.
	set(t, other, "q", `{"lease":null}`)
	isLane(t, b, "q", pelton.Low, wanted{DefaultLease, -1, false})

	q, err := b.Queue(t.Context(), "q")
	must(t, err)
	if q.Paused || q.Priorities[pelton.Low].Paused || !q.Priorities[pelton.High].Paused || !q.Priorities[pelton.Critical].Paused {
		t.Errorf("queue = %+v", q)
	}
}

// A shorter lease reaches the broker a second after it reached the workers.
func TestShorterLeaseComesLast(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	must(t, b.EnsureLane(t.Context(), Lane{Queue: "q", Priority: pelton.Low}))
	changes, stop, err := b.WatchQueues(t.Context(), nil)
	must(t, err)
	defer stop()
	wait(t, changes, "queue")
	wait(t, changes, "end of what was there")
	done := make(chan time.Time, 1)
	go func() {
		set(t, b, "q", `{"lease":"5s","max_running":{"low":2}}`)
		done <- time.Now()
	}()
	if cfg := wait(t, changes, "change"); cfg.Lease() != 5*time.Second {
		t.Errorf("lease = %s", cfg.Lease())
	}
	known := time.Now()
	reaches(t, "the bound", func() bool { return laneInfo(t, b, "q", pelton.Low).Config.MaxAckPending == 2 })
	if lease := laneInfo(t, b, "q", pelton.Low).Config.AckWait; lease != DefaultLease && time.Since(known) < leaseSettle/2 {
		t.Errorf("the broker waits %s at once", lease)
	}
	if late := wait(t, done, "end of the change").Sub(known); late < leaseSettle-100*time.Millisecond || late > 8*time.Second {
		t.Errorf("the change took %s", late)
	}
	isLane(t, b, "q", pelton.Low, wanted{5 * time.Second, 2, false})
}

// Whoever dies between the entry and the consumers leaves lanes that differ. A look
// mends them, and a too long lease only when it is asked to.
func TestSettleWhatACrashLeft(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	must(t, b.EnsureLane(t.Context(), Lane{Queue: "q", Priority: pelton.Low}))
	lane := Lane{Queue: "q", Priority: pelton.Low}
	left := func(change func(*QueueConfig)) {
		t.Helper()
		_, err := b.changeQueue(t.Context(), "q", false, func(c *QueueConfig) error { change(c); return nil })
		must(t, err)
	}
	left(func(c *QueueConfig) {
		c.Settings.MaxRunning, c.Settings.Lease = map[pelton.Priority]int{pelton.Low: 7}, 3*time.Second
		c.Pause(pelton.Low)
	})
	settled, err := b.SettleLane(t.Context(), lane, false)
	if err != nil || settled != (Settled{Lease: 3 * time.Second, Shorten: true}) {
		t.Errorf("settled = %+v, %v", settled, err)
	}
	isLane(t, b, "q", pelton.Low, wanted{DefaultLease, 7, true})
	if settled, err = b.SettleLane(t.Context(), lane, true); err != nil || settled != (Settled{Lease: 3 * time.Second}) {
		t.Errorf("settled = %+v, %v", settled, err)
	}
	isLane(t, b, "q", pelton.Low, wanted{3 * time.Second, 7, true})
	left(func(c *QueueConfig) {
		c.Settings = pelton.QueueSettings{Lease: time.Minute}
		c.Resume(pelton.Low)
	})
	if settled, err = b.SettleLane(t.Context(), lane, false); err != nil || settled != (Settled{Lease: time.Minute}) {
		t.Errorf("settled = %+v, %v", settled, err)
	}
	isLane(t, b, "q", pelton.Low, wanted{time.Minute, -1, false})
	// Repeating a change that changes nothing settles too.
	left(func(c *QueueConfig) { c.Pause(pelton.Low) })
	setPaused(t, b, "q", true, pelton.Low)
	isLane(t, b, "q", pelton.Low, wanted{time.Minute, -1, true})
	// A lane whose consumer somebody deleted is passed over, and comes back right.
	must(t, b.js.DeleteConsumer(t.Context(), b.tasks(0), laneConsumer("q", pelton.Low)))
	set(t, b, "q", `{"max_running":{"low":2}}`)
	must(t, openOn(t, b.conn.nc, Config{}).EnsureLane(t.Context(), Lane{Queue: "q", Priority: pelton.Low}))
	isLane(t, b, "q", pelton.Low, wanted{time.Minute, 2, true})
}

// A lane that was created and never listed, by a process that died, gets what was
// set since when somebody opens it.
func TestOpeningALaneThatACrashLeft(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	must(t, b.createConsumer(t.Context(), b.tasks(0), b.lane(0, "q", pelton.Low, time.Hour)))
	set(t, b, "q", `{"max_running":{"low":2}}`)
	must(t, b.EnsureLane(t.Context(), Lane{Queue: "q", Priority: pelton.Low}))
	// A shorter lease is left to the workers, who need time for it.
	isLane(t, b, "q", pelton.Low, wanted{time.Hour, 2, false})
}

// Changes and openings at once end with all lanes as the entry says.
func TestSettlingAtOnce(t *testing.T) {
	t.Parallel()
	nc := brokertest.Start(t)
	first := openOn(t, nc, Config{})
	for round := range 10 {
		queue := fmt.Sprintf("q%d", round)
		var changing sync.WaitGroup
		for i, p := range pelton.Priorities() {
			b := openOn(t, nc, Config{})
			changing.Go(func() {
				if err := b.EnsureLane(t.Context(), Lane{Queue: queue, Priority: p}); err != nil {
					t.Error(err)
				}
			})
			changing.Go(func() {
				_, err := b.SetQueue(t.Context(), queue, true, func(c *QueueConfig) error {
					c.Settings.MaxRunning = map[pelton.Priority]int{}
					for j, p := range pelton.Priorities() {
						c.Settings.MaxRunning[p] = 10*i + j + 1
					}
					if i%2 == 0 {
						c.Pause(pelton.Priorities()...)
					} else {
						c.Resume(pelton.Priorities()...)
					}
					return nil
				})
				if err != nil {
					t.Error(err)
				}
			})
		}
		changing.Wait()
		cfg, err := first.loadQueue(t.Context(), queue)
		must(t, err)
		if len(cfg.Lanes) != len(pelton.Priorities()) {
			t.Fatalf("lanes %v", cfg.Lanes)
		}
		for _, p := range cfg.Lanes {
			isLane(t, first, queue, p, wanted{DefaultLease, cfg.Settings.MaxRunning[p], cfg.IsPaused(p)})
		}
	}
}

func TestNextSettling(t *testing.T) {
	t.Parallel()
	info := func(lease time.Duration, most int, pause time.Duration) *jetstream.ConsumerInfo {
		return &jetstream.ConsumerInfo{
			Config: jetstream.ConsumerConfig{AckWait: lease, MaxAckPending: most}, Paused: pause > 0, PauseRemaining: pause,
		}
	}
	for _, tc := range []struct {
		name    string
		info    *jetstream.ConsumerInfo
		want    wanted
		shorten bool
		step    settling
	}{
		{"as it should be", info(5, -1, 0), wanted{5, -1, false}, true, settleNothing},
		{"nobody knows the lease", info(5, -1, 0), wanted{0, -1, false}, true, settleNothing},
		{"bound", info(5, -1, 0), wanted{5, 3, false}, false, settleConfig},
		{"no bound", info(5, 3, 0), wanted{5, -1, false}, false, settleConfig},
		{"longer", info(5, -1, 0), wanted{6, -1, false}, false, settleConfig},
		{"shorter, not yet", info(5, -1, 0), wanted{4, -1, false}, false, settleNothing},
		{"shorter", info(5, -1, 0), wanted{4, -1, false}, true, settleConfig},
		{"pause before all else", info(5, -1, 0), wanted{5, 3, true}, false, settlePause},
		{"a short pause for a long one", info(5, -1, time.Hour), wanted{5, -1, true}, false, settlePause},
		{"paused", info(5, -1, pauseFor-time.Hour), wanted{5, -1, true}, false, settleNothing},
		{"bound before it resumes", info(5, -1, pauseFor), wanted{5, 3, false}, false, settleConfig},
		{"resume", info(5, 3, pauseFor), wanted{5, 3, false}, false, settleResume},
		{"resuming", info(5, 3, time.Second), wanted{5, 3, false}, false, settleNothing},
	} {
		if got := nextSettling(tc.info, tc.want, tc.shorten); got != tc.step {
			t.Errorf("%s: %d, want %d", tc.name, got, tc.step)
		}
	}
}

func TestQueueEntryKeepsWhatItDoesNotKnow(t *testing.T) {
	t.Parallel()
	const stored = `{"lanes":["low","urgent"],"paused":["high"],"base_lease":"30s","colour":{"r":1},"settings":{"lease":"1m","shape":[2],"max_depth":0}}`
	c, err := decodeQueue("q", []byte(stored), 7)
	must(t, err)
	if c.Revision != 7 || !c.IsPaused(pelton.High) || c.Lease() != time.Minute || len(c.Lanes) != 2 {
		t.Errorf("read %+v", c)
	}
	c.Resume(pelton.High)
	c.Settings.Lease, c.Settings.MaxDepth = 0, 5
	data, err := c.encode()
	must(t, err)
	if want := `{"base_lease":"30s","colour":{"r":1},"lanes":["low","urgent"],"settings":{"max_depth":5,"shape":[2]}}`; string(data) != want {
		t.Errorf("written %s, want %s", data, want)
	}
	if c.Lease() != 30*time.Second {
		t.Errorf("lease = %s", c.Lease())
	}
	for _, bad := range []string{``, `[]`, `{"lanes":3}`, `{"settings":[]}`, `{"settings":{"lease":"x"}}`, `{"base_lease":"x"}`} {
		if c, err := decodeQueue("q", []byte(bad), 1); !errors.Is(err, ErrMalformed) {
			t.Errorf("%q is %+v, %v", bad, c, err)
		}
	}
	// What older versions wrote.
	if c, err := decodeQueue("q", []byte(`{"lanes":["low"]}`), 1); err != nil || c.Lease() != 0 || c.MaxCrashes() != pelton.DefaultMaxCrashes {
		t.Errorf("%+v, %v", c, err)
	}
}

func TestPauseIsASet(t *testing.T) {
	t.Parallel()
	c := &QueueConfig{}
	c.Pause(pelton.Low, pelton.High)
	c.Pause(pelton.High, pelton.Critical)
	if fmt.Sprint(c.Paused) != "[critical high low]" {
		t.Errorf("paused %v", c.Paused)
	}
	c.Resume(pelton.High, pelton.Normal)
	if fmt.Sprint(c.Paused) != "[critical low]" {
		t.Errorf("paused %v", c.Paused)
	}
}

// A queue whose entry was deleted by hand can be set again.
func TestSetQueueOverADeleteMarker(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	set(t, b, "q", `{"max_depth":1}`)
	must(t, b.config.Delete(t.Context(), "queue.q"))
	if _, err := b.Queue(t.Context(), "q"); !errors.Is(err, pelton.ErrNotFound) {
		t.Errorf("a deleted queue = %v, want ErrNotFound", err)
	}
	if _, err := b.SetQueue(t.Context(), "q", false, func(*QueueConfig) error { return nil }); !errors.Is(err, pelton.ErrNotFound) {
		t.Errorf("set, not created = %v, want ErrNotFound", err)
	}
	set(t, b, "q", `{"max_crashes":2}`)
	q, err := b.Queue(t.Context(), "q")
	if err != nil || q.Settings.MaxDepth != 0 || q.Settings.MaxCrashes != 2 {
		t.Errorf("queue = %+v, %v", q, err)
	}
	b.maxQueues = 1
	_, err = b.SetQueue(t.Context(), "p", true, func(*QueueConfig) error { return nil })
	if !errors.Is(err, pelton.ErrInvalid) {
		t.Errorf("a queue too many = %v, want ErrInvalid", err)
	}
}

func TestSetQueueErrors(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	refuse := errors.New("no")
	if _, err := b.SetQueue(t.Context(), "q", true, func(*QueueConfig) error { return refuse }); !errors.Is(err, refuse) {
		t.Errorf("a change that refuses = %v", err)
	}
	if _, err := b.Queue(t.Context(), "q"); !errors.Is(err, pelton.ErrNotFound) {
		t.Errorf("the refused change left %v", err)
	}
	if _, err := b.SetQueue(t.Context(), "*", true, func(*QueueConfig) error { return nil }); !errors.Is(err, pelton.ErrInvalid) {
		t.Errorf("no name = %v, want ErrInvalid", err)
	}
	// Stored, but cut off before the lanes followed.
	must(t, b.EnsureLane(t.Context(), Lane{Queue: "q", Priority: pelton.Low}))
	ctx, cancel := context.WithCancel(t.Context())
	_, err := b.SetQueue(ctx, "q", true, func(c *QueueConfig) error {
		c.Settings.Lease = time.Second
		go func() {
			for ctx.Err() == nil {
				if cfg, err := b.loadQueue(t.Context(), "q"); err == nil && cfg.Settings.Lease > 0 {
					cancel()
				}
			}
		}()
		return nil
	})
	if !errors.Is(err, pelton.ErrUnknownOutcome) || !strings.Contains(err.Error(), "stored") {
		t.Errorf("cut off = %v, want ErrUnknownOutcome", err)
	}
	cancel()
}
