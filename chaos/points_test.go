package chaos_test

import (
	"fmt"
	"math/rand/v2"
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
	turn  int
}

// newPoints wants so many deaths at each place. A place that is listed twice is
// handed out twice as often.
func newPoints(random *rand.Rand, deaths int, order ...failpoint.Point) *points {
	p := &points{rand: random, order: order, left: make(map[failpoint.Point]int)}
	for _, point := range order {
		p.left[point] = deaths
	}
	return p
}

// take is where the next process dies, and at which pass.
func (p *points) take() (point failpoint.Point, pass int, found bool) {
	if p == nil {
		return "", 0, false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for range p.order {
		point = p.order[p.turn%len(p.order)]
		p.turn++
		if p.left[point] == 0 {
			continue
		}
		switch point {
		case failpoint.FailBuried, failpoint.ReleaseRecorded, failpoint.RepublishPublished, failpoint.AckedFirst,
			failpoint.CancelRecorded, failpoint.RequeueRecorded, failpoint.RequeuePublished: // few get there
			return point, 1, true
		default:
			return point, 1 + p.rand.IntN(4), true
		}
	}
	return "", 0, false
}

// hit notes a death.
func (p *points) hit(point failpoint.Point) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.left[point] = max(0, p.left[point]-1)
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
func (s *suite) environment(from *points) (failpoint.Point, []string) {
	var env []string
	if s.broken != "" {
		env = append(env, failpoint.EnvBroken+"="+string(s.broken))
	}
	point, pass, found := from.take()
	if found {
		env = append(env, fmt.Sprintf("%s=%s:%d", failpoint.EnvPoint, point, pass))
	}
	return point, env
}
