package worker

import (
	"fmt"
	"testing"
	"time"
)

func TestDispatchStarvedLane(t *testing.T) {
	t.Parallel()
	x := newBench(slots(2), high, low)
	x.fill()
	x.deliver(0, 1, 2)
	x.expect(t, "probe 0:high 2", "start 0:high 1", "start 0:high 2") // a new lane is not a starved one
	seq := uint64(3)
	for x.clock.Sub(time.Unix(1e9, 0)) <= x.maxWait {
		x.free(high)
		x.fill()
		x.deliver(0, seq)
		x.expect(t, "probe 0:high 1", fmt.Sprintf("start 0:high %d", seq))
		seq++
		x.clock = x.clock.Add(time.Second)
	}
	x.free(high)
	x.fill()
	x.deliver(1, 1000)
	x.expect(t, "probe 1:low 1", "start 1:low 1000")
	x.free(high)
	x.fill()
	x.expect(t, "probe 0:high 1") // its turn is over
}

func TestDispatchIdleLaneIsNotStarved(t *testing.T) {
	t.Parallel()
	x := newBench(slots(2), high, low)
	x.fill()
	x.end(0, nil)
	x.fill()
	x.end(1, nil)
	x.fill()
	for range 10 { // five minutes with nothing to do
		x.clock = x.clock.Add(knockWait)
		x.end(0, nil)
		x.end(1, nil)
		x.fill()
	}
	x.log = nil
	x.deliver(0, 1)
	x.fill()
	x.deliver(0, 2) // all slots are busy now
	x.end(1, nil)   // and what is known of low goes stale
	x.fill()
	x.free(high)
	x.log = nil
	x.fill()
	x.expect(t, "probe 0:high 1")
}

func TestDispatchRoundRobinAmongQueues(t *testing.T) {
	t.Parallel()
	x := newBench(slots(2), normal, normal)
	x.clock = x.clock.Add(time.Millisecond)
	x.fill()
	x.deliver(0, 1, 2)
	x.expect(t, "probe 0:normal 2", "start 0:normal 1", "start 0:normal 2")
	for i := range 6 {
		x.clock = x.clock.Add(time.Millisecond)
		x.free(normal)
		x.fill()
		turn := 1 - i%2
		x.deliver(turn, 9)
		x.expect(t, fmt.Sprintf("probe %d:normal 1", turn), fmt.Sprintf("start %d:normal 9", turn))
	}
}

// A queue whose limiter has nothing left is asked when it has, all its lanes; no
// request asks for more than may start.
func TestDispatchPacesAQueue(t *testing.T) {
	t.Parallel()
	x := newBench(slots(8), high, low)
	x.lanes[1].Queue = x.lanes[0].Queue
	x.change(laneChange{x.lanes[0], laneRules{most: 3}})
	x.fill()
	x.expect(t, "probe 0:high 3")
	x.end(0, nil)
	x.fill()
	x.end(1, nil)
	x.expect(t, "probe 1:low 8")
	x.slow(pace{x.lanes[0].Queue, x.clock.Add(time.Second)})
	x.fill()
	x.expect(t) // not even a knock
	if got := x.nextLook(); got != time.Second {
		t.Errorf("next look in %s", got)
	}
	x.clock = x.clock.Add(time.Second)
	x.fill()
	x.expect(t, "probe 0:high 3")
}
