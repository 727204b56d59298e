package chaos_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/chaos/check"
	"github.com/peltonq/pelton/chaos/history"
	"github.com/peltonq/pelton/internal/brokertest"
	"github.com/peltonq/pelton/internal/failpoint"
	"github.com/peltonq/pelton/internal/freeport"
	"github.com/peltonq/pelton/scheduler"
	"github.com/peltonq/pelton/worker"
)

// clockwork is a broker, three servers that fire the ticks of a schedule, and a worker
// that writes down what it runs.
type clockwork struct {
	*suite
	url      string
	client   *scheduler.Client
	replicas []*replica
	deaths   *points

	mu  sync.Mutex
	ran map[time.Time]int
}

// replica is a server of which one dies at a tick, and comes back.
type replica struct {
	name   string
	env    []string
	doomed bool
	life   int
	point  failpoint.Point
	p      *process
}

// newClockwork starts it. The first server dies at one gap of a tick after the other,
// from the given one on; env is of the last one.
func newClockwork(t *testing.T, from int, env ...string) *clockwork {
	t.Helper()
	seed, err := theSeed()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "pelton-chaos-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("PELTON_CHAOS_SEED=%d; history and logs are in %s", seed, dir)
			return
		}
		_ = os.RemoveAll(dir)
	})
	c := &clockwork{suite: &suite{T: t, profile: theProfile(), dir: dir, rand: rand.New(rand.NewPCG(seed, 9))}, ran: map[time.Time]int{}}
	if c.bin, err = instrumented(); err != nil {
		t.Fatal(err)
	}
	c.log = c.actor("nemesis")
	srv := brokertest.StartServer(t, brokertest.Listening, brokertest.WithToken(token))
	c.url = srv.ClientURL()
	nc := brokertest.Connect(t, srv, nats.Token(token))
	if c.client, err = scheduler.New(t.Context(), nc, scheduler.Config{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.client.Close)
	c.work(nc)

	gaps := failpoint.OfTicks()
	c.deaths = newPoints(c.rand, deathsAtTicks(c.profile), slices.Concat(gaps[from:], gaps[:from])...)
	c.replicas = []*replica{{name: "doomed", doomed: true}, {name: "steady"}, {name: "other", env: env}}
	for _, r := range c.replicas {
		c.launch(r)
	}
	t.Cleanup(func() {
		for _, r := range c.replicas {
			if err := r.p.signal(syscall.SIGKILL); err != nil {
				t.Error(err)
			}
			<-r.p.done
		}
	})
	for _, r := range c.replicas {
		c.eventually(r.name+" serves", 30*time.Second, func() bool { return r.p.ended() || r.p.says("ready") })
	}
	return c
}

func (c *clockwork) launch(r *replica) {
	c.Helper()
	r.life++
	env := r.env
	if r.doomed {
		point, _, found := c.deaths.take(r.point)
		if r.point = point; found {
			env = append(slices.Clone(env), fmt.Sprintf("%s=%s:1", failpoint.EnvPoint, point))
		}
	}
	r.p = c.suite.launch(fmt.Sprintf("%s.%d", r.name, r.life), env, c.bin.pelton,
		"serve", "--addr", freeport.Addr(c.suite), "--nats", c.url, "--nats-token", token)
}

// mind replaces a server that died at its gap.
func (c *clockwork) mind() {
	c.Helper()
	for _, r := range c.replicas {
		if !r.p.ended() {
			continue
		}
		if r.p.code != failpoint.ExitCode || !r.doomed {
			c.Fatalf("%s ended with %d by itself, see %s", r.name, r.p.code, r.p.log)
		}
		c.fault(history.FaultBegin, string(r.point), r.name)
		c.deaths.hit(r.point)
		c.fault(history.FaultEnd, string(r.point), r.name)
		c.launch(r)
	}
}

// work runs a worker whose handler writes down which tick it runs.
func (c *clockwork) work(nc *nats.Conn) {
	c.Helper()
	log := c.actor("worker")
	mux := worker.NewMux()
	mux.Handle("chaos.tick", worker.HandlerFunc(func(_ context.Context, task *pelton.Task) (json.RawMessage, error) {
		c.write(log, history.Event{Kind: history.TickRun, Task: task.ID, Schedule: task.Schedule.Name, Tick: task.Schedule.Tick})
		c.mu.Lock()
		defer c.mu.Unlock()
		c.ran[task.Schedule.Tick]++
		return nil, nil
	}))
	w, err := worker.New(nc, mux, worker.Config{Concurrency: 4})
	if err != nil {
		c.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	c.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			c.Error(err)
		}
	})
}

