package main

import (
	"cmp"
	"fmt"
	"slices"
)

// The kinds of a bound: what Pelton has to hold, and what it is to reach.
const (
	must = "must"
	goal = "goal"
)

// bound is what a figure is held to: a number, or so many times another figure of
// the same run. A metric whose smaller values are better has to be at most that,
// any other at least.
type bound struct {
	kind       string
	metric     string
	contestant string
	limit      float64 // a number in the metric's unit, or a factor where there is something to multiply
	// ofMetric and of name the other figure. An empty of is a bound by a number, an
	// empty ofMetric the same metric.
	ofMetric string
	of       string
}

// verdict is a bound beside the figure that it is about.
type verdict struct {
	Bound string  `json:"bound"` // in words
	Limit float64 `json:"limit"` // in the metric's unit
	Held  bool    `json:"held"`
}

// bounds are what Pelton is held to. Shares and multiples are of medians of the
// same run.
var bounds = []bound{
	{must, enqueueBy(64), namePelton, 0.85, "", nameFloor},
	{must, enqueueBy(64), nameEmbedded, 0.85, "", nameFloorEmbedded},
	{goal, enqueueBy(64), namePelton, 1.3, "", nameAsynq},
	{goal, enqueueBy(64), nameEmbedded, 2.5, "", nameAsynq},
	{must, enqueueBy(64), nameHTTP, 0.6, "", nameBare},
	{goal, enqueueBy(64), nameHTTP, 1.5, "", nameAsynqHTTP},
	{must, enqueueBy(1), namePelton, 0.9, "", nameFloor},
	{must, enqueueBy(1), nameEmbedded, 0.9, "", nameFloorEmbedded},
	{goal, enqueueBy(1), nameEmbedded, 3.5, "", nameAsynq},
	{must, batchMetric, namePelton, 0.85, "", nameFloor},
	{must, batchMetric, nameEmbedded, 0.85, "", nameFloorEmbedded},
	{goal, batchMetric, namePelton, 3.5, enqueueBy(64), nameAsynq},
	{goal, batchMetric, nameEmbedded, 4.5, enqueueBy(64), nameAsynq},
	{must, drainMetric, namePelton, 0.85, "", nameFloor},
	{goal, drainMetric, namePelton, 12, "", nameAsynq},
	{goal, drainMetric, namePelton, 5, "", nameRiver},
	{goal, drainMetric, namePelton, 7, "", nameBull},
	{must, bothMetric, namePelton, 0.85, "", nameFloor},
	{goal, bothMetric, namePelton, 6, "", nameAsynq},
	{goal, bothMetric, namePelton, 4, "", nameBull},
	{must, latencyMetric + ", p99", namePelton, 5, "", ""},
	{goal, latencyMetric + ", p50", namePelton, 1, "", ""},
	{goal, latencyMetric + ", p99", namePelton, 3, "", ""},

	{must, drainOfQueues(100), namePelton, 0.8, drainOfQueues(1), namePelton},
	{must, drainBeside(shortDepths[1]), namePelton, 0.9, drainBeside(shortDepths[0]), namePelton},
	{must, drainBeside(million), namePelton, 0.9, drainBeside(fullDepths[0]), namePelton},
	{must, memoryOfQueued(shortDepths[1]), namePelton, 100, "", ""},
	{goal, memoryOfQueued(shortDepths[1]), namePelton, 50, "", ""},
	{must, diskOfQueued(shortDepths[1]), namePelton, 350, "", ""},
	{goal, diskOfQueued(shortDepths[1]), namePelton, 300, "", ""},
	{must, memoryOfQueued(million), namePelton, 100, "", ""},
	{goal, memoryOfQueued(million), namePelton, 50, "", ""},
	{must, diskOfQueued(million), namePelton, 350, "", ""},
	{goal, diskOfQueued(million), namePelton, 300, "", ""},
	{must, idleMetric, namePelton, 2, "", ""},
	{must, workerMemory, namePelton, 80, "", ""},
	{must, retainedMemory, namePelton, 600, "", ""},
	{must, criticalMetric + ", p99", namePelton, 25, "", ""},

	{must, syncedEnqueue, nameSynced, 3, "", nameRiver},
	{goal, syncedEnqueue, nameSynced, 6000, "", ""},
	{goal, syncedBatch, nameSynced, 20_000, "", ""},
	{goal, syncedDrain, nameSynced, 2500, "", ""},
	{goal, syncedLone + ", p99", nameSynced, 15, "", ""},
}

// words is the bound without its kind: "≥ 85 % of floor".
func (b bound) words(m metric) string {
	sign := "≥"
	if m.Less {
		sign = "≤"
	}
	switch {
	case b.of == "":
		return fmt.Sprintf("%s %s %s", sign, number(b.limit), m.Unit)
	case b.limit <= 1:
		sign = fmt.Sprintf("%s %.0f %% of ", sign, 100*b.limit)
	default:
		sign = fmt.Sprintf("%s %v× ", sign, b.limit)
	}
	switch {
	case b.ofMetric == "" || b.ofMetric == b.metric:
		return sign + b.of
	case b.of == b.contestant:
		return sign + b.ofMetric
	default:
		return sign + b.of + ", " + b.ofMetric
	}
}

// judge writes the bounds beside the figures that they are about. One whose other
// figure is not there is named in Unjudged.
func (c *comparison) judge(all []bound) {
	find := func(metric, contestant string) *row {
		i := slices.IndexFunc(c.Rows, func(r row) bool { return r.Metric.Name == metric && r.Contestant == contestant })
		if i < 0 {
			return nil
		}
		return &c.Rows[i]
	}
	for _, b := range all {
		r := find(b.metric, b.contestant)
		if r == nil {
			continue
		}
		v := verdict{Bound: b.words(r.Metric), Limit: b.limit}
		if b.of != "" {
			other := find(cmp.Or(b.ofMetric, b.metric), b.of)
			if other == nil {
				c.Unjudged = append(c.Unjudged, fmt.Sprintf("%s %s, %s: %s", b.kind, b.metric, b.contestant, v.Bound))
				continue
			}
			v.Limit *= other.Median
		}
		v.Held = r.Median >= v.Limit
		if r.Metric.Less {
			v.Held = r.Median <= v.Limit
		}
		if b.kind == must {
			r.Must = append(r.Must, v)
		} else {
			r.Goal = append(r.Goal, v)
		}
	}
}

// judged is a line of the list of bounds.
type judged struct {
	kind string
	row  row
	verdict
}

// verdicts lists what has to be held, and then what is to be reached.
func (c *comparison) verdicts() []judged {
	var all []judged
	for _, kind := range []string{must, goal} {
		for _, r := range c.Rows {
			of := r.Must
			if kind == goal {
				of = r.Goal
			}
			for _, v := range of {
				all = append(all, judged{kind, r, v})
			}
		}
	}
	return all
}

func held(v bool) string {
	if v {
		return "yes"
	}
	return "no"
}
