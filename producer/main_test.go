package producer_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/broker"
	"github.com/peltonq/pelton/producer"
	"github.com/peltonq/pelton/worker"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds what a test waits for; nothing should come near it.
const patience = 20 * time.Second

func open(t testing.TB, nc *nats.Conn) *producer.Client {
	t.Helper()
	client, err := producer.New(t.Context(), nc, producer.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client
}

func enqueue(t *testing.T, client *producer.Client, kind string, opts ...pelton.Option) *pelton.Task {
	t.Helper()
	task, err := client.Enqueue(t.Context(), pelton.Spec{Kind: kind}, opts...)
	if err != nil {
		t.Fatal(err)
	}
	return task
}

func get(t *testing.T, client *producer.Client, id pelton.ID) *pelton.Task {
	t.Helper()
	task, err := client.Get(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return task
}

func wait(t *testing.T, client *producer.Client, id pelton.ID) *pelton.Task {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	task, err := client.Wait(ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	return task
}

// serve runs a worker until the test ends or stop is called.
func serve(t *testing.T, nc *nats.Conn, mux *worker.Mux, cfg worker.Config) (stop func() error) {
	t.Helper()
	w, err := worker.New(nc, mux, cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	stop = sync.OnceValue(func() error {
		cancel()
		return <-ended
	})
	t.Cleanup(func() { _ = stop() })
	return stop
}

func handler(fn func(ctx context.Context, task *pelton.Task) (json.RawMessage, error)) worker.Handler {
	return worker.HandlerFunc(fn)
}

// below opens the installation below the client.
func below(t *testing.T, nc *nats.Conn) *broker.Broker {
	t.Helper()
	b, err := broker.Open(t.Context(), nc, broker.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	return b
}

// lastSeq is the number of writes that a stream has had.
func lastSeq(t *testing.T, nc *nats.Conn, stream string) uint64 {
	t.Helper()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	s, err := js.Stream(t.Context(), stream)
	if err != nil {
		t.Fatal(err)
	}
	return s.CachedInfo().State.LastSeq
}

// scheduled is what the broker shows; it follows a moment after what it took.
func scheduled(t *testing.T, b *broker.Broker) uint64 {
	t.Helper()
	q, err := b.Queue(t.Context(), pelton.DefaultQueue)
	if err != nil {
		t.Fatal(err)
	}
	return q.Scheduled
}

// eventually polls for what somebody else does without telling.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not within %s: %s", patience, what)
		}
	}
}

// quick fails the test when fn waits for the broker until it gives up, after 5 s.
func quick(t *testing.T, what string, fn func() error) error {
	t.Helper()
	began := time.Now()
	err := fn()
	if took := time.Since(began); took >= 4*time.Second {
		t.Errorf("%s took %s", what, took)
	}
	return err
}

// tap stands between a client and the broker and can swallow what the broker
// says: the client's writes arrive, and it never learns.
type tap struct {
	listener net.Listener
	mu       sync.Mutex
	muted    bool
	conns    []net.Conn
	piping   sync.WaitGroup
}

func newTap(t *testing.T, broker string) *tap {
	t.Helper()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &tap{listener: listener}
	p.piping.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			server, err := (&net.Dialer{Timeout: patience}).DialContext(t.Context(), "tcp", broker)
			if err != nil {
				_ = client.Close()
				return
			}
			p.mu.Lock()
			p.conns = append(p.conns, client, server)
			p.mu.Unlock()
			p.piping.Go(func() { p.pipe(server, client, false) })
			p.piping.Go(func() { p.pipe(client, server, true) })
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		p.mu.Lock()
		for _, conn := range p.conns {
			_ = conn.Close()
		}
		p.mu.Unlock()
		p.piping.Wait()
	})
	return p
}

func (p *tap) pipe(to io.Writer, from io.Reader, answers bool) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if err != nil {
			return
		}
		p.mu.Lock()
		drop := answers && p.muted
		p.mu.Unlock()
		if drop {
			continue
		}
		if _, err := to.Write(buf[:n]); err != nil {
			return
		}
	}
}

func (p *tap) mute(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.muted = on
}

// cut ends all connections; new ones are let through.
func (p *tap) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, conn := range p.conns {
		_ = conn.Close()
	}
	p.conns = nil
}

func (p *tap) url() string { return "nats://" + p.listener.Addr().String() }

var errBoom = errors.New("boom")
