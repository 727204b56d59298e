package broker

import (
	"errors"
	"testing"
	"time"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/brokertest"
)

// BenchmarkDueIndex tells what the due index adds to enqueuing delayed tasks, alone and
// in batches of 100: the two ways take turns, so that a busy machine slows both, and
// the ratio is what counts.
func BenchmarkDueIndex(b *testing.B) {
	broker, err := Open(b.Context(), brokertest.Start(b), Config{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(broker.Close)
	ctx := b.Context()
	if err := broker.EnsureScheduled(ctx, Lane{Queue: "q", Priority: pelton.Low}); err != nil {
		b.Fatal(err)
	}
	enqueue := func(records []*Record) error {
		if len(records) == 1 {
			return broker.Enqueue(ctx, records[0])
		}
		return errors.Join(broker.EnqueueMany(ctx, records)...)
	}
	for name, n := range map[string]int{"one": 1, "batch": 100} {
		b.Run(name, func(b *testing.B) {
			var took [2]time.Duration
			for i := range 2 * b.N {
				records := make([]*Record, n)
				for j := range records {
					records[j] = delayedUntil("q", time.Now().Add(24*time.Hour))
				}
				broker.noDueIndex = i%2 == 0
				began := time.Now()
				if err := enqueue(records); err != nil {
					b.Fatal(err)
				}
				took[i%2] += time.Since(began)
			}
			b.ReportMetric(float64(took[1])/float64(took[0]), "times")
		})
	}
}
