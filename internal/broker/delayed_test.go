package broker

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/brokertest"
)

// A thousand delayed tasks over two seconds: all come, none before its time by the
// broker's clock. How late they are is logged, and measured by bench.
func TestThousandDelayedTasks(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	const n = 1000
	start := time.Now().Add(2 * time.Second)
	records := make([]*Record, n)
	due := make(map[pelton.ID]time.Time, n)
	for i := range records {
		records[i] = delayedUntil("q", start.Add(time.Duration(rand.Int64N(int64(2*time.Second)))))
		due[records[i].ID] = records[i].RunAt
	}
	enqueueAll(t, b, records)
	got := deliveries(t, b, "q", pelton.Low, n)
	var late []time.Duration
	for range n {
		d := wait(t, got, "task")
		must(t, d.Err)
		at, known := due[d.Envelope.ID]
		if !known {
			t.Fatalf("%s came twice", d.Envelope.ID)
		}
		delete(due, d.Envelope.ID)
		by := d.Published.Sub(at)
		if by < 0 {
			t.Errorf("%s came %s early", d.Envelope.ID, -by)
		}
		late = append(late, by)
	}
	slices.Sort(late)
	t.Logf("late by p50 %s, p99 %s, at most %s", late[n/2], late[n*99/100], late[n-1])
	shows(t, b, b.tasks(0), scheduledConsumer("q"), 0)
}

// What fell due while the broker was down comes when it is back, once, and what is due
// later still waits.
func TestDelayedTasksSurviveARestart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	srv := brokertest.StartServer(t, brokertest.In(dir))
	nc := brokertest.Connect(t, srv)
	b := openOn(t, nc, Config{})
	overdue, later := delayedUntil("q", time.Now().Add(1500*time.Millisecond)), delayedUntil("q", time.Now().Add(time.Hour))
	keyed := delayedUntil("q", overdue.RunAt)
	keyed.ConcurrencyKey = "acme"
	keyed.EnterLine()
	enqueueAll(t, b, []*Record{overdue, later, keyed})
	b.Close()
	nc.Close()
	brokertest.Stop(t, srv)
	reaches(t, "the time to pass", func() bool { return time.Now().After(overdue.RunAt) })

	b = openOn(t, brokertest.Connect(t, brokertest.StartServer(t, brokertest.In(dir))), Config{})
	d := wait(t, deliveries(t, b, "q", pelton.Low, 2), "overdue task")
	must(t, d.Err)
	if d.Envelope.ID != overdue.ID || d.Published.Before(overdue.RunAt) {
		t.Errorf("%s came at %s, want %s after %s", d.Envelope.ID, d.Published, overdue.ID, overdue.RunAt)
	}
	line, _ := keyed.waitsIn()
	reaches(t, "the task with a key to take its place", func() bool { return !gone(t, b, b.keyed(0), b.place(0, line, "q")) })
	shows(t, b, b.tasks(0), scheduledConsumer("q"), 1)
	if got := dueIDs(t, b, DueFilter{}, 10); len(got) != 1 || got[0] != later.ID {
		t.Errorf("listed: %s, want %s", got, later.ID)
	}
}
