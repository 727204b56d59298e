package chaos_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"

	"github.com/peltonq/pelton/internal/failpoint"
)

// points are places at which processes die. Each process gets one when it starts,
// until every place was died at often enough.
type points struct {
	mu    sync.Mutex
	rand  *rand.Rand
	order []failpoint.Point
	left  map[failpoint.Point]int // deaths that are still wanted
	held  map[failpoint.Point]int // processes that are to die there
	turn  int
}

// Nobody can publish what was put back without its message unless somebody dies
// after putting it back. So these two go together: the first is died at for as long
// as the second is wanted, and one process at least is left to do so.
const (
	cause  = failpoint.PutBackRecorded
	effect = failpoint.RepublishPublished
)

// newPoints wants so many deaths at each place. A place that is listed twice is
// handed out twice as often.
func newPoints(random *rand.Rand, deaths int, order ...failpoint.Point) *points {
	p := &points{rand: random, order: order, left: make(map[failpoint.Point]int), held: make(map[failpoint.Point]int)}
	for _, point := range order {
		p.left[point] = deaths
	}
	return p
}

// take is where the successor of a process that was to die at before is to die, and
// at which pass.
func (p *points) take(before failpoint.Point) (point failpoint.Point, pass int, found bool) {
	if p == nil {
		return "", 0, false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.held[before]--
	for range p.order {
		point = p.order[p.turn%len(p.order)]
		p.turn++
		if p.left[point] == 0 || point == effect && p.held[effect] == 2 {
			continue
		}
		p.held[point]++
		if slices.Contains(seldom(), point) {
			return point, 1, true
		}
		return point, 1 + p.rand.IntN(4), true
	}
	return "", 0, false
}

// seldom lists the places that few processes pass.
func seldom() []failpoint.Point {
	return []failpoint.Point{
		failpoint.FailBuried, failpoint.ReleaseRecorded, failpoint.RepublishPublished, failpoint.AckedFirst,
		failpoint.CancelRecorded, failpoint.RequeueRecorded, failpoint.RequeuePublished,
		failpoint.RunRecorded, failpoint.RunPublished,
		failpoint.KeyReleased, failpoint.LockRenewed,
		failpoint.ShardMade, failpoint.ShardsReady,
	}
}

// hit notes a death.
func (p *points) hit(point failpoint.Point) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if point == cause && p.left[effect] > 0 && p.left[cause] == 1 {
		return
	}
	p.left[point] = max(0, p.left[point]-1)
	if point == effect && p.left[effect] == 0 && p.left[cause] == 1 {
		p.left[cause] = 0 // it was died at before
	}
}

// missing lists the places at which nobody has died often enough.
func (p *points) missing() []failpoint.Point {
	p.mu.Lock()
	defer p.mu.Unlock()
	var missing []failpoint.Point
	for _, point := range p.order {
		if p.left[point] > 0 {
			missing = append(missing, point)
		}
	}
	return missing
}

// environment is what makes a process die where from says, and leave out the rule
// that is broken in this suite.
func (s *suite) environment(from *points, before failpoint.Point) (failpoint.Point, []string) {
	var env []string
	if s.broken != "" {
		env = append(env, failpoint.EnvBroken+"="+string(s.broken))
	}
	point, pass, found := from.take(before)
	if found {
		env = append(env, fmt.Sprintf("%s=%s:%d", failpoint.EnvPoint, point, pass))
	}
	return point, env
}
