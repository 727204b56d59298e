package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// entry is a contestant in the list.
type entry struct {
	name  string
	about string
	make  func() contestant
	// modes are those that it takes part in, all if nil. The others would measure
	// another contestant again, or nothing.
	modes []string
}

// The contestants that bounds and ratios refer to.
const (
	namePelton        = "pelton"
	nameEmbedded      = "pelton-embedded"
	nameHTTP          = "pelton-http"
	nameSynced        = "pelton-synced"
	nameFloor         = "floor"
	nameFloorEmbedded = "floor-embedded"
	nameFloorSynced   = "floor-synced"
	nameAsynq         = "asynq"
	nameAsynqHTTP     = "asynq-http"
	nameBare          = "http-bare"
	nameRiver         = "river"
	nameBull          = "bullmq"
)

func contestants(binary string) []entry {
	senders := []string{enqueueMode, "batch"}
	behindHTTP := []string{enqueueMode, "batch", "both", "latency", "latency1k"}
	return []entry{
		{name: namePelton, about: "Pelton, Go client and workers over TCP, --sync 1s", make: func() contestant { return &peltonTCP{binary: binary} }},
		{
			name: nameEmbedded, about: "Pelton in one process: broker, client, worker",
			make: func() contestant { return &peltonEmbedded{} }, modes: []string{enqueueMode, "batch", "drain", "both", "latency", "latency1k"},
		},
		{
			name: nameHTTP, about: "Pelton behind HTTP: POST /tasks and /tasks/batch on kept connections",
			make: func() contestant { return &peltonTCP{binary: binary, http: true} }, modes: behindHTTP,
		},
		{name: nameFloor, about: "bare nats.go over TCP: pull, one pipelined status write, ack", make: func() contestant { return &floor{} }},
		{name: nameFloorEmbedded, about: "bare nats.go, publisher and broker in one process", make: func() contestant { return &floor{inProcess: true} }, modes: senders},
		{name: nameAsynq, about: "asynq on Redis, AOF everysec; deletes finished tasks", make: func() contestant { return &asynqRedis{} }},
		{
			name: "asynq-10ms", about: "asynq with TaskCheckInterval 10 ms instead of 1 s",
			make: func() contestant { return &asynqRedis{check: 10 * time.Millisecond} }, modes: []string{"drain", "drain2", "both", "latency", "latency1k"},
		},
		{
			name: nameAsynqHTTP, about: "asynq behind net/http in a process of its own",
			make: func() contestant { return &asynqRedis{http: true} }, modes: behindHTTP,
		},
		{name: nameBare, about: "net/http that reads the body and answers 202", make: func() contestant { return &bareHTTP{} }, modes: []string{enqueueMode}},
		{name: nameRiver, about: "River on PostgreSQL with its defaults, 1,000 workers a process", make: func() contestant { return &riverPostgres{} }},
		{name: nameBull, about: "BullMQ on Node and Redis, AOF everysec", make: func() contestant { return &bullMQ{} }},
		{
			name: nameSynced, about: "Pelton with --sync always: POST /tasks, and EnqueueMany of the Go client",
			make: func() contestant { return &peltonTCP{binary: binary, http: true, sync: "always"} }, modes: []string{syncedMode},
		},
		{
			name: nameFloorSynced, about: "bare nats.go over TCP, every write synced",
			make: func() contestant { return &floor{synced: true} }, modes: []string{syncedMode},
		},
	}
}

// comparison is what one run found.
type comparison struct {
	Machine     string            `json:"machine"`
	Began       time.Time         `json:"began"`
	Took        string            `json:"took"`
	Scale       scale             `json:"scale"`
	Contestants map[string]string `json:"contestants"`
	Rows        []row             `json:"rows"`
	Skipped     []string          `json:"skipped,omitempty"`
	Unjudged    []string          `json:"unjudged,omitempty"` // bounds by a figure that was not measured
	Failed      int               `json:"failed,omitempty"`   // how often Skipped has another reason than that something is not installed or not offered
	order       []string          // in which they are printed
}

// row is one metric of one contestant.
type row struct {
	Metric     metric    `json:"metric"`
	Contestant string    `json:"contestant"`
	Median     float64   `json:"median"`
	Values     []float64 `json:"values"`
	Others     float64   `json:"others"` // share of the machine that other processes took, mean
	// OfFloor and OfAsynq are the medians' ratios; 0 where there is nothing to compare with.
	OfFloor float64 `json:"of_floor,omitempty"`
	OfAsynq float64 `json:"of_asynq,omitempty"`
	// Must and Goal are what the median is held to.
	Must []verdict `json:"must,omitempty"`
	Goal []verdict `json:"goal,omitempty"`
}

