package embed

import (
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// BenchmarkStoreBesideSync is how long a write takes, 100 a second, while 12 MB a second are
// written to its stream, which is synced every second: as the server does it by itself, and with what is
// written early. -benchtime 1000x are ten seconds.
func BenchmarkStoreBesideSync(b *testing.B) {
	b.Run("alone", func(b *testing.B) { storeBesideSync(b, false) })
	b.Run("early", func(b *testing.B) { storeBesideSync(b, true) })
}

func storeBesideSync(b *testing.B, early bool) {
	b.Helper()
	cfg, err := Config{Dir: b.TempDir()}.withDefaults()
	if err != nil {
		b.Fatal(err)
	}
	folder, err := openFolder(cfg.Dir)
	if err != nil {
		b.Fatal(err)
	}
	ns, err := run(cfg, folder)
	if err != nil {
		b.Fatal(err)
	}
	defer end(ns)
	nc, err := nats.Connect("", nats.InProcessServer(ns))
	if err != nil {
		b.Fatal(err)
	}
	defer nc.Close()
	if err := store(b.Context(), nc, "one"); err != nil {
		b.Fatal(err)
	}
	js, err := jetstream.New(nc)
	if err != nil {
		b.Fatal(err)
	}
	over, loaded := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(loaded)
		pace := time.NewTicker(5 * time.Millisecond)
		defer pace.Stop()
		for {
			select {
			case <-pace.C:
			case <-over:
				return
			}
			for range 200 {
				_ = nc.Publish("things", make([]byte, 300)) // without a confirmation
			}
		}
	}()
	if early {
		e := &earlyWriter{store: filepath.Join(cfg.Dir, storeName), hand: startWriting}
		done := make(chan struct{})
		go func() {
			defer close(done)
			e.run(b.Context()) // which ends before the cleanups
		}()
		b.Cleanup(func() { <-done })
	}
	took := make([]time.Duration, b.N)
	pace := time.NewTicker(10 * time.Millisecond)
	defer pace.Stop()
	for i := range took {
		<-pace.C
		began := time.Now()
		if _, err := js.Publish(b.Context(), "things", []byte("two")); err != nil {
			b.Fatal(err)
		}
		took[i] = time.Since(began)
	}
	close(over)
	<-loaded
	slices.Sort(took)
	for _, q := range []struct {
		name string
		at   int
	}{{"p50-ms", b.N / 2}, {"p99-ms", b.N * 99 / 100}} {
		b.ReportMetric(float64(took[q.at].Microseconds())/1000, q.name)
	}
}
