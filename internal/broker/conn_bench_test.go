package broker

import (
	"bytes"
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/brokertest"
)

// BenchmarkWrites tells how fast awaited writes are beside the floor, which is the same
// with nats.go alone. In each round all ways write the same messages, one way after the
// other, so that a busy machine slows them all: "of-floor" is what counts, 1 being as
// fast as the floor. Run it with -benchtime=200x or so.
func BenchmarkWrites(b *testing.B) {
	srv := brokertest.StartServer(b, brokertest.Listening)
	for transport, connect := range map[string]func() (*nats.Conn, error){
		"inprocess": func() (*nats.Conn, error) { return srv.Connect() },
		"tcp":       func() (*nats.Conn, error) { return nats.Connect(srv.ClientURL()) },
	} {
		b.Run(transport, func(b *testing.B) { benchmarkWrites(b, connect) })
	}
}

// benchmarked is one way to write n messages of one subject and have their
// acknowledgements.
type benchmarked struct {
	name  string
	write func(n int) error
}

func benchmarkWrites(b *testing.B, connect func() (*nats.Conn, error)) {
	open := func() *nats.Conn {
		nc, err := connect()
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(nc.Close)
		return nc
	}
	broker, err := Open(b.Context(), open(), Config{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(broker.Close)
	js, err := jetstream.New(open(), jetstream.WithPublishAsyncMaxPending(window))
	if err != nil {
		b.Fatal(err)
	}
	ctx := b.Context()
	e := &Envelope{Meta: aMeta("q", pelton.Normal), Payload: bytes.Repeat([]byte("x"), 128)}
	w, err := broker.readyWrite(nil, e)
	if err != nil {
		b.Fatal(err)
	}
	one := func() error { _, err := broker.do(ctx, w); return err }
	floorOne := func() error {
		_, err := js.PublishMsg(ctx, &nats.Msg{Subject: w.subject, Data: w.data})
		return err
	}
	for _, shape := range []struct {
		name string
		n    int
		ways []benchmarked
	}{
		{"1", 50, []benchmarked{
			{"floor", func(n int) error { return callers(1, n, floorOne) }},
			{"own", func(n int) error { return callers(1, n, one) }},
		}},
		{"64", 2048, []benchmarked{
			{"floor", func(n int) error { return callers(64, n, floorOne) }},
			{"own", func(n int) error { return callers(64, n, one) }},
		}},
		{"pipeline", 1000, []benchmarked{
			{"floor", func(n int) error { return floorPipeline(ctx, js, w, n) }},
			{"own", func(n int) error { return ownPipeline(ctx, broker, w, n) }},
		}},
	} {
		b.Run(shape.name, func(b *testing.B) { compare(b, broker, shape.n, shape.ways) })
	}
}

// compare lets the ways take turns, the first of them being the floor.
func compare(b *testing.B, broker *Broker, n int, ways []benchmarked) {
	took := make([]time.Duration, len(ways))
	for round := range b.N {
		for i := range ways {
			i = (i + round) % len(ways)
			began := time.Now()
			if err := ways[i].write(n); err != nil {
				b.Fatal(err)
			}
			took[i] += time.Since(began)
		}
		if round%50 == 49 { // keeps the stream small
			if err := broker.purge(b.Context(), broker.tasks(0), ""); err != nil {
				b.Fatal(err)
			}
		}
	}
	for i, way := range ways {
		b.ReportMetric(float64(n*b.N)/took[i].Seconds(), way.name+"/s")
		if i > 0 {
			b.ReportMetric(float64(took[0])/float64(took[i]), way.name+"-of-floor")
		}
	}
}

// callers makes n calls, as many at a time.
func callers(callers, n int, call func() error) error {
	var left atomic.Int64
	left.Store(int64(n))
	var failed atomic.Pointer[error]
	var running sync.WaitGroup
	for range callers {
		running.Go(func() {
			for left.Add(-1) >= 0 {
				if err := call(); err != nil {
					failed.Store(&err)
				}
			}
		})
	}
	running.Wait()
	if err := failed.Load(); err != nil {
		return *err
	}
	return nil
}

func floorPipeline(ctx context.Context, js jetstream.JetStream, w write, n int) error {
	futures := make([]jetstream.PubAckFuture, n)
	var err error
	for i := range futures {
		if futures[i], err = js.PublishMsgAsync(&nats.Msg{Subject: w.subject, Data: w.data}); err != nil {
			return err
		}
	}
	for _, future := range futures {
		select {
		case <-future.Ok():
		case err := <-future.Err():
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

func ownPipeline(ctx context.Context, broker *Broker, w write, n int) (err error) {
	broker.pipeline(ctx, n, func(int) bool { return true }, func(int) (write, error) { return w, nil },
		func(_ int, _ uint64, failed error) {
			if failed != nil {
				err = failed
			}
		})
	return err
}
