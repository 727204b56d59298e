package worker

import (
	"context"
	"testing"
	"testing/synctest"

	"github.com/peltonq/pelton/internal/broker"
)

// What a limit lets start goes before anything new; without a slot it waits for a
// moment and is then another worker's.
func TestDispatchResumesWhatWasHeld(t *testing.T) {
	t.Parallel()
	x := newBench(slots(2), high, low)
	resume := func(i int, seq uint64) {
		x.waiting = append(x.waiting, kept{lane: x.lanes[i], delivery: &broker.Delivery{Seq: seq}, since: x.clock})
	}
	resume(1, 1)
	x.fill()
	x.expect(t, "start 1:low 1", "probe 0:high 1")
	x.deliver(0, 2)
	resume(1, 3)
	resume(0, 4)
	x.fill()
	x.expect(t, "start 0:high 2")
	if got := x.nextLook(); got != staleAfter {
		t.Errorf("next look in %s, want %s", got, staleAfter)
	}
	x.free(high)
	x.fill()
	x.expect(t, "start 1:low 3")
	x.clock = x.clock.Add(staleAfter)
	x.fill()
	x.expect(t, "nak 0:high 4")
	if len(x.waiting) != 0 {
		t.Errorf("%d wait", len(x.waiting))
	}
}

// At shutdown nothing that is held is forgotten.
func TestDispatchGivesBackWhatIsHeld(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		x := newBench(slots(1), high)
		x.running[high] = 1
		l := x.lanes[0]
		ctx, stop := context.WithCancel(t.Context())
		l.puller.(*fakePuller).onStop = func() { x.resume(kept{lane: l, delivery: &broker.Delivery{Seq: 2}}) }
		done := make(chan struct{})
		go func() {
			defer close(done)
			x.run(ctx, make(chan struct{}))
		}()
		x.resume(kept{lane: l, delivery: &broker.Delivery{Seq: 1}})
		synctest.Wait()
		stop()
		<-done
		x.resume(kept{lane: l, delivery: &broker.Delivery{Seq: 3}})
		x.expect(t, "nak 0:high 1", "nak 0:high 2", "nak 0:high 3")
	})
}
