package broker

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/brokertest"
)

// proxy is a TCP proxy whose connections a test can cut, and keep cut.
type proxy struct {
	listener net.Listener
	target   string
	running  sync.WaitGroup

	mu    sync.Mutex
	down  bool
	conns []net.Conn
}

func startProxy(t *testing.T, target string) *proxy {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	must(t, err)
	p := &proxy{listener: listener, target: strings.TrimPrefix(target, "nats://")}
	p.running.Go(p.accept)
	t.Cleanup(func() {
		_ = listener.Close() // the test is over
		p.cut()
		p.running.Wait()
	})
	return p
}

func (p *proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		backend, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(context.Background(), "tcp", p.target)
		if err != nil {
			_ = client.Close() // nothing came of it
			continue
		}
		p.mu.Lock()
		if p.down {
			_ = errors.Join(client.Close(), backend.Close()) // refused
		}
		p.conns = append(p.conns, client, backend)
		p.mu.Unlock()
		for _, way := range [][2]net.Conn{{client, backend}, {backend, client}} {
			p.running.Go(func() {
				_, _ = io.Copy(way[0], way[1])                  // ends with the connection
				_ = errors.Join(way[0].Close(), way[1].Close()) // both ways end together
			})
		}
	}
}

// cut ends all connections and lets no new ones through until heal.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.down = true
	for _, c := range p.conns {
		_ = c.Close() // may be closed already
	}
	p.conns = nil
}

func (p *proxy) heal() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.down = false
}

// throughProxy is an installation that is reached through a proxy, and a second
// connection to its server that is not.
func throughProxy(t *testing.T) (*Broker, *proxy, *nats.Conn) {
	t.Helper()
	srv := brokertest.StartServer(t, brokertest.Listening)
	p := startProxy(t, srv.ClientURL())
	nc, err := nats.Connect("nats://"+p.listener.Addr().String(), nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond),
		nats.ReconnectJitter(0, 0), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
	must(t, err)
	t.Cleanup(nc.Close)
	return openOn(t, nc, Config{}), p, brokertest.Connect(t, srv)
}

// silence is a subject on which requests are taken and not answered; each shows
// on the channel.
func silence(t *testing.T, nc *nats.Conn) (subject string, taken <-chan struct{}) {
	t.Helper()
	ch := make(chan struct{}, 2*window)
	_, err := nc.Subscribe("silence", func(*nats.Msg) { ch <- struct{}{} })
	must(t, err)
	must(t, nc.Flush())
	return "silence", ch
}

func (c *conn) inFlight() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.open) - len(c.free)
}

func TestCallsAreBounded(t *testing.T) {
	t.Parallel()
	b := openQuiet(t)
	subject, taken := silence(t, b.conn.nc)
	results := make(chan error, window+1)
	var first func() bool
	for i := range window {
		forget, err := b.conn.send(t.Context(), nats.NewMsg(subject), func(_ *nats.Msg, err error) { results <- err })
		must(t, err)
		if i == 0 {
			first = forget
		}
	}
	for range window {
		wait(t, taken, "request")
	}
	if n := b.conn.inFlight(); n != window {
		t.Fatalf("%d calls in flight, want %d", n, window)
	}
	// One more waits for a place, and gives up with its ctx: nothing was sent.
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := b.do(short, write{subject: subject, expect: anyRevision}); !errors.Is(err, pelton.ErrUnavailable) || errors.Is(err, pelton.ErrUnknownOutcome) {
		t.Errorf("call over the bound = %v, want ErrUnavailable", err)
	}
	// One that waits goes on when a place is free.
	sent := make(chan error, 1)
	go func() {
		_, err := b.conn.send(t.Context(), nats.NewMsg(subject), func(_ *nats.Msg, err error) { results <- err })
		sent <- err
	}()
	if !first() {
		t.Error("a call in flight could not be forgotten")
	}
	if first() {
		t.Error("a call was forgotten twice")
	}
	must(t, wait(t, sent, "call that waited"))
	wait(t, taken, "request that waited")
	if len(taken) != 0 {
		t.Error("the call that gave up was sent all the same")
	}
	b.Close()
	for range window {
		if err := wait(t, results, "result"); !errors.Is(err, errSent) || !errors.Is(err, pelton.ErrClosed) {
			t.Fatalf("call ended by close = %v", err)
		}
	}
	if n := b.conn.inFlight(); n != 0 || len(b.conn.slots) != 0 {
		t.Errorf("%d calls and %d places in use after close", n, len(b.conn.slots))
	}
}

