package admin

import (
	"context"
	"log/slog"
	"time"

	"github.com/peltonq/pelton/internal/broker"
)

const (
	// sweepEvery and sweepBudget bound what the sweep costs: at most 100 schedules,
	// 100 records and 100 unique keys a second, under 2 % of a core without keys, also
	// beside a million waiting tasks (docs/performance.md). A round over a million
	// records takes under three hours.
	sweepEvery  = time.Second
	sweepBudget = 100
	// turnsEvery is how many steps are from one look after the turns of bounded lanes to the next.
	turnsEvery = 3
)

// SweepStep is what one step of the sweep cost and did.
type SweepStep struct {
	Looked   int // messages and records read
	Repaired int
	Took     time.Duration
}

// Sweep repairs, until ctx ends, what crashes between two writes left behind and
// redelivery does not: waiting tasks without a message, failed ones without a dead
// letter, schedules that the broker forgot, unique keys that nobody holds, turns that
// nobody gave back. Any number of processes may do so at once. Repairs are logged,
// and show is told of each step, for metrics.
func (c *Client) Sweep(ctx context.Context, log *slog.Logger, show func(SweepStep)) {
	sweeper := c.b.NewSweeper()
	ticker := time.NewTicker(sweepEvery)
	defer ticker.Stop()
	var total broker.Swept
	for step := 1; ; step++ {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		if step%turnsEvery == 0 {
			if err := c.b.TendTurns(ctx); err != nil && ctx.Err() == nil {
				log.Debug("turns of bounded lanes not looked after", "error", err)
			}
		}
		began := time.Now()
		swept, err := sweeper.Step(ctx, sweepBudget)
		took := time.Since(began)
		total = total.Plus(swept)
		show(SweepStep{Looked: swept.Looked, Repaired: swept.Repaired(), Took: took})
		if err != nil && ctx.Err() == nil {
			log.Debug("sweep interrupted", "error", err) // it goes on where it was
		}
		if swept.Repaired() > 0 {
			log.Warn("sweep repaired", "overdue", swept.Overdue, "letters", swept.Letters, "orphans", swept.Orphans, "lost", swept.Lost, "keys", swept.Keys, "turns", swept.Turns,
				"looked", total.Looked, "took", took.String())
		}
	}
}

// RestoreLanes gives every lane that lost its consumer a new one. Call it when the
// broker has come up after a power cut.
func (c *Client) RestoreLanes(ctx context.Context) error { return c.b.RestoreLanes(ctx) }

// GroupedStreams are the streams to which writes go in batches that need not be whole after a
// crash of the broker, where that syncs every write.
func (c *Client) GroupedStreams() []string { return c.b.GroupedStreams() }

// NoteStart tells workers that the broker in this process has started, after an unclean
// stop or not, and whether it syncs every write. Until it did, they look up every task
// that they are handed. Errors: pelton.ErrUnavailable.
func (c *Client) NoteStart(ctx context.Context, unclean, always bool) error {
	return c.b.SaveHorizon(ctx, unclean, always)
}

// NotePages is what NoteStart says of pages, for servers with a broker elsewhere: that they read successes which were
// written together. Errors: pelton.ErrUnavailable.
func (c *Client) NotePages(ctx context.Context) error { return c.b.SavePages(ctx) }

// Reconnected gives a channel that receives after each reconnection to NATS; stop ends
// it.
func (c *Client) Reconnected() (ch <-chan struct{}, stop func()) { return c.b.Reconnected() }
