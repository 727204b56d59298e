package broker

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/brokertest"
)

// BenchmarkList is a page of 50, beside 20,000 tasks: of what lies side by side, of what
// is one task in a hundred, and of what is not there, where a call reads all that it may.
func BenchmarkList(b *testing.B) {
	broker := openBench(b, brokertest.Start(b))
	for i := range 20_000 {
		r := NewRecord(pelton.NewID(time.Now(), 0), pelton.Spec{Kind: "k", Queue: "q", Priority: pelton.Normal, Retention: time.Hour}, time.Now())
		r.State, r.FinishedAt = pelton.Succeeded, time.Now()
		if i%100 == 0 {
			r.State = pelton.Cancelled
		}
		if err := broker.CreateRecord(b.Context(), r); err != nil {
			b.Fatal(err)
		}
		ready := NewRecord(pelton.NewID(time.Now(), 0), pelton.Spec{Kind: "k", Queue: "q", Priority: pelton.Normal, Retention: time.Hour}, time.Now())
		if i%100 == 0 {
			ready.Queue = "rare"
		}
		if err := broker.enqueueLocated(b.Context(), ready); err != nil {
			b.Fatal(err)
		}
	}
	for name, f := range map[string]ListFilter{
		"all": {}, "queued": {State: pelton.Queued}, "queued-rare": {State: pelton.Queued, Queue: "rare"},
		"succeeded": {State: pelton.Succeeded}, "cancelled-rare": {State: pelton.Cancelled}, "expired-none": {State: pelton.Expired},
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				n := 0
				if _, err := broker.EachListed(b.Context(), f, "", func(*Record) bool {
					n++
					return n <= 50
				}); err != nil {
					b.Fatal(err)
				}
				b.ReportMetric(float64(min(n, 50)), "tasks")
			}
		})
	}
}

func openBench(b *testing.B, nc *nats.Conn) *Broker {
	b.Helper()
	broker, err := Open(b.Context(), nc, Config{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(broker.Close)
	for _, queue := range []string{"q", "rare"} {
		if err := broker.EnsureLane(b.Context(), Lane{Queue: queue, Priority: pelton.Normal}); err != nil {
			b.Fatal(err)
		}
	}
	return broker
}