func TestEndedContextSendsNothing(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	subject, taken := silence(t, b.conn.nc)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for range 20 {
		if _, err := b.do(ended, write{subject: subject, expect: anyRevision}); !errors.Is(err, pelton.ErrUnavailable) || !errors.Is(err, context.Canceled) {
			t.Fatalf("call with an ended ctx = %v", err)
		}
	}
	must(t, b.conn.nc.Flush())
	if len(taken) != 0 {
		t.Error("it was sent")
	}
}

func TestUnansweredCall(t *testing.T) {
	t.Parallel()
	b := openQuiet(t)
	subject, _ := silence(t, b.conn.nc)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second) // long enough for it to be sent
	defer cancel()
	if _, err := b.do(ctx, write{subject: subject, expect: anyRevision}); !errors.Is(err, pelton.ErrUnknownOutcome) || errors.Is(err, pelton.ErrUnavailable) {
		t.Errorf("unanswered write = %v, want ErrUnknownOutcome", err)
	}
	if n := b.conn.inFlight(); n != 0 || len(b.conn.slots) != 0 {
		t.Errorf("%d calls and %d places in use", n, len(b.conn.slots))
	}
}

// A lost connection ends calls at once, not at their deadline.
func TestLostConnection(t *testing.T) {
	t.Parallel()
	b, p, direct := throughProxy(t)
	subject, taken := silence(t, direct)
	up, stop := b.Reconnected()
	defer stop()
	start := time.Now()
	writes, heartbeats, many := make(chan error, 1), make(chan error, 1), make(chan error, 1)
	go func() {
		_, err := b.do(t.Context(), write{subject: subject, expect: anyRevision})
		writes <- err
	}()
	go func() { heartbeats <- (&Delivery{conn: b.conn, ack: subject}).Extend(t.Context()) }()
	go func() {
		b.pipeline(t.Context(), 1, func(int) bool { return true },
			func(int) (write, error) { return write{subject: subject, expect: anyRevision}, nil },
			func(_ int, _ uint64, err error) { many <- err })
	}()
	for range 3 {
		wait(t, taken, "request")
	}
	p.cut()
	if err := wait(t, writes, "end of the write"); !errors.Is(err, pelton.ErrUnknownOutcome) || errors.Is(err, pelton.ErrUnavailable) {
		t.Errorf("write = %v, want ErrUnknownOutcome", err)
	}
	if err := wait(t, many, "end of the pipeline"); !errors.Is(err, pelton.ErrUnknownOutcome) || errors.Is(err, pelton.ErrUnavailable) {
		t.Errorf("write in a pipeline = %v, want ErrUnknownOutcome", err)
	}
	if err := wait(t, heartbeats, "end of the heartbeat"); !errors.Is(err, pelton.ErrUnavailable) {
		t.Errorf("heartbeat = %v, want ErrUnavailable", err)
	}
	if took := time.Since(start); took > callTimeout*4/5 {
		t.Errorf("%s in all: calls ran into their deadlines", took)
	}
	reaches(t, "the connection to be known as lost", func() bool { return !b.conn.nc.IsConnected() })
	for name, call := range offlineCalls(t, b) {
		began := time.Now()
		if err := call(); !errors.Is(err, pelton.ErrUnavailable) || errors.Is(err, pelton.ErrUnknownOutcome) {
			t.Errorf("%s without a connection = %v, want ErrUnavailable", name, err)
		}
		if took := time.Since(began); took > callTimeout*4/5 {
			t.Errorf("%s without a connection took %s", name, took)
		}
	}
	p.heal()
	wait(t, up, "word of the reconnection")
	must(t, b.Enqueue(t.Context(), aRecord("q", pelton.Low)))
	if q, err := b.Queue(t.Context(), "q"); err != nil || q.Name != "q" {
		t.Errorf("queue after the reconnection: %v, %v", q, err)
	}
	if idle, err := b.Idle(t.Context()); idle || err != nil {
		t.Errorf("idle = %t, %v: what was refused must not arrive later, what was enqueued must", idle, err)
	}
	if got := streamState(t, b, b.tasks(0)).State.Msgs; got != 1 {
		t.Errorf("%d messages after the reconnection, want the 1 enqueued after it", got)
	}
}

