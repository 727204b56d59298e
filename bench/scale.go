package main

import (
	"context"
	"time"
)

// scale bounds a run: each step ends after so many tasks or so much time.
type scale struct {
	Full     bool          `json:"full"`
	Reps     int           `json:"repetitions"`
	Tasks    int           `json:"tasks"`  // of batch, and of enqueue and work at once
	Within   time.Duration `json:"within"` // of what sends tasks, per step
	Callers  []int         `json:"callers"`
	Drain    int           `json:"drain"`     // tasks of a drain
	DrainFor time.Duration `json:"drain_for"` // the most that is looked at
	Samples  int           `json:"samples"`
	Queued   int           `json:"queued"` // tasks of the memory mode
	// Depths are how many tasks are queued in the growth mode; Rounds is how often a
	// drain is measured beside each.
	Depths []int `json:"depths"`
	Rounds int   `json:"rounds"`
	// Retained are finished tasks whose memory is looked at, when the server has been
	// idle for Quiet, while other contestants are measured.
	Retained int           `json:"retained"`
	Quiet    time.Duration `json:"quiet"`
	Critical int           `json:"critical"` // tasks of a priority beside a load
	Idle     time.Duration `json:"idle"`     // how long an idle worker is looked at
	Poll     time.Duration `json:"poll"`     // how long a task is polled in each state
	Synced   int           `json:"synced"`   // tasks of a drain in which every write is synced

	turn int // the repetition, from 0
	// later sets the contestant aside, as it is, until all modes are done, and reads
	// something of it then.
	later func(read func(context.Context) ([]measured, error))
}

// Tasks that are queued in the growth mode.
var (
	shortDepths = []int{10_000, 200_000}
	fullDepths  = []int{10_000, 100_000, million}
)

// shortScale takes less than 10 minutes with all contestants; fullScale about an hour.
var (
	shortScale = scale{
		Reps: 3, Tasks: 10_000, Within: time.Second, Callers: []int{1, 64}, Drain: 20_000, DrainFor: 1500 * time.Millisecond,
		Samples: 200, Queued: 20_000, Depths: shortDepths, Rounds: 3, Retained: 100_000, Quiet: 150 * time.Second,
		Critical: 500, Idle: 10 * time.Second, Poll: 2 * time.Second, Synced: 2000,
	}
	fullScale = scale{
		Full: true, Reps: 5, Tasks: 50_000, Within: 4 * time.Second, Callers: []int{1, 16, 64}, Drain: 100_000, DrainFor: 10 * time.Second,
		Samples: 2000, Queued: 200_000, Depths: fullDepths, Rounds: 5, Retained: 300_000, Quiet: 150 * time.Second,
		Critical: 3000, Idle: 30 * time.Second, Poll: 10 * time.Second, Synced: 20_000,
	}
)

// part is the scale with fewer tasks and less time, to try modes out: its figures
// mean little, and bounds of memory nothing.
func (s scale) part(share float64) scale {
	for _, n := range []*int{&s.Tasks, &s.Drain, &s.Samples, &s.Queued, &s.Retained, &s.Critical, &s.Synced} {
		*n = max(min(*n, batchSize), int(share*float64(*n)))
	}
	for _, d := range []*time.Duration{&s.Within, &s.DrainFor, &s.Idle, &s.Poll} {
		*d = max(min(*d, 200*time.Millisecond), time.Duration(share*float64(*d)))
	}
	s.Quiet = max(time.Second, min(s.Quiet, time.Duration(share*float64(s.Quiet))))
	return s
}
