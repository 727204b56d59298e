package check

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/chaos/history"
)

// index is a history by task and by fault.
type index struct {
	cfg    Config
	events []history.Event
	tasks  []*task // in the order in which they first appear
	byID   map[pelton.ID]*task
	sent   map[string]*history.Event // the first request of each name
	faults []fault
	healed *history.Event // the last one
}

// task is what the history tells of one task.
type task struct {
	id       pelton.ID
	events   []history.Event
	accepted *history.Event  // the first answer that said so
	retried  bool            // somebody asked for it to run again when it was over
	killed   int             // how often it ended the process that ran it
	runs     []*run          // by time of start
	reads    []history.Event // of the record, by time
	versions []version       // of the record, by revision, each once
}

// version is one revision of a record.
type version struct {
	history.Record
	at int64 // when it was first read
}

// run is one start of a handler.
type run struct {
	history.Event                // the start
	end           *history.Event // nil: the process died, or the handler still runs
	ctxEnd        *history.Event
	locks         []*history.Event // what it took and gave back
}

// attemptEnded reports whether the handler ended an attempt: with an outcome of
// its own, or by outliving its timeout.
func (r *run) attemptEnded() bool {
	if r.ctxEnd != nil && r.ctxEnd.Outcome == history.Timeout {
		return true
	}
	if r.end == nil {
		return false
	}
	switch r.end.Outcome {
	case history.OK, history.Failure, history.Panic, history.Goexit, history.Timeout:
		return true
	case history.Snoozed, history.Cancelled, history.Fenced, history.LostLock, history.Shutdown:
		return false
	default:
		return false
	}
}

// fault is one fault from its beginning to its end; the last moment of the history
// if nothing ended it.
type fault struct {
	what, target string
	begin, end   int64
}

func newIndex(events []history.Event, cfg Config) *index {
	h := &index{cfg: cfg, events: events, byID: make(map[pelton.ID]*task), sent: make(map[string]*history.Event)}
	open := make(map[[2]string][]int)
	for i := range events {
		e := &events[i]
		switch e.Kind {
		case history.FaultBegin:
			at := [2]string{e.Fault, e.Target}
			open[at] = append(open[at], len(h.faults))
			h.faults = append(h.faults, fault{what: e.Fault, target: e.Target, begin: e.At, end: events[len(events)-1].At})
			if !e.Task.IsZero() {
				h.task(e.Task).killed++
			}
		case history.FaultEnd:
			at := [2]string{e.Fault, e.Target}
			if n := len(open[at]); n > 0 {
				h.faults[open[at][n-1]].end = e.At
				open[at] = open[at][:n-1]
			}
		case history.Healed:
			h.healed = e
		case history.TickDue, history.TickRun: // see ticks
		case history.EnqueueSent, history.EnqueueOK, history.EnqueueExisting, history.EnqueueUnknown, history.EnqueueRefused,
			history.RunStart, history.RunEnd, history.CtxEnd, history.LockTaken, history.LockReleased, history.LockLost,
			history.CancelSent, history.CancelOK, history.CancelConflict, history.CancelUnknown, history.RetrySent,
			history.HurrySent, history.HurryOK, history.HurryConflict, history.HurryUnknown,
			history.Observe, history.Missing:
			if e.Kind == history.EnqueueSent && h.sent[e.Ref] == nil {
				h.sent[e.Ref] = e
			}
			if !e.Task.IsZero() {
				h.task(e.Task).add(e)
			}
		}
	}
	for _, t := range h.tasks {
		slices.SortStableFunc(t.versions, func(a, b version) int { return cmp.Compare(a.Revision, b.Revision) })
	}
	return h
}

func (h *index) task(id pelton.ID) *task {
	t := h.byID[id]
	if t == nil {
		t = &task{id: id}
		h.byID[id] = t
		h.tasks = append(h.tasks, t)
	}
	return t
}

