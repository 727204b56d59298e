package broker

import (
	"fmt"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/brokertest"
)

// BenchmarkReadFinished reads tasks that succeeded, each once in turn, by eight callers over TCP: alone in an entry of
// the bucket, and in a page as full as can be.
func BenchmarkReadFinished(b *testing.B) {
	for _, payload := range []int{128, mostPaged} {
		for _, together := range []bool{false, true} {
			b.Run(fmt.Sprintf("payload=%d,paged=%t", payload, together), func(b *testing.B) {
				srv := brokertest.StartServer(b, brokertest.Listening)
				nc := brokertest.Dial(b, srv, nats.NoReconnect())
				broker, err := Open(b.Context(), nc, Config{})
				if err != nil {
					b.Fatal(err)
				}
				defer broker.Close()
				const n = 16 * segmentSize
				records := make([]*Record, n)
				for i := range records {
					records[i] = aRecord("q", pelton.Normal)
					records[i].Payload = []byte(`"` + strings.Repeat("x", payload-2) + `"`)
					if err := broker.Enqueue(b.Context(), records[i]); err != nil {
						b.Fatal(err)
					}
					records[i] = successOf(records[i], "1")
					if together {
						continue
					}
					if err := broker.SaveRecord(b.Context(), records[i]); err != nil {
						b.Fatal(err)
					}
				}
				if together {
					for _, err := range succeedTogether(b, broker, records) {
						if err != nil {
							b.Fatal(err)
						}
					}
				}
				b.ResetTimer()
				b.SetParallelism(4)
				b.RunParallel(func(pb *testing.PB) {
					for i := 0; pb.Next(); i = (i + 37) % n {
						if _, err := broker.ReadRecord(b.Context(), records[i].ID); err != nil {
							b.Error(err)
							return
						}
					}
				})
			})
		}
	}
}
