package broker

import (
	"testing"
	"time"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/brokertest"
)

// TestResumeWakesWhoWaits resumes a lane whose pause, at first, is over when its consumer learns of its end: a pull that
// waits gets its task all the same, long before its time is up.
func TestResumeWakesWhoWaits(t *testing.T) {
	t.Parallel()
	for name, start := range map[string]func(*testing.T) *Broker{
		"one server": func(t *testing.T) *Broker { t.Helper(); return openShards(t, 2) },
		"cluster": func(t *testing.T) *Broker {
			t.Helper()
			_, urls := brokertest.StartCluster(t, 3)
			return openOn(t, brokertest.ConnectTo(t, urls), Config{Replicas: 3})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := start(t)
			b.wakeWithin = 100 * time.Microsecond
			lane := Lane{"q", pelton.Low, 0}
			must(t, b.EnsureLane(t.Context(), lane))
			got := make(chan *Delivery, 2)
			p, err := b.OpenPuller(lane, func(d *Delivery) { got <- d }, func(PullEnd) {})
			must(t, err)
			defer p.Close(t.Context())
			must(t, b.Enqueue(t.Context(), inShardOf(0, "q", pelton.Low)))
			reaches(t, "the lane to be served", func() bool { // a request may be faster than its subscription: see crowd.serve
				must(t, p.Pull(1, 100*time.Millisecond))
				select {
				case d := <-got:
					return d.Ack() == nil
				case <-time.After(200 * time.Millisecond):
					return false
				}
			})
			must(t, p.Stand(5, time.Minute))
			for range 5 {
				set := func(change func(*QueueConfig)) {
					_, err := b.SetQueue(t.Context(), "q", false, func(c *QueueConfig) error { change(c); return nil })
					must(t, err)
				}
				set(func(c *QueueConfig) { c.Pause(pelton.Low) })
				must(t, b.Enqueue(t.Context(), inShardOf(0, "q", pelton.Low)))
				set(func(c *QueueConfig) { c.Resume(pelton.Low) })
				must(t, wait(t, got, "the task of a resumed lane").Ack())
			}
		})
	}
}