// offlineCalls must all end at once when there is no connection.
func offlineCalls(t *testing.T, b *Broker) map[string]func() error {
	t.Helper()
	r := aRecord("q", pelton.Low)
	return map[string]func() error{
		"enqueue":  func() error { return b.Enqueue(t.Context(), aRecord("q", pelton.Low)) },
		"publish":  func() error { _, err := b.PublishReady(t.Context(), r.Envelope()); return err },
		"create":   func() error { return b.CreateRecord(t.Context(), aRecord("q", pelton.Low)) },
		"load":     func() error { _, err := b.LoadRecord(t.Context(), r.ID); return err },
		"queues":   func() error { _, err := b.Queues(t.Context()); return err },
		"queue":    func() error { _, err := b.Queue(t.Context(), "q"); return err },
		"lane":     func() error { return b.EnsureLane(t.Context(), Lane{Queue: "new", Priority: pelton.Low}) },
		"cancel":   func() error { _, err := b.SignalCancel(t.Context(), r.ID); return err },
		"purge":    func() error { return b.CancelSchedules(t.Context(), r) },
		"delete":   func() error { return b.DeleteMessage(t.Context(), 0, 1) },
		"presence": func() error { return b.ShowPresence(t.Context(), Presence{ID: "w"}, PresenceTTL) },
		"probe":    func() error { return b.Probe(t.Context()) },
		"dead":     func() error { return b.PublishDead(t.Context(), r) },
		"settle": func() error {
			_, err := b.SettleLane(t.Context(), Lane{Queue: "q", Priority: pelton.Low}, true)
			return err
		},
		"set": func() error {
			_, err := b.SetQueue(t.Context(), "q", true, func(*QueueConfig) error { return nil })
			return err
		},
		"watch": func() error { _, _, err := b.Watch(t.Context(), r.ID); return err },
		"lanes": func() error { _, _, err := b.WatchQueues(t.Context(), []string{"q"}); return err },
		"open":  func() error { _, err := Open(t.Context(), b.conn.nc, Config{}); return err },
		"many": func() error {
			return errors.Join(b.EnqueueMany(t.Context(), []*Record{aRecord("q", pelton.Low), aRecord("q", pelton.Low)})...)
		},
	}
}

func TestClosedConnection(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	subject, taken := silence(t, b.conn.nc)
	results := make(chan error, 1)
	go func() {
		_, err := b.do(t.Context(), write{subject: subject, expect: anyRevision})
		results <- err
	}()
	wait(t, taken, "request")
	b.conn.nc.Close() // under the broker
	if err := wait(t, results, "end of the write"); !errors.Is(err, pelton.ErrUnknownOutcome) {
		t.Errorf("write = %v, want ErrUnknownOutcome", err)
	}
	if err := b.Enqueue(t.Context(), aRecord("q", pelton.Low)); !errors.Is(err, pelton.ErrUnavailable) {
		t.Errorf("enqueue on a closed connection = %v, want ErrUnavailable", err)
	}
	if _, err := Open(t.Context(), b.conn.nc, Config{}); !errors.Is(err, pelton.ErrUnavailable) {
		t.Errorf("open on a closed connection = %v, want ErrUnavailable", err)
	}
	b.Close()
	b.Close() // again is fine
	if _, err := b.PublishReady(t.Context(), aRecord("q", pelton.Low).Envelope()); !errors.Is(err, pelton.ErrClosed) {
		t.Errorf("publish after close = %v, want ErrClosed", err)
	}
}

func TestOpenWithoutJetStream(t *testing.T) {
	t.Parallel()
	for name, opts := range map[string]server.Options{
		"none":         {},
		"small limits": {JetStream: true, StoreDir: t.TempDir(), MaxPayload: 64 << 10},
	} {
		opts.DontListen, opts.NoSigs, opts.NoLog = true, true, true
		srv, err := server.NewServer(&opts)
		must(t, err)
		srv.Start()
		t.Cleanup(func() { srv.Shutdown(); srv.WaitForShutdown() })
		if !srv.ReadyForConnections(10 * time.Second) {
			t.Fatal("not ready")
		}
		nc, err := nats.Connect("", nats.InProcessServer(srv))
		must(t, err)
		t.Cleanup(nc.Close)
		began := time.Now()
		_, err = Open(t.Context(), nc, Config{})
		want, text := pelton.ErrUnavailable, "JetStream is not enabled"
		if opts.JetStream {
			want, text = pelton.ErrConflict, "max_payload"
		}
		if !errors.Is(err, want) || !strings.Contains(err.Error(), text) {
			t.Errorf("%s: %v, want one that says %q", name, err, text)
		}
		if took := time.Since(began); took > callTimeout*4/5 {
			t.Errorf("%s: took %s", name, took)
		}
	}
}
