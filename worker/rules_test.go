package worker

import (
	"testing"
)

func (x *bench) rule(i int, rules laneRules) { x.change(laneChange{x.lanes[i], rules}) }

func TestDispatchAsksNothingOfAPausedLane(t *testing.T) {
	t.Parallel()
	x := newBench(slots(4), high, low)
	x.fill()
	x.rule(0, laneRules{paused: true}) // while it is being asked
	x.fill()
	x.expect(t, "probe 0:high 4", "reopen 0:high", "probe 1:low 4")
	x.deliver(0, 1) // what the old request brings after all
	x.end(1, nil)
	x.fill()
	x.expect(t, "nak 0:high 1", "knock 1:low 1")
	x.rule(1, laneRules{paused: true}) // while somebody knocks
	x.fill()
	x.expect(t, "reopen 1:low")
	x.fill()
	x.expect(t)
	x.rule(0, laneRules{})
	x.rule(1, laneRules{})
	x.fill()
	x.expect(t, "probe 0:high 4")
}

// While as many tasks of a lane run as may, the broker does not answer; the lanes
// below must not wait for that.
func TestDispatchBoundedLaneHoldsBackNobody(t *testing.T) {
	t.Parallel()
	x := newBench(slots(4), high, low)
	x.rule(0, laneRules{bounded: true})
	x.fill()
	x.expect(t, "knock 0:high 1") // counts as a probe, for a moment
	if got := x.nextLook(); got != headStart {
		t.Errorf("next look in %s, want %s", got, headStart)
	}
	x.clock = x.clock.Add(headStart)
	x.overdue()
	x.fill()
	x.expect(t, "probe 1:low 4")
	x.deliver(0, 1) // a slot of the fleet became free: the lane may have more
	x.end(1, nil)
	x.fill()
	x.expect(t, "start 0:high 1", "knock 0:high 1")
	x.deliver(0, 2)
	x.fill()
	x.expect(t, "start 0:high 2", "knock 0:high 1")
	x.end(0, nil) // empty for 30 s
	x.fill()
	x.expect(t, "knock 0:high 1", "knock 1:low 1")

	x.rule(0, laneRules{})
	x.fill()
	x.expect(t, "reopen 0:high", "probe 0:high 2")
}

func TestDispatchReopensABoundedLaneThatIsLost(t *testing.T) {
	t.Parallel()
	x := newBench(slots(4), high)
	x.rule(0, laneRules{bounded: true})
	x.fill()
	x.clock = x.clock.Add(headStart)
	x.overdue()
	x.clock = x.clock.Add(knockWait + knockSlack)
	x.overdue()
	x.expect(t, "knock 0:high 1", "reopen 0:high")
}