// tick makes a schedule with so many ticks and waits until all have run, as long as
// that may take. Meanwhile servers die.
func (c *clockwork) tick(n int, every time.Duration) {
	c.Helper()
	first := time.Now().Truncate(time.Second).Add(2 * time.Second)
	last := first.Add(time.Duration(n-1) * every)
	_, _, err := c.client.Put(c.Context(), pelton.Schedule{
		Name: "s", Cron: "@every " + pelton.FormatDuration(every), StartsAt: first, EndsAt: last, Task: pelton.Spec{Kind: "chaos.tick"},
	})
	if err != nil {
		c.Fatal(err)
	}
	for i := range n {
		c.write(c.log, history.Event{Kind: history.TickDue, Schedule: "s", Tick: first.Add(time.Duration(i) * every).UTC()})
	}
	for end := last.Add(8 * time.Second); time.Now().Before(end); c.pause(20 * time.Millisecond) {
		c.mind()
		c.mu.Lock()
		over := len(c.ran) >= n
		c.mu.Unlock()
		if over && time.Now().After(last.Add(3*time.Second)) { // a second task would have come
			break
		}
	}
}

// examine says what the history breaks.
func (c *clockwork) examine() check.Report {
	c.Helper()
	events, _, err := history.ReadDir(c.dir)
	if err != nil {
		c.Fatal(err)
	}
	var worst time.Duration
	for _, e := range events {
		if e.Kind == history.TickRun {
			worst = max(worst, e.Wall.Sub(e.Tick))
		}
	}
	report := check.Check(events, check.Config{Lease: c.lease})
	c.Logf("%d ticks ran, the latest %s late; deaths: %v", len(c.ran), worst, report.Counts.Faults)
	return report
}

// ticksOf is how many ticks a run has, and how far they are apart.
func ticksOf(p profile) (n int, every time.Duration) {
	if p.long {
		return 60, 2 * time.Second
	}
	return 20, time.Second
}

// deathsAtTicks is how often each gap is died at, if there is the time.
func deathsAtTicks(p profile) int {
	if p.long {
		return 3
	}
	return 1
}

// Three servers, of which one dies at its tick, again and again, in every gap between
// two writes: each tick has one task, none is early, none is more than 5 s late. The
// same with the clock of one of them an hour off, either way.
func TestTicks(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	died := map[failpoint.Point]int{}
	t.Cleanup(func() {
		if t.Failed() {
			return
		}
		for _, gap := range failpoint.OfTicks() { // a short run has time for some; all together for all
			if died[gap] == 0 {
				t.Errorf("nobody died at %s", gap)
			}
		}
	})
	for name, tt := range map[string]struct {
		from int // gap
		env  []string
	}{
		"clocks agree":       {0, nil},
		"one clock is ahead": {2, []string{failpoint.EnvClock + "=1h"}},
		"one clock is late":  {4, []string{failpoint.EnvClock + "=-1h"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newClockwork(t, tt.from, tt.env...)
			c.tick(ticksOf(c.profile))
			report := c.examine()
			for _, v := range report.Violations {
				t.Errorf("%s\n%s", v, excerpt(v.Events))
			}
			mu.Lock()
			defer mu.Unlock()
			for gap, n := range report.Counts.Faults {
				died[failpoint.Point(gap)] += n
			}
		})
	}
}

// The suite notices a server that goes by its own clock.
func TestTicksByAnotherClock(t *testing.T) {
	t.Parallel()
	c := newClockwork(t, 0, failpoint.EnvClock+"=1h", failpoint.EnvBroken+"="+string(failpoint.OwnClock))
	c.tick(8, time.Second)
	report := c.examine()
	if !slices.ContainsFunc(report.Violations, func(v check.Violation) bool { return v.Rule == "ticks" }) {
		t.Error("nobody noticed that a server went by its own clock")
	}
}
