package chaos_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/peltonq/pelton"
)

// copier makes second copies of messages, as a publish with an unknown outcome does
// that is made again. It is no fault: nobody may notice. It reads the layout that
// docs/architecture.md describes.
type copier struct {
	nc     *nats.Conn
	js     jetstream.JetStream
	stream jetstream.Stream
	states jetstream.Stream // of the records
	seen   []original       // what was ready at some time
	next   uint64
}

// original is a message, with the task's id as everybody else names it: the message of a plain
// task has only the seed of it.
type original struct {
	id      pelton.ID
	subject string
	data    []byte
}

// originalOf completes the id in a message that a stream holds.
func originalOf(msg *jetstream.RawStreamMsg) (original, error) {
	var form struct {
		ID pelton.ID `json:"id"`
	}
	line, _, _ := bytes.Cut(msg.Data, []byte{'\n'})
	if err := json.Unmarshal(line, &form); err != nil {
		return original{}, err
	}
	id := form.ID
	if !id.Minted() && id.Sequence() == 0 {
		id = id.At(msg.Sequence)
	}
	return original{id, msg.Subject, bytes.Replace(msg.Data, []byte(form.ID.String()), []byte(id.String()), 1)}, nil
}

func (s *suite) newCopier(ctx context.Context) (*copier, error) {
	nc, err := nats.Connect("nats://"+s.server.nats.here, nats.Token(token), nats.Name("copier"), nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond))
	if err != nil {
		return nil, err
	}
	c := &copier{nc: nc, next: 1}
	if c.js, err = jetstream.New(nc); err == nil {
		c.stream, err = c.js.Stream(ctx, "pelton_TASKS_0")
	}
	if err == nil {
		c.states, err = c.js.Stream(ctx, "KV_pelton_STATE_0")
	}
	if err != nil {
		nc.Close()
		return nil, err
	}
	return c, nil
}

// capture takes in the next message that is ready; found is false when there is none.
func (c *copier) capture(ctx context.Context) (found bool, err error) {
	msg, err := c.stream.GetMsg(ctx, c.next, jetstream.WithGetMsgSubject("pelton.t.0.r.>"))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	c.next = msg.Sequence + 1
	o, err := originalOf(msg)
	if err != nil {
		return false, err
	}
	c.seen = append(c.seen, o)
	return true, nil
}

func (c *copier) publish(ctx context.Context, o original) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	_, err := c.js.PublishMsg(ctx, &nats.Msg{Subject: o.subject, Data: o.data})
	return err
}

// recorded reports whether the task has a record, or is in a page. The message of one that has neither is all
// there is of it, and nobody ever publishes that again.
func (c *copier) recorded(ctx context.Context, o original) bool {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	if _, err := c.states.GetLastMsgForSubject(ctx, "$KV.pelton_STATE_0."+o.id.String()); err == nil || o.id.Minted() {
		return err == nil
	}
	pages := fmt.Sprintf("$KV.pelton_STATE_0.page.%d.*", o.id.Sequence()/32)
	for next := uint64(1); ; {
		page, err := c.states.GetMsg(ctx, next, jetstream.WithGetMsgSubject(pages))
		if err != nil {
			return false
		}
		if bytes.Contains(page.Data, []byte(o.id.String())) {
			return true
		}
		next = page.Sequence + 1
	}
}

// copyAtRandom copies until ctx ends what waits, what runs, and epochs that are over.
func (s *suite) copyAtRandom(ctx context.Context, seed uint64) {
	c, err := s.newCopier(ctx)
	if err != nil {
		s.Error(err)
		return
	}
	defer c.nc.Close()
	random := rand.New(rand.NewPCG(seed, 6))
	again := time.NewTicker(3 * time.Millisecond)
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-again.C:
		}
		_, err := c.capture(ctx)
		n := len(c.seen)
		if err != nil || n == 0 {
			continue // the broker is away, or has nothing yet
		}
		i := n - 1 - random.IntN(min(n, 12)) // a young one: it waits, runs, or waits for its next attempt
		if random.IntN(4) == 0 {
			i = random.IntN(n)
		}
		if c.recorded(ctx, c.seen[i]) && c.publish(ctx, c.seen[i]) == nil {
			c.next++ // our own copy, mostly: not worth another one
		}
	}
}

// Second copies of messages start nothing.
func TestCopies(t *testing.T) {
	t.Parallel()
	p := theProfile()
	s := newSuite(t, p)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	seed := s.rand.Uint64()
	s.background.Go(func() { s.copyAtRandom(ctx, seed) })
	s.while(p.tasks/2, 10*time.Millisecond, func() {})
	s.pause(p.lease)
	stop()
	s.healed()
	if report := s.judge(); report.Counts.Duplicates > 0 {
		t.Errorf("%d tasks ran twice", report.Counts.Duplicates)
	}
}

// copiesOf lets n tasks wait behind busy slots, copies their messages when there is
// room again and they have come as far as until says, five times in a second.
func (s *suite) copiesOf(n int, o order, until func([]pelton.ID) bool) {
	s.Helper()
	c, err := s.newCopier(s.ctx)
	if err != nil {
		s.Fatal(err)
	}
	defer c.nc.Close()
	slots := s.workers * s.concurrency
	for range slots {
		s.producer.must(order{kind: "chaos.sleep", ms: 4000}) // for longer than the next steps take on a busy machine
	}
	s.eventually("all slots are taken", 20*time.Second, func() bool { return s.running() == slots })
	var ids []pelton.ID
	for range n {
		ids = append(ids, s.producer.must(o))
	}
	for range slots + n {
		if found, err := c.capture(s.ctx); err != nil || !found {
			s.Fatalf("captured %d messages: %v", len(c.seen), err)
		}
	}
	s.eventually("the tasks have come so far", 20*time.Second, func() bool { return until(ids) })
	for range 5 { // a worker that has the task itself takes a copy for its own delivery: let the other get one
		for _, o := range c.seen[slots : slots+n] {
			if !c.recorded(s.ctx, o) {
				s.Errorf("task %s has no record, its message must not be copied", o.id)
			}
			if err := c.publish(s.ctx, o); err != nil {
				s.Error(err)
			}
		}
		s.pause(200 * time.Millisecond)
	}
}

// allRun reports whether all these tasks run now.
func (s *suite) allRun(ids []pelton.ID) bool {
	n := 0
	for _, w := range s.fleet {
		open := s.open(w.actorName())
		for _, id := range ids {
			if open[id] {
				n++
			}
		}
	}
	return n == len(ids)
}

// running counts the handlers that run now.
func (s *suite) running() int {
	n := 0
	for _, w := range s.fleet {
		n += len(s.open(w.actorName()))
	}
	return n
}
