package worker

import (
	"errors"
	"testing"
	"time"

	"github.com/peltonq/pelton/internal/broker"
)

// A lane whose tasks may wait here is knocked on before a lower one is asked, and while one is: what comes
// meanwhile is there when the lower ones' tasks are.
func TestDispatchKnocksBeforeLowerLanesAreAsked(t *testing.T) {
	t.Parallel()
	x := newBench(slots(2), critical, low)
	x.flow(low, 300)
	x.fill()
	x.end(0, nil)
	x.fill()
	x.expect(t, "probe 0:critical 8", "knock 0:critical 6", "probe 1:low 8")
	x.end(0, nil) // nothing came in time, and the lower lane has not answered
	x.fill()
	x.expect(t, "knock 0:critical 6")
	x.deliver(0, 1)
	x.expect(t, "start 0:critical 1")
}

// Where nothing may wait, a knock would be for a slot that the lower lane was asked for.
func TestDispatchKnocksAfterOthersWhereNothingMayWait(t *testing.T) {
	t.Parallel()
	x := newBench(slots(2), critical, high, low)
	x.rule(0, laneRules{bounded: true})
	x.flow(low, 300)
	x.fill()
	x.end(0, nil)
	x.fill()
	x.end(1, nil)
	x.fill()
	x.expect(t, "knock 0:critical 1", "probe 1:high 8", "knock 1:high 6", "probe 2:low 8")
	x.deliver(2, 1)
	x.end(2, nil)
	x.fill()
	x.expect(t, "start 2:low 1", "knock 2:low 6", "knock 0:critical 1")
}

// A knock for several is followed by another before it is used up, and what is over of it ends
// alone: the lane is never without a request as long as tasks come.
func TestDispatchProlongsAKnock(t *testing.T) {
	t.Parallel()
	x := newBench(slots(8), critical)
	x.flow(critical, 500) // 10 in 20 ms
	x.fill()
	x.end(0, nil)
	x.fill()
	x.expect(t, "probe 0:critical 18", "knock 0:critical 10")
	x.clock = x.clock.Add(followAfter)
	x.deliver(0, 1, 2, 3, 4)
	x.expect(t, "start 0:critical 1", "start 0:critical 2", "start 0:critical 3", "start 0:critical 4")
	x.deliver(0, 5)
	x.expect(t, "knock 0:critical 5", "start 0:critical 5") // ten are open
	x.fill()
	x.expect(t)
	x.left(0, 4) // of the first, of which one is on its way
	x.deliver(0, 6)
	x.fill()
	x.expect(t, "start 0:critical 6")
	x.clock = x.clock.Add(followAfter)
	x.deliver(0, 7)
	x.expect(t, "knock 0:critical 6", "start 0:critical 7")
	if l := x.lanes[0]; l.state != laneKnocking || l.want != 10 {
		t.Errorf("state %d, open for %d, want %d for 10", l.state, l.want, laneKnocking)
	}
	x.left(0, 4)
	x.left(0, 6) // of all that was open
	x.fill()
	x.expect(t, "knock 0:critical 10")
}

// Where tasks come fast the lane is asked anew, for as many as there is room for by then.
func TestDispatchAsksAFastLaneAnew(t *testing.T) {
	t.Parallel()
	x := newBench(slots(8), critical)
	x.flow(critical, 500)
	x.fill()
	x.end(0, nil)
	x.fill()
	x.clock = x.clock.Add(followAfter - 1)
	x.deliver(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10)
	x.log = nil
	x.fill()
	x.expect(t, "probe 0:critical 8")
	x.end(0, nil)
	x.fill()
	x.expect(t, "knock 0:critical 8")
}

// One that cannot be made leaves the lane to be asked when the first is used up.
func TestDispatchCannotProlong(t *testing.T) {
	t.Parallel()
	x := newBench(slots(8), critical)
	x.flow(critical, 100) // 2 in 20 ms
	x.fill()
	x.end(0, nil)
	x.fill()
	x.expect(t, "probe 0:critical 10", "knock 0:critical 2")
	x.refuses = errors.New("refused")
	x.clock = x.clock.Add(followAfter)
	x.deliver(0, 1)
	x.deliver(0, 2)
	x.refuses = nil
	x.expect(t, "start 0:critical 1", "start 0:critical 2")
	x.fill()
	x.expect(t, "probe 0:critical 8")
}

// A request whose end is lost is given up when the last one should have ended.
func TestDispatchGivesUpAProlongedKnock(t *testing.T) {
	t.Parallel()
	x := newBench(slots(8), critical)
	x.flow(critical, 500)
	x.fill()
	x.end(0, nil)
	x.fill()
	x.clock = x.clock.Add(2 * time.Second)
	x.deliver(0, 1, 2, 3, 4, 5)
	x.left(0, 5)
	x.log = nil
	x.clock = x.clock.Add(x.lanes[0].knockWait() + knockSlack - 1)
	x.overdue()
	x.expect(t)
	x.clock = x.clock.Add(1)
	x.overdue()
	x.expect(t, "reopen 0:critical")
}

// left is the end of a request that was open for so many.
func (x *bench) left(i, n int) {
	x.on(laneEvent{lane: x.lanes[i], generation: x.lanes[i].generation, end: broker.PullEnd{Left: n}})
}

// Without one that follows, the end of a request is the end of all, whatever it says was left.
func TestDispatchKnockEnds(t *testing.T) {
	t.Parallel()
	x := newBench(slots(8), critical)
	x.flow(critical, 500)
	x.fill()
	x.end(0, nil)
	x.fill()
	x.left(0, 9) // of ten: one was lost
	x.fill()
	x.expect(t, "probe 0:critical 18", "knock 0:critical 10", "knock 0:critical 10")
}
