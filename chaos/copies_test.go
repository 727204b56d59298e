package chaos_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// copies makes second copies of messages that are or were in the stream, as a
// publish with an unknown outcome does that is made again: of those that wait, of
// those that run, and of epochs that are long over. It is no fault: nobody may
// notice.
func (s *suite) copies(ctx context.Context, seed uint64) {
	nc, err := nats.Connect("nats://"+s.server.nats, nats.Token(token), nats.Name("copies"), nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond))
	if err != nil {
		s.Error(err)
		return
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		s.Error(err)
		return
	}
	stream, err := js.Stream(ctx, "pelton_TASKS_0")
	if err != nil {
		s.Error(err)
		return
	}
	random := rand.New(rand.NewPCG(seed, 6))
	var seen []*nats.Msg
	again := time.NewTicker(3 * time.Millisecond)
	defer again.Stop()
	for next := uint64(1); ; {
		select {
		case <-ctx.Done():
			return
		case <-again.C:
		}
		msg, err := stream.GetMsg(ctx, next, jetstream.WithGetMsgSubject("pelton.t.0.r.>"))
		switch {
		case err == nil:
			next = msg.Sequence + 1
			seen = append(seen, &nats.Msg{Subject: msg.Subject, Data: msg.Data})
		case errors.Is(err, jetstream.ErrMsgNotFound): // nothing new
		default:
			continue // the broker is away
		}
		if n := len(seen); n > 0 {
			// A young one mostly: it waits, runs, or waits for its next attempt.
			i := n - 1 - random.IntN(min(n, 12))
			if random.IntN(4) == 0 {
				i = random.IntN(n)
			}
			copied := *seen[i]
			ctx, cancel := context.WithTimeout(ctx, time.Second)
			_, err := js.PublishMsg(ctx, &copied)
			cancel()
			if err == nil {
				next++ // mostly our own copy: not worth another one
			}
		}
	}
}

// copying makes second copies meanwhile, and a little longer.
func (s *suite) copying(do func()) {
	ctx, stop := context.WithCancel(s.Context())
	defer stop()
	seed := s.rand.Uint64()
	s.background.Go(func() { s.copies(ctx, seed) })
	do()
	s.pause(s.lease)
}

// Second copies of messages start nothing.
func TestCopies(t *testing.T) {
	t.Parallel()
	p := theProfile()
	s := newSuite(t, p)
	s.copying(func() { s.while(p.tasks/2, 10*time.Millisecond, func() {}) })
	s.healed()
	if report := s.judge(); report.Counts.Duplicates > 0 {
		t.Errorf("%d tasks ran twice", report.Counts.Duplicates)
	}
}
