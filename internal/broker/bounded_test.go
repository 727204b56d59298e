package broker

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/brokertest"
)

// shortTurns lets turns of bounded lanes change soon.
func shortTurns(b *Broker) {
	b.turnTimes = turnTimes{grace: 50 * time.Millisecond, most: 300 * time.Millisecond, stray: 500 * time.Millisecond}
}

// crowd are workers of a lane in all shards, who count how many tasks they have.
type crowd struct {
	mu       sync.Mutex
	out      int
	peak     int // since the bound is in force
	done     map[pelton.ID]int
	enforced bool
	held     chan *Delivery // those that came before it, which are not done by themselves
	working  sync.WaitGroup
	most     int           // how many they are expected to have at once
	full     chan struct{} // closed when they have, which those that run wait for, for a while
}

func newCrowd(most int) *crowd {
	return &crowd{done: map[pelton.ID]int{}, held: make(chan *Delivery, 3), most: most, full: make(chan struct{})}
}

// countAnew forgets how many they had at once.
func (c *crowd) countAnew() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.peak < c.most {
		close(c.full)
	}
	c.peak, c.full = 0, make(chan struct{})
}

func (c *crowd) take(d *Delivery) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.out++
	if !c.enforced {
		c.held <- d
		return
	}
	full := c.full
	if c.peak < c.most && c.out >= c.most {
		close(full)
	}
	c.peak = max(c.peak, c.out)
	c.working.Go(func() {
		select {
		case <-full:
		case <-time.After(time.Second):
		}
		<-time.After(3 * time.Millisecond) // time for one too many
		c.finish(d)
	})
}

func (c *crowd) finish(d *Delivery) {
	c.mu.Lock()
	c.out--
	c.done[d.Envelope.ID]++
	c.mu.Unlock()
	_ = d.Ack()
}

// takeOne takes one task of each shard.
func (c *crowd) takeOne(t *testing.T, b *Broker, queue string) (stop func()) {
	t.Helper()
	return c.open(t, b, queue, func(p *Puller, _ <-chan struct{}) { _ = p.Stand(1, 30*time.Second) })
}

// serve stands at the lanes until stop. It asks anew every second, as a worker does in the end: in a cluster, a request is
// forgotten if it is faster than the subscription for its answers.
func (c *crowd) serve(t *testing.T, b *Broker, queue string, batch int) (stop func()) {
	t.Helper()
	return c.open(t, b, queue, func(p *Puller, over <-chan struct{}) {
		for again := time.Tick(time.Second); ; {
			_ = p.Stand(batch, time.Second)
			select {
			case <-again:
			case <-over:
				return
			}
		}
	})
}

func (c *crowd) open(t *testing.T, b *Broker, queue string, stand func(*Puller, <-chan struct{})) (stop func()) {
	t.Helper()
	var pullers []*Puller
	var standing sync.WaitGroup
	over := make(chan struct{})
	for shard := range b.Shards() {
		p, err := b.OpenPuller(Lane{queue, pelton.Low, uint8(shard)}, c.take, func(PullEnd) {})
		must(t, err)
		pullers = append(pullers, p)
		standing.Go(func() { stand(p, over) })
	}
	return func() {
		close(over)
		standing.Wait()
		for _, p := range pullers {
			p.Close(context.WithoutCancel(t.Context()))
		}
	}
}

// bound sets max_running, 0 for none.
func bound(t *testing.T, b *Broker, queue string, n int) {
	t.Helper()
	_, err := b.SetQueue(t.Context(), queue, true, func(c *QueueConfig) error {
		c.Settings.MaxRunning = nil
		if n > 0 {
			c.Settings.MaxRunning = map[pelton.Priority]int{pelton.Low: n}
		}
		return nil
	})
	must(t, err)
}

// TestBoundOverShards sets max_running while tasks wait, and are out, in all shards: from then on no more
// than so many are handed out, over all shards, and all are in the end.
func TestBoundOverShards(t *testing.T) {
	t.Parallel()
	for name, most := range map[string]int{"one": 1, "two": 2, "many": 5} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := openShards(t, 3)
			shortTurns(b)
			const each = 8
			for i := range 3 * each {
				must(t, b.Enqueue(t.Context(), inShardOf(uint8(i%3), "q", pelton.Low)))
			}
			c := newCrowd(most)
			stop := c.takeOne(t, b, "q")
			var held []*Delivery
			for range 3 {
				held = append(held, wait(t, c.held, "delivery before the bound"))
			}
			bound(t, b, "q", most)
			c.mu.Lock()
			c.enforced = true
			c.mu.Unlock()
			stop()
			defer c.serve(t, b, "q", 3*each)()
			must(t, b.TendTurns(t.Context()))
			c.mu.Lock()
			if most <= 3 && c.peak > 0 {
				t.Errorf("another one was handed out while 3 were: most %d", most)
			}
			c.mu.Unlock()
			for _, d := range held {
				c.finish(d)
			}
			c.countAnew()
			reaches(t, "all to be done", func() bool {
				must(t, b.TendTurns(t.Context()))
				c.mu.Lock()
				defer c.mu.Unlock()
				return len(c.done) == 3*each
			})
			c.working.Wait()
			if c.peak > most || c.peak < min(most, each) {
				t.Errorf("up to %d were handed out at once, max_running is %d", c.peak, most)
			}
			for id, n := range c.done {
				if n != 1 {
					t.Errorf("task %s was handed out %d times", id, n)
				}
			}
			// In the end new tasks go on at once, in the first shard; without the bound in all of them.
			reaches(t, "the first shard's turn", func() bool {
				must(t, b.TendTurns(t.Context()))
				cfg, err := b.loadQueue(t.Context(), "q")
				must(t, err)
				return !cfg.WaitsForTurn(pelton.Low, 0)
			})
			bound(t, b, "q", 0)
			for shard := range uint8(3) {
				must(t, b.Enqueue(t.Context(), inShardOf(shard, "q", pelton.Low)))
			}
			reaches(t, "tasks of all shards to be done", func() bool {
				c.mu.Lock()
				defer c.mu.Unlock()
				return len(c.done) == 3*each+3
			})
		})
	}
}

