package worker_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/brokertest"
	"github.com/peltonq/pelton/internal/embed"
	"github.com/peltonq/pelton/producer"
	"github.com/peltonq/pelton/worker"
)

// loss is what a handler saw of the loss of its lock.
type loss struct {
	at        time.Time
	cause     error // of the lock's ctx
	handler   error // of the handler's
	unlock    error
	unlockTwo error
}

// losing registers a kind that takes a lock, tells of it, and waits for its loss.
func (r *rig) losing(kind, name string, opts ...worker.LockOption) (<-chan *worker.Held, <-chan loss) {
	held, losses := make(chan *worker.Held, 1), make(chan loss, 1)
	r.on(kind, func(ctx context.Context, _ *pelton.Task) (json.RawMessage, error) {
		lock, err := worker.Lock(ctx, name, opts...)
		if err != nil {
			return nil, pelton.Discard(err)
		}
		held <- lock
		<-lock.Context().Done()
		l := loss{at: time.Now(), cause: context.Cause(lock.Context()), handler: context.Cause(ctx)}
		l.unlock, l.unlockTwo = lock.Unlock(), lock.Unlock()
		losses <- l
		return nil, nil
	})
	return held, losses
}

func (l loss) check(t *testing.T) {
	t.Helper()
	if !errors.Is(l.cause, pelton.ErrLockLost) || !errors.Is(l.unlock, pelton.ErrLockLost) || !errors.Is(l.unlockTwo, pelton.ErrLockLost) {
		t.Errorf("cause %v, Unlock = %v and %v; want ErrLockLost", l.cause, l.unlock, l.unlockTwo)
	}
	if l.handler != nil {
		t.Errorf("the handler's ctx ended too: %v", l.handler)
	}
}

// TestLockReleasedByForce: the holder is told at once, although its next renewal
// is ten seconds away, and who waited has it under a greater token.
func TestLockReleasedByForce(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	lost, losses := r.losing("loser", "x")
	released := make(chan struct{})
	next := r.holding("next", "x", released)
	r.run(t, worker.Config{})
	loser := r.enqueue(t, "loser").ID
	first := receive(t, lost, "lock")
	winner := r.enqueue(t, "next").ID
	lock, err := r.broker(t).BreakLock(t.Context(), "x")
	broken := time.Now()
	if err != nil || len(lock.Holders) != 1 || lock.Holders[0].TaskID != loser || lock.Holders[0].Token != first.Token() {
		t.Fatalf("broken: %+v, %v", lock, err)
	}
	l := receive(t, losses, "loss")
	l.check(t)
	if took := l.at.Sub(broken); took > 5*time.Second {
		t.Errorf("told after %s", took)
	}
	second := receive(t, next, "lock of the next")
	if took := time.Since(broken); took > 7*time.Second {
		t.Errorf("taken after %s", took)
	}
	if second.Token() <= first.Token() {
		t.Errorf("token %d after %d", second.Token(), first.Token())
	}
	if err := context.Cause(second.Context()); err != nil {
		t.Errorf("the next holder lost it, too: %v", err)
	}
	close(released)
	r.succeeds(t, loser, winner)
}

// restartable is a broker on a port that can be stopped and started again.
type restartable struct {
	dir, addr string
	stop      func()
}

func startRestartable(t *testing.T) *restartable {
	t.Helper()
	b := &restartable{dir: t.TempDir()}
	srv := brokertest.StartServer(t, brokertest.In(b.dir), brokertest.Listening)
	b.addr = strings.TrimPrefix(srv.ClientURL(), "nats://")
	b.stop = func() { brokertest.Stop(t, srv) }
	return b
}

func (b *restartable) start(t *testing.T) {
	t.Helper()
	brokertest.StartServer(t, brokertest.In(b.dir), func(cfg *embed.Config) { cfg.Listen = b.addr })
}

func (b *restartable) connect(t *testing.T) *nats.Conn {
	t.Helper()
	nc, err := nats.Connect("nats://"+b.addr, nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond), nats.ReconnectJitter(0, 0))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// TestLockLostWithoutBroker: a broker that is away for longer than the lease of a
