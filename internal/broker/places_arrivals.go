package broker

import "maps"

// The number of arrivals by which it is found out how many of all come to this process: at least,
// and that of which older ones count for less.
const (
	shareOf     = 64
	shareOfLast = 1024
)

// arrivalRun is a run of arrivals: every message of the stream between two sequences came to this
// process, one behind the other without a sequence missing; 0 is none.
type arrivalRun struct {
	from, to uint64
	// ahead are places behind them that are dealt with: if they are deleted before they
	// arrive, nothing is missing.
	ahead map[uint64]struct{}

	n, of uint64 // so many came, of so many messages: long gaps count for less
}

// add takes note of an arrival, and reports whether none is missing before it.
func (c *arrivalRun) add(seq uint64) (gapless bool) {
	if c.to > 0 && seq > c.to {
		c.n, c.of = c.n+1, c.of+min(seq-c.to, 2*fewProcesses)
	}
	if c.n > shareOfLast {
		c.n, c.of = c.n/2, c.of/2
	}
	if gapless = c.to > 0 && c.nothingBefore(seq); !gapless {
		c.from, c.to = seq, seq
		maps.DeleteFunc(c.ahead, func(at uint64, _ struct{}) bool { return at <= seq })
	}
	c.to = max(c.to, seq)
	return gapless
}

// shared reports whether others surely take arrivals, too.
func (c *arrivalRun) shared() bool { return c.n >= shareOf && 10*c.of > 13*c.n }

// among reports whether at least one of so many came.
func (c *arrivalRun) among(some uint64) bool { return c.of <= some*c.n }

// nothingBefore reports whether nothing that waits is between those that came and a sequence.
func (c *arrivalRun) nothingBefore(seq uint64) bool {
	if seq > c.to+1+uint64(len(c.ahead)) {
		return false
	}
	for at := c.to + 1; at < seq; at++ {
		if _, over := c.ahead[at]; !over {
			return false
		}
	}
	for at := c.to + 1; at <= seq; at++ {
		delete(c.ahead, at)
	}
	return true
}

// without takes note of places that are dealt with.
func (c *arrivalRun) without(seqs []uint64) {
	for _, seq := range seqs {
		if c.to == 0 || seq <= c.to {
			continue
		}
		if c.ahead == nil {
			c.ahead = make(map[uint64]struct{})
		} else if len(c.ahead) >= mostKnown { // arrivals go elsewhere
			clear(c.ahead)
		}
		c.ahead[seq] = struct{}{}
	}
}