// TestBoundSurvivesDeadWorkers holds one task in each shard, and never lets it go: those in paused shards
// are taken back, so that the lane does not stand still for good.
func TestBoundSurvivesDeadWorkers(t *testing.T) {
	t.Parallel()
	b := openShards(t, 2)
	b.cfg.Lease = time.Second
	shortTurns(b)
	var dead []pelton.ID
	for shard := range uint8(2) {
		r := inShardOf(shard, "q", pelton.Low)
		must(t, b.Enqueue(t.Context(), r))
		dead = append(dead, r.ID)
	}
	c := newCrowd(1)
	stop := c.takeOne(t, b, "q")
	for range dead {
		wait(t, c.held, "delivery")
	}
	stop()
	bound(t, b, "q", 1)
	c.mu.Lock()
	c.enforced, c.out = true, 0 // they are dead
	c.mu.Unlock()
	defer c.serve(t, b, "q", 10)()
	reaches(t, "what the dead had to be done", func() bool {
		must(t, b.TendTurns(t.Context()))
		c.mu.Lock()
		defer c.mu.Unlock()
		return len(c.done) == len(dead)
	})
	c.working.Wait()
	if c.peak > 1 {
		t.Errorf("up to %d were handed out at once, max_running is 1", c.peak)
	}
}

func TestNextTurn(t *testing.T) {
	t.Parallel()
	now := time.Now()
	info := func(ready uint64, out int) *jetstream.ConsumerInfo {
		return &jetstream.ConsumerInfo{NumPending: ready, NumAckPending: out, TimeStamp: now}
	}
	for name, test := range map[string]struct {
		infos []*jetstream.ConsumerInfo
		at    uint8
		held  time.Duration
		next  uint8
		move  bool
	}{
		"nothing anywhere":            {infos: []*jetstream.ConsumerInfo{info(0, 0), info(0, 0)}},
		"back to the first":           {infos: []*jetstream.ConsumerInfo{info(0, 0), info(0, 0)}, at: 1, move: true},
		"what runs is waited for":     {infos: []*jetstream.ConsumerInfo{info(5, 0), info(0, 1)}, at: 1},
		"idle, and work elsewhere":    {infos: []*jetstream.ConsumerInfo{info(0, 0), info(0, 0), info(1, 0)}, next: 2, move: true},
		"busy, and work elsewhere":    {infos: []*jetstream.ConsumerInfo{info(9, 2), info(1, 0)}, held: time.Second},
		"busy for long":               {infos: []*jetstream.ConsumerInfo{info(9, 2), info(1, 0)}, held: time.Minute, next: 1, move: true},
		"busy for long, nothing else": {infos: []*jetstream.ConsumerInfo{info(9, 2), info(0, 0)}, held: time.Minute},
		"in turns":                    {infos: []*jetstream.ConsumerInfo{info(1, 0), info(9, 2), info(1, 0)}, at: 1, held: time.Minute, next: 2, move: true},
		"a lane that is not there":    {infos: []*jetstream.ConsumerInfo{nil, info(1, 0)}, next: 1, move: true},
	} {
		next, move := nextTurn(test.infos, turn{test.at, now.Add(-test.held)}, 15*time.Second)
		if next != test.next || move != test.move {
			t.Errorf("%s: %d, %t, want %d, %t", name, next, move, test.next, test.move)
		}
	}
}

// TestShardsOfCluster grows in a cluster that keeps three copies: so do the new shards, and a bound holds over them,
// although a pause takes its time there.
func TestShardsOfCluster(t *testing.T) {
	t.Parallel()
	_, urls := brokertest.StartCluster(t, 3)
	b := openOn(t, brokertest.ConnectTo(t, urls), Config{Replicas: 3})
	shortTurns(b)
	grow(t, b, 3)
	const each = 4
	for shard := range uint8(3) {
		for _, name := range []string{b.tasks(shard), bucketStream(b.state(shard))} {
			if n := streamState(t, b, name).Config.Replicas; n != 3 {
				t.Errorf("stream %s has %d copies", name, n)
			}
		}
		for range each {
			must(t, b.Enqueue(t.Context(), inShardOf(shard, "q", pelton.Low)))
		}
	}
	bound(t, b, "q", 1)
	c := newCrowd(1)
	c.enforced = true
	defer c.serve(t, b, "q", 3*each)()
	deadline := time.After(time.Minute)
	for done := 0; done < 3*each; {
		must(t, b.TendTurns(t.Context()))
		select {
		case <-time.After(50 * time.Millisecond):
		case <-deadline:
			t.Fatalf("%d of %d are done within a minute", done, 3*each)
		}
		c.mu.Lock()
		done = len(c.done)
		c.mu.Unlock()
	}
	c.working.Wait()
	if c.peak != 1 {
		t.Errorf("up to %d were handed out at once, max_running is 1", c.peak)
	}
}