func (t *task) add(e *history.Event) {
	t.events = append(t.events, *e)
	switch e.Kind {
	case history.EnqueueOK:
		if t.accepted == nil {
			t.accepted = e
		}
	case history.RunStart:
		t.runs = append(t.runs, &run{Event: *e})
	case history.RunEnd:
		if r := t.run(e.Run); r != nil {
			r.end = e
		}
	case history.CtxEnd:
		if r := t.run(e.Run); r != nil {
			r.ctxEnd = e
		}
	case history.RetrySent:
		t.retried = true
	case history.LockTaken, history.LockReleased, history.LockLost:
		if r := t.run(e.Run); r != nil {
			r.locks = append(r.locks, e)
		}
	case history.EnqueueSent, history.EnqueueExisting, history.EnqueueUnknown, history.EnqueueRefused,
		history.CancelSent, history.CancelUnknown, history.CancelOK, history.CancelConflict,
		history.HurrySent, history.HurryOK, history.HurryConflict, history.HurryUnknown,
		history.Observe, history.Missing, history.FaultBegin, history.FaultEnd, history.Healed, history.TickDue, history.TickRun:
	}
	if e.Record != nil {
		t.reads = append(t.reads, *e)
		t.addVersion(version{Record: *e.Record, at: e.At})
	}
}

// addVersion keeps each revision once; as it is stored, if that was read.
func (t *task) addVersion(v version) {
	i := slices.IndexFunc(t.versions, func(old version) bool { return old.Revision == v.Revision })
	switch {
	case i < 0:
		t.versions = append(t.versions, v)
	case v.Stored && !t.versions[i].Stored:
		v.at = min(v.at, t.versions[i].at)
		t.versions[i] = v
	}
}

// run is the run of that name.
func (t *task) run(name string) *run {
	for _, r := range slices.Backward(t.runs) {
		if r.Run == name {
			return r
		}
	}
	return nil
}

// life counts the requeues before a revision: each is a life of its own.
func (t *task) life(revision uint64) int {
	n := 0
	for _, v := range t.versions {
		if v.Revision < revision && v.State.Terminal() {
			n++
		}
	}
	return n
}

// last is the newest version of the record, nil if it was never read.
func (t *task) last() *version {
	if len(t.versions) == 0 {
		return nil
	}
	return &t.versions[len(t.versions)-1]
}

// fault reports whether a fault that the actor felt was under way, or had been
// within tail before, at some moment from begin to end.
func (h *index) fault(actor string, begin, end int64, tail time.Duration) bool {
	return slices.ContainsFunc(h.faults, func(f fault) bool {
		return (f.target == actor || f.target == history.Everyone) && f.begin <= end && f.end+int64(tail) >= begin
	})
}

// unaware reports whether the actor may not have known between two times what
// became of its tasks: as fault, but for faults of the network alone, which a worker
// notices by itself.
func (h *index) unaware(actor string, begin, end int64) bool {
	return slices.ContainsFunc(h.faults, func(f fault) bool {
		return (f.target == actor || f.target == history.Everyone) && !strings.HasPrefix(f.what, history.NetworkFault) &&
			f.begin <= end && f.end+int64(h.cfg.tail()) >= begin
	})
}

func (h *index) counts() Counts {
	c := Counts{Faults: make(map[string]int)}
	for _, key := range h.keys() {
		c.MostPerKey = max(c.MostPerKey, key.most)
		c.Zombies += key.zombies
	}
	for i := range h.events {
		switch e := &h.events[i]; {
		case e.Kind == history.EnqueueUnknown:
			c.Unknown++
		case e.Kind == history.EnqueueRefused:
			c.Refused++
		case e.Record != nil:
			c.Reads++
		}
	}
	for _, f := range h.faults {
		c.Faults[f.what]++
	}
	for _, t := range h.tasks {
		c.Runs += len(t.runs)
		c.Bare += len(slices.DeleteFunc(slices.Clone(t.runs), func(r *run) bool { return !r.bare() }))
		c.Traceless += len(slices.DeleteFunc(slices.Clone(t.runs), func(r *run) bool { return r.end != nil || !t.traceless(r) }))
		for i := range t.runs {
			if t.duplicate(i) {
				c.Duplicates++
			}
		}
		last := t.last()
		if t.accepted == nil {
			continue
		}
		c.Accepted++
		if last == nil {
			continue
		}
		switch last.State {
		case pelton.Succeeded:
			c.Succeeded++
		case pelton.Failed:
			c.Failed++
			if last.Reason == pelton.ReasonPoison {
				c.Poisoned++
			}
		case pelton.Cancelled:
			c.Cancelled++
			if t.replaced() != nil {
				c.Replaced++
			}
		case pelton.Expired:
			c.Expired++
		case pelton.Scheduled, pelton.Queued, pelton.Running, pelton.Retrying:
		}
	}
	return c
}