// compare runs the modes one after the other. In each, the contestants take turns,
// in another order each time, so that what else the machine does meets them all.
// What it cannot measure it says in Skipped, and on stderr at once; when ctx ends,
// that is all the rest.
func compare(ctx context.Context, all []entry, modes []mode, s scale) (_ *comparison, err error) {
	dir, err := os.MkdirTemp("", "pelton-bench-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := os.Chmod(dir, 0o755); err != nil { //nolint:gosec // a broker may run as another user
		return nil, err
	}
	c := &comparison{Machine: machine(), Began: time.Now().UTC().Truncate(time.Second), Scale: s, Contestants: map[string]string{}}
	skip := func(format string, args ...any) {
		c.Skipped = append(c.Skipped, fmt.Sprintf(format, args...))
		fmt.Fprintln(os.Stderr, "bench: skipped", c.Skipped[len(c.Skipped)-1])
	}
	fail := func(format string, args ...any) {
		c.Failed++
		skip(format, args...)
	}
	var up []running
	defer func() {
		for _, r := range up {
			if r.contestant == nil {
				continue
			}
			if err1 := r.stop(); ctx.Err() == nil { // otherwise they were told to end, and how they took it tells nothing
				err = errors.Join(err, err1)
			}
		}
	}()
	for _, e := range all {
		if !slices.ContainsFunc(modes, func(m mode) bool { return e.takesPart(m, s.Full) }) {
			continue
		}
		at := filepath.Join(dir, e.name)
		if err := os.Mkdir(at, 0o755); err != nil { //nolint:gosec // a broker may run as another user
			return nil, err
		}
		made := e.make()
		if err := made.start(ctx, at); errors.Is(err, errMissing) {
			skip("%s: %v", e.name, err)
			continue
		} else if ctx.Err() != nil {
			return nil, errors.Join(context.Cause(ctx), err)
		} else if err != nil {
			fail("%s: %v", e.name, err)
			continue
		}
		up = append(up, running{e, made, at})
		c.Contestants[e.name] = e.about
		c.order = append(c.order, e.name)
	}
	if err := c.turns(ctx, up, modes, fail, skip); err != nil {
		fail("the rest: %v", err)
	}
	c.Took = time.Since(c.Began).Round(time.Second).String()
	c.finish()
	return c, nil
}

// turns runs all modes once, then those that are repeated once more, and so on,
// until they are done, ctx ends, or the time that it leaves is too short for another
// repetition: a busy machine gets fewer of them, not fewer modes.
func (c *comparison) turns(ctx context.Context, up []running, modes []mode, fail, skip func(format string, args ...any)) error {
	var set []late
	defer func() {
		for _, l := range set {
			_ = l.stop() // what it measured stands
		}
	}()
	for rep := range c.Scale.Reps {
		repeated := time.Duration(0) // what another repetition will take
		for _, m := range modes {
			began := time.Now()
			again := !m.once && (!m.briefly || c.Scale.Full)
			if rep > 0 && !again || !slices.ContainsFunc(up, func(r running) bool { return r.contestant != nil && r.takesPart(m, c.Scale.Full) }) {
				continue
			}
			more, err := c.turn(ctx, up, m, rep, fail, skip)
			set = append(set, more...)
			if err != nil {
				return err
			}
			if again {
				repeated += time.Since(began)
			}
			fmt.Fprintf(os.Stderr, "bench: %s, %d of %d, after %s\n", m.name, rep+1, c.Scale.Reps, time.Since(c.Began).Round(time.Second))
		}
		if end, bounded := ctx.Deadline(); bounded && rep+1 < c.Scale.Reps && time.Until(end) < repeated*5/4+spare {
			skip("the repetitions from number %d on: one takes %s, and that time is not left", rep+2, repeated.Round(time.Second))
			break
		}
	}
	for _, l := range set {
		got, err := l.read(ctx)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			fail("%s, %s: %v", l.name, l.mode.name, err)
			continue
		}
		c.add(l.name, l.mode, got, l.others)
	}
	return nil
}

// spare is what may be left of a run's time for late readings and the end.
const spare = 40 * time.Second

// turn measures each contestant once, and tells which were set aside.
func (c *comparison) turn(ctx context.Context, up []running, m mode, rep int, fail, skip func(format string, args ...any)) (set []late, err error) {
	s := c.Scale
	s.turn = rep
	for i := range up {
		r := &up[(i+rep)%len(up)]
		if r.contestant == nil || !r.takesPart(m, s.Full) {
			continue
		}
		var aside late
		s.later = func(read func(context.Context) ([]measured, error)) { aside.read = read }
		got, others, err := r.once(ctx, m, s)
		if err == nil && aside.read != nil {
			set = append(set, late{r.contestant, r.name, m, others, aside.read})
			err = r.renew(ctx)
		}
		switch {
		case err == nil:
			c.add(r.name, m, got, others)
		case ctx.Err() != nil:
		case errors.Is(err, errNoBatch):
			if rep == 0 {
				skip("%s, %s: %v", r.name, m.name, err)
			}
		default: // it is out; the others go on
			fail("%s, from %s on: %v", r.name, m.name, err)
			if r.contestant != nil {
				_ = r.stop()
				r.contestant = nil
			}
		}
		if ctx.Err() != nil {
			return set, context.Cause(ctx)
		}
	}
	return set, nil
}

