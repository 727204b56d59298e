package worker

import (
	"sync/atomic"
	"time"

	"github.com/peltonq/pelton/internal/broker"
)

const (
	// mostLimits is how many limits one task is held against, so that its record
	// stays within its size.
	mostLimits = 32
	// pauseStep spaces the tasks that wait for the end of a pause, in the order in
	// which they came; pauseSpread is how far at most.
	pauseStep   = time.Millisecond
	pauseSpread = 10 * time.Second
)

// rules say which tasks may not start. They are made anew with every change.
type rules struct {
	// By whose name they are for; "" is those of any kind. Limits of rate keys come
	// first: who waits for his own key must not hold a place in everybody's line.
	byKind map[string][]broker.RevisedLimit
	kinds  map[string]*kindPause
	keys   map[string]*kindPause
}

// kindPause is a pause of a kind or a rate key, and how many wait for its end.
type kindPause struct {
	broker.Pause
	waiting atomic.Int64
}

func newRules(from broker.Rules, before *rules) *rules {
	r := &rules{
		byKind: make(map[string][]broker.RevisedLimit),
		kinds:  make(map[string]*kindPause), keys: make(map[string]*kindPause),
	}
	for _, keyed := range []bool{true, false} {
		for _, l := range from.Limits {
			if l.Rated() && (l.RateKey != "") == keyed {
				r.byKind[l.Kind] = append(r.byKind[l.Kind], l)
			}
		}
	}
	for _, p := range from.Pauses {
		of, name, known := r.kinds, p.Kind, before.kinds[p.Kind]
		if p.Kind == "" {
			of, name, known = r.keys, p.RateKey, before.keys[p.RateKey]
		}
		of[name] = &kindPause{Pause: p}
		if known != nil && known.Until.Equal(p.Until) {
			of[name].waiting.Store(known.waiting.Load())
		}
	}
	return r
}

// apply reports whether a task has limits.
func (r *rules) apply(kind, key string) bool {
	return len(r.byKind) > 0 && len(r.applying(kind, key)) > 0
}

// applying are the limits of a task, at most mostLimits.
func (r *rules) applying(kind, key string) []*broker.RevisedLimit {
	var found []*broker.RevisedLimit
	for _, keyed := range []bool{true, false} {
		for _, of := range []string{kind, ""} {
			list := r.byKind[of]
			for i := range list {
				if l := &list[i]; (l.RateKey != "") == keyed && len(found) < mostLimits && l.Applies(kind, key) {
					found = append(found, l)
				}
			}
		}
	}
	return found
}

// paused is until when a task must not start because its kind or key is paused;
// zero if it is not. waited is until when it was put off before: a pause that was
// over by then is over, whatever this process's clock says.
func (r *rules) paused(kind, key string, waited, now time.Time) time.Time {
	var until time.Time
	for _, p := range []*kindPause{r.kinds[kind], r.keys[key]} {
		if p == nil || !p.Until.After(now) || !waited.Before(p.Until) {
			continue
		}
		at := p.Until.Add(min(pauseStep*time.Duration(p.waiting.Add(1)-1), pauseSpread))
		if at.After(until) {
			until = at
		}
	}
	return until
}

// followRules takes in the rules that come until there are no more, and closes known when it has
// the first, which is complete.
func (w *Worker) followRules(found <-chan broker.Rules, known chan<- struct{}) {
	for from := range found {
		before := w.rules.Load()
		now := newRules(from, before)
		w.rules.Store(now)
		if len(now.byKind) > 0 && len(before.byKind) == 0 && w.cfg.Limiter == nil {
			w.warnUnshared()
		}
		if known != nil {
			close(known)
			known = nil
		}
	}
}

// warnUnshared says what limits mean without a limiter that is shared.
func (w *Worker) warnUnshared() {
	w.unshared.Do(func() {
		w.cfg.Logger.Warn("rate limits are not shared: this process holds its share of each limit by itself, whatever others start; "+
			"n processes with share 1 start n times the limit", "share", w.cfg.LimitShare)
	})
}

// free reports whether neither the kind nor the key is paused.
func (r *rules) free(kind, key string, now time.Time) bool {
	for _, p := range []*kindPause{r.kinds[kind], r.keys[key]} {
		if p != nil && p.Until.After(now) {
			return false
		}
	}
	return true
}
