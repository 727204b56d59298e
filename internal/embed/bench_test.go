package embed

import (
	"fmt"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// BenchmarkBatch is an atomic batch of 64 messages of 300 bytes whose writes are synced: where
// they are gathered makes the difference.
func BenchmarkBatch(b *testing.B) {
	for _, where := range []string{"disk", "memory"} {
		b.Run(where, func(b *testing.B) {
			srv, err := Start(b.Context(), Config{Dir: filepath.Join(b.TempDir(), "data"), Sync: Sync{Always: true}})
			if err != nil {
				b.Fatal(err)
			}
			defer func() { _ = srv.Shutdown(b.Context()) }()
			nc, err := srv.Connect()
			if err != nil {
				b.Fatal(err)
			}
			defer nc.Close()
			js, err := jetstream.New(nc)
			if err != nil {
				b.Fatal(err)
			}
			if _, err := js.CreateStream(b.Context(), jetstream.StreamConfig{Name: "THINGS", Subjects: []string{"things"}, AllowAtomicPublish: true}); err != nil {
				b.Fatal(err)
			}
			if where == "memory" {
				if srv.memory == "" {
					b.Skip("no file system in memory")
				}
				if err := srv.StageBatches("THINGS"); err != nil {
					b.Fatal(err)
				}
			}
			msg := nats.NewMsg("things")
			msg.Data = make([]byte, 300)
			for batch := 0; b.Loop(); batch++ {
				msg.Header = nats.Header{"Nats-Batch-Id": {fmt.Sprint(batch)}}
				for n := 1; n < 64; n++ {
					msg.Header.Set("Nats-Batch-Sequence", strconv.Itoa(n))
					if err := nc.PublishMsg(msg); err != nil {
						b.Fatal(err)
					}
				}
				msg.Header.Set("Nats-Batch-Sequence", "64")
				msg.Header.Set("Nats-Batch-Commit", "1")
				if _, err := nc.RequestMsgWithContext(b.Context(), msg); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