// takesPart tells whether a mode measures the contestant.
func (e entry) takesPart(m mode, full bool) bool {
	in := func(names []string, name string) bool { return names == nil || slices.Contains(names, name) }
	return in(e.modes, m.name) && in(m.only, e.name) && (full || in(m.brief, e.name))
}

// running is a contestant that has been started; it has none if it failed since.
type running struct {
	entry
	contestant
	dir string
}

// reset leaves an empty queue. What it starts outlives the measurement.
func (r *running) reset(ctx context.Context) error {
	if able, ok := r.contestant.(resetter); ok {
		return able.reset(ctx)
	}
	c := r.contestant
	r.contestant = nil
	if err := c.stop(); err != nil {
		return err
	}
	if err := c.start(ctx, r.dir); err != nil {
		return err
	}
	r.contestant = c
	return nil
}

// readyFor is what a contestant that has just started has before it is measured: that is what it
// does, not how it starts. A second covers what brokers and servers still do when they are ready.
const readyFor = time.Second

// once is one measurement, and the share of the machine that others took.
func (r *running) once(ctx context.Context, m mode, s scale) ([]measured, float64, error) {
	if err := r.reset(ctx); err != nil {
		return nil, 0, fmt.Errorf("reset: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(m.within, modeWithin))
	defer cancel()
	have, _, err := r.enqueue(ctx, load{callers: 16, n: warmTasks, within: modeWithin})
	if err != nil {
		return nil, 0, fmt.Errorf("warm up: %w", err)
	}
	select {
	case <-time.After(readyFor):
	case <-ctx.Done():
		return nil, 0, context.Cause(ctx)
	}
	before, err := readCPU()
	if err != nil {
		return nil, 0, err
	}
	got, err := m.run(ctx, r.contestant, s, have)
	if err != nil {
		return nil, 0, err
	}
	others, err := before.others()
	return got, others, err
}

func (c *comparison) add(name string, m mode, got []measured, others float64) {
	for _, g := range got {
		i := slices.IndexFunc(c.Rows, func(r row) bool { return r.Contestant == name && r.Metric.Name == g.metric })
		if i < 0 {
			i = len(c.Rows)
			at := slices.IndexFunc(m.metrics, func(m metric) bool { return m.Name == g.metric })
			c.Rows = append(c.Rows, row{Metric: m.metrics[at], Contestant: name})
		}
		c.Rows[i].Values = append(c.Rows[i].Values, g.value)
		c.Rows[i].Others += others
	}
}

// finish computes medians and ratios, and sorts rows by metric and contestant.
func (c *comparison) finish() {
	medians := map[[2]string]float64{}
	for i := range c.Rows {
		r := &c.Rows[i]
		r.Median = median(r.Values)
		r.Others /= float64(len(r.Values))
		medians[[2]string{r.Metric.Name, r.Contestant}] = r.Median
	}
	for i := range c.Rows {
		r := &c.Rows[i]
		if m := medians[[2]string{r.Metric.Name, nameFloor}]; m > 0 {
			r.OfFloor = r.Median / m
		}
		if m := medians[[2]string{r.Metric.Name, nameAsynq}]; m > 0 {
			r.OfAsynq = r.Median / m
		}
	}
	metrics := c.metrics()
	place := func(r row) int {
		return slices.Index(metrics, r.Metric)*len(c.order) + slices.Index(c.order, r.Contestant)
	}
	slices.SortStableFunc(c.Rows, func(a, b row) int { return place(a) - place(b) })
	c.judge(bounds)
}

// metrics are those that were measured, in the order of the modes.
func (c *comparison) metrics() []metric {
	var found []metric
	for _, m := range modes {
		for _, metric := range m.metrics {
			if slices.ContainsFunc(c.Rows, func(r row) bool { return r.Metric == metric }) {
				found = append(found, metric)
			}
		}
	}
	return found
}

// row of a metric and a contestant, if it was measured.
func (c *comparison) row(m metric, contestant string) (row, bool) {
	i := slices.IndexFunc(c.Rows, func(r row) bool { return r.Metric == m && r.Contestant == contestant })
	if i < 0 {
		return row{}, false
	}
	return c.Rows[i], true
}

// median of an even number of values is the mean of the two in the middle.
func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

// chosen picks entries or modes by their names, separated by commas, in the order
// of the list; all if names is empty.
func chosen[T any](all []T, names string, name func(T) string) ([]T, error) {
	if names == "" {
		return all, nil
	}
	var found []T
	wanted := strings.Split(names, ",")
	for _, one := range all {
		if i := slices.Index(wanted, name(one)); i >= 0 {
			found = append(found, one)
			wanted = slices.Delete(wanted, i, i+1)
		}
	}
	if len(wanted) > 0 {
		return nil, fmt.Errorf("unknown: %s", strings.Join(wanted, ", "))
	}
	return found, nil
}