// lock costs it, and the holder knows before anybody else can have it.
func TestLockLostWithoutBroker(t *testing.T) {
	t.Parallel()
	const lease = 9 * time.Second // lost after six
	b := startRestartable(t)
	r := rigOn(t, b.connect(t), producer.Config{})
	lost, losses := r.losing("loser", "x", worker.Lease(lease))
	released := make(chan struct{})
	next := r.holding("next", "x", released)
	r.run(t, worker.Config{})
	loser := r.enqueue(t, "loser").ID
	first := receive(t, lost, "lock")
	b.stop()
	stopped := time.Now()
	l := receive(t, losses, "loss")
	l.check(t)
	// The last renewal was sent at most a third of the lease before.
	if took := l.at.Sub(stopped); took > lease-200*time.Millisecond || took < lease/3-200*time.Millisecond {
		t.Errorf("told after %s with a lease of %s", took, lease)
	}
	<-time.After(time.Until(stopped.Add(lease)))
	b.start(t)
	eventually(t, "the connection is back", r.nc.IsConnected)
	winner := r.enqueue(t, "next").ID
	if second := receive(t, next, "lock of the next"); second.Token() <= first.Token() {
		t.Errorf("token %d after %d", second.Token(), first.Token())
	}
	close(released)
	r.succeeds(t, loser, winner)
}

// TestLockOutlivesABrokerRestart: while the lease lasts, a restart changes nothing.
// The holder keeps its lock, a waiter waits on, and gets it at its release.
func TestLockOutlivesABrokerRestart(t *testing.T) {
	t.Parallel()
	b := startRestartable(t)
	r := rigOn(t, b.connect(t), producer.Config{})
	released := make(chan struct{})
	held := r.holding("holder", "x", released, worker.Lease(15*time.Second)) // lost after ten
	second := make(chan struct{})
	next := r.holding("next", "x", second)
	cfg := worker.Config{Concurrency: 4}
	r.run(t, cfg)
	runOn(t, b.connect(t), r.Mux, cfg)
	at := r.broker(t)
	eventually(t, "both workers have opened", func() bool { // one that opens meanwhile may end with an error
		shown, err := at.Presences(t.Context())
		return err == nil && len(shown) == 2
	})
	ids := []pelton.ID{r.enqueue(t, "holder").ID}
	first := receive(t, held, "lock")
	ids = append(ids, r.enqueue(t, "next").ID)
	eventually(t, "the other one runs", func() bool { return r.get(t, ids[1]).State == pelton.Running })
	b.stop()
	eventually(t, "the connection is lost", func() bool { return !r.nc.IsConnected() })
	b.start(t)
	eventually(t, "the connection is back", r.nc.IsConnected)
	expiry := func() time.Time {
		permit, err := at.LoadPermit(t.Context(), "x", 0)
		if err != nil {
			t.Fatal(err)
		}
		if permit.Token != first.Token() {
			t.Fatalf("taken with token %d from its holder, who has %d", permit.Token, first.Token())
		}
		return permit.Expires
	}
	before := expiry()
	eventually(t, "the lock is renewed", func() bool { return expiry().After(before) })
	if err := context.Cause(first.Context()); err != nil {
		t.Errorf("lost: %v", err)
	}
	close(released)
	if lock := receive(t, next, "lock of the next"); lock.Token() <= first.Token() {
		t.Errorf("token %d after %d", lock.Token(), first.Token())
	}
	close(second)
	r.succeeds(t, ids...)
}

// TestUnlockWithoutBroker does not hang, and says when the lock will be free.
func TestUnlockWithoutBroker(t *testing.T) {
	t.Parallel()
	srv := brokertest.StartServer(t)
	r := rigOn(t, brokertest.Connect(t, srv), producer.Config{})
	held, unlockNow, unlocked := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	r.on("k", func(ctx context.Context, _ *pelton.Task) (json.RawMessage, error) {
		lock, err := worker.Lock(ctx, "x")
		if err != nil {
			return nil, err
		}
		close(held)
		<-unlockNow
		unlocked <- lock.Unlock()
		return nil, nil
	})
	cut := brokertest.Connect(t, srv)
	w := runOn(t, cut, r.Mux, worker.Config{Grace: time.Second})
	r.enqueue(t, "k")
	receive(t, held, "lock")
	cut.Close()
	began := time.Now()
	close(unlockNow)
	if err := receive(t, unlocked, "Unlock"); !errors.Is(err, pelton.ErrUnavailable) && !errors.Is(err, pelton.ErrClosed) {
		t.Errorf("Unlock = %v, want ErrUnavailable", err)
	}
	if took := time.Since(began); took > 15*time.Second { // it tries for 5 s
		t.Errorf("Unlock took %s", took)
	}
	if err := w.wait(t); !errors.Is(err, pelton.ErrUnavailable) {
		t.Errorf("Run = %v", err)
	}
	if locks, err := r.broker(t).Locks(t.Context()); err != nil || len(locks) != 1 {
		t.Errorf("locks = %+v, %v; the lease is not over", locks, err)
	}
}
