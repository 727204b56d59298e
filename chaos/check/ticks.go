package check

import (
	"fmt"
	"time"

	"github.com/peltonq/pelton/chaos/history"
)

// ticks: each tick of a schedule has one task, which runs once, not before the tick and
// not much later.
func ticks(h *index) []Violation {
	type tick struct {
		schedule string
		at       int64
	}
	var (
		due   []tick
		runs  = make(map[tick][]history.Event)
		found []Violation
	)
	for _, e := range h.events {
		at := tick{e.Schedule, e.Tick.UnixNano()}
		switch e.Kind { //nolint:exhaustive // the others are not of schedules
		case history.TickDue:
			due = append(due, at)
		case history.TickRun:
			if runs[at] = append(runs[at], e); len(runs[at]) == 1 {
				late := e.Wall.Sub(e.Tick)
				if late < 0 || late > h.cfg.TickLate {
					found = append(found, Violation{Task: e.Task, Text: fmt.Sprintf("tick %s of schedule %s started %s after it", e.Tick.Format(time.RFC3339Nano), e.Schedule, late), Events: runs[at]})
				}
			}
		}
	}
	for _, at := range due {
		if len(runs[at]) == 0 {
			found = append(found, Violation{Text: fmt.Sprintf("tick %s of schedule %s has no task", time.Unix(0, at.at).UTC().Format(time.RFC3339Nano), at.schedule)})
		}
	}
	for at, all := range runs {
		if len(all) > 1 {
			found = append(found, Violation{Task: all[1].Task, Text: fmt.Sprintf("tick %s of schedule %s ran %d times, first as task %s", time.Unix(0, at.at).UTC().Format(time.RFC3339Nano), at.schedule, len(all), all[0].Task), Events: all})
		}
	}
	return found
}
