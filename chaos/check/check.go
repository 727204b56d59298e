// Package check holds a history of the fault suite against the guarantees. It is
// pure: a history in, a report out.
package check

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/chaos/history"
)

// Config says what the history was made with.
type Config struct {
	// Lease of the lanes. Required.
	Lease time.Duration
	// Recovery is how much later than the lease a task must run again once a
	// worker is free. Zero means 5 s.
	Recovery time.Duration
	// Slots of all workers together. While that many handlers run, no task is
	// late. Zero means that there always is a free one.
	Slots int
	// CtxEnd is how long after the answer to a cancel a handler's ctx may go on.
	// Zero means 1 s.
	CtxEnd time.Duration
	// Idle is how long workers with free slots may start nothing while a task is
	// due: the time to hand over a backlog. Zero means 1 s.
	Idle time.Duration
	// Limits of concurrency keys: how many tasks of each may run at a time. A key
	// that is absent has 1.
	Limits map[string]int
	// TickLate is how long after its nominal time the task of a tick may start. Zero
	// means 5 s.
	TickLate time.Duration
	// Promotion is how long a plain task may run without a record that says so, and how
	// long after the answer to a cancel one may start that had been handed out
	// before. Zero means 1 s.
	Promotion time.Duration
	// Followed is by how much a server may be late with a record that it keeps because
	// many read it. Zero means 1 s.
	Followed time.Duration
	// MaxCrashes is how many workers a task may kill. Zero means
	// pelton.DefaultMaxCrashes.
	MaxCrashes int
}

func (c Config) withDefaults() Config {
	if c.Recovery == 0 {
		c.Recovery = 5 * time.Second
	}
	if c.CtxEnd == 0 {
		c.CtxEnd = time.Second
	}
	if c.TickLate == 0 {
		c.TickLate = 5 * time.Second
	}
	if c.Promotion == 0 {
		c.Promotion = time.Second
	}
	if c.Followed == 0 {
		c.Followed = time.Second
	}
	if c.MaxCrashes == 0 {
		c.MaxCrashes = pelton.DefaultMaxCrashes
	}
	if c.Idle == 0 {
		c.Idle = time.Second
	}
	return c
}

// tail is how long the effects of a fault may last: until the broker hands the
// task on, and its new worker has it.
func (c Config) tail() time.Duration { return c.Lease + c.Recovery }

// Violation is a guarantee that the history breaks.
type Violation struct {
	Rule   string
	Task   pelton.ID // zero if it is of no single task
	Text   string
	Events []history.Event // of the task, as far as the rule looked at them
}

func (v Violation) String() string {
	return fmt.Sprintf("%s: task %s: %s", v.Rule, v.Task, v.Text)
}

// Counts sum up a history.
type Counts struct {
	Accepted, Unknown, Refused int // enqueues
	Succeeded, Failed          int // accepted tasks by how they ended
	Poisoned                   int // of the failed: their workers died too often
	Cancelled, Expired         int
	Replaced                   int // of the cancelled: in favour of another with their unique key
	Runs                       int
	Bare                       int // of the runs: without a record when their handlers began
	Traceless                  int // of those: died before there was one
	Duplicates                 int // runs beyond the first of the same attempt, or beside another run of the task
	MostPerKey                 int // runs of one concurrency key at a time, without zombies
	Zombies                    int // runs that went on beside others of their key after their workers had lost them
	Faults                     map[string]int
	Reads                      int // records read, stored ones included
}

func (c Counts) String() string {
	faults := make([]string, 0, len(c.Faults))
	for what, n := range c.Faults {
		faults = append(faults, fmt.Sprintf("%s %d", what, n))
	}
	slices.Sort(faults)
	return fmt.Sprintf("%d accepted (%d unknown, %d refused): %d succeeded, %d failed (%d as poison), %d cancelled (%d replaced), %d expired; %d runs (%d without a record, %d died so), %d duplicates, at most %d of a key (and %d zombies), %d records read; faults: %s",
		c.Accepted, c.Unknown, c.Refused, c.Succeeded, c.Failed, c.Poisoned, c.Cancelled, c.Replaced, c.Expired, c.Runs, c.Bare, c.Traceless, c.Duplicates, c.MostPerKey, c.Zombies, c.Reads, strings.Join(faults, ", "))
}

// Report is what Check found.
type Report struct {
	Counts     Counts
	Violations []Violation
}

// rule is one guarantee.
type rule struct {
	name  string
	check func(h *index) []Violation
}

// rules in the order of design: what is kept, what is final, what runs, what the
// calls say, how soon, what excludes what.
func rules() []rule {
	return []rule{
		{"lost", each(lost)},
		{"missing", each(missing)},
		{"refused", refused},
		{"invented", invented},
		{"final", each(final)},
		{"moves", each(moves)},
		{"stale", each(stale)},
		{"owners", each(owners)},
		{"runs", each(ran)},
		{"promoted", each(promoted)},
		{"attempts", each(attempts)},
		{"crashes", each(crashes)},
		{"results", each(results)},
		{"fences", each(fences)},
		{"duplicates", each(duplicated)},
		{"overlaps", each(overlapping)},
		{"early", each(early)},
		{"delayed", each(delayed)},
		{"cancels", each(cancels)},
		{"ctx-ends", each(ctxEnds)},
		{"recovery", recovery},
		{"key-limits", keyLimits},
		{"key-order", keyOrder},
		{"unique", unique},
		{"replaced", replaced},
		{"idempotent", idempotent},
		{"locks", locks},
		{"ticks", ticks},
	}
}

// Names lists the rules.
func Names() []string {
	var names []string
	for _, r := range rules() {
		names = append(names, r.name)
	}
	return names
}

// Check holds a history, in the order of time, against every rule.
func Check(events []history.Event, cfg Config) Report {
	h := newIndex(events, cfg.withDefaults())
	report := Report{Counts: h.counts()}
	for _, r := range rules() {
		for _, v := range r.check(h) {
			v.Rule = r.name
			report.Violations = append(report.Violations, v)
		}
	}
	return report
}

// each makes a rule of one that looks at a single task.
func each(check func(h *index, t *task) string) func(*index) []Violation {
	return func(h *index) []Violation {
		var found []Violation
		for _, t := range h.tasks {
			if text := check(h, t); text != "" {
				found = append(found, Violation{Task: t.id, Text: text, Events: t.events})
			}
		}
		return found
	}
}
