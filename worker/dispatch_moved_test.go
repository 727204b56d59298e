package worker

import (
	"testing"

	"github.com/peltonq/pelton/internal/broker"
)

// A lane whose consumer has another leader is asked anew: the request that waited is lost. Others
// are left alone, and what the old request brings after all is started or given back like anything else.
func TestLaneWithANewLeader(t *testing.T) {
	t.Parallel()
	x := newBench(slots(2), high, normal)
	x.fill()
	x.end(0, nil)
	x.fill()
	x.end(1, nil)
	x.fill()
	x.expect(t, "probe 0:high 2", "probe 1:normal 2", "knock 0:high 1", "knock 1:normal 1")
	x.on(laneEvent{moved: &broker.Lane{Queue: "another", Priority: "high"}})
	x.fill()
	x.expect(t)
	x.on(laneEvent{moved: &x.lanes[1].Lane})
	x.fill()
	x.expect(t, "reopen 1:normal", "probe 1:normal 2")
	x.on(laneEvent{lane: x.lanes[1], delivery: &broker.Delivery{Seq: 7, Arrived: x.clock}}) // of the puller before
	x.expect(t, "start 1:normal 7")
}
