package broker

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"pgregory.net/rapid"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/brokertest"
)

// succeed writes the success of a plain task that this process runs without a record, as a worker does.
func succeed(b *Broker, r *Record) error {
	done := make(chan error, 1)
	if err := b.SaveRecordSoon(b.groups.ctx, r, func(err error) { done <- err }); err != nil {
		done <- err
	}
	err := <-done
	if errors.Is(err, ErrStale) {
		err = b.SaveRecord(b.groups.ctx, r)
	}
	return err
}

// successOf is the success of a task's first run, with a result.
func successOf(r *Record, result string) *Record {
	done := *r
	done.State, done.FinishedAt = pelton.Succeeded, time.Now().UTC().Truncate(time.Microsecond)
	done.Attempt, done.Ended, done.Result = 1, 1, []byte(result)
	return &done
}

// TestPagesOfProcesses is for three processes, on one server and on a cluster.
func TestPagesOfProcesses(t *testing.T) {
	t.Parallel()
	for _, replicas := range []int{1, 3} {
		t.Run(fmt.Sprint(replicas, " replicas"), func(t *testing.T) {
			t.Parallel()
			var connect func() *nats.Conn
			if replicas == 1 {
				srv := brokertest.StartServer(t)
				connect = func() *nats.Conn { return brokertest.Connect(t, srv) }
			} else {
				_, urls := brokertest.StartCluster(t, replicas)
				connect = func() *nats.Conn { return brokertest.ConnectTo(t, urls) }
			}
			processes := make([]*Broker, 3)
			for i := range processes {
				processes[i] = openPatiently(t, connect(), Config{Replicas: replicas})
				processes[i].pagers.least = 1
			}
			shareSegments(t, processes)
			raceForPages(t, processes, 20/replicas)
			if replicas == 1 { // a call to a cluster takes ten times as long
				checkPages(t, processes)
			}
		})
	}
}

// openPatiently is openPaging on a cluster that has just come up, beside others, which may take longer than a call.
func openPatiently(t *testing.T, nc *nats.Conn, cfg Config) *Broker {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; {
		b, err := Open(t.Context(), nc, cfg)
		if err == nil {
			// Its node may not have heard yet who leads each stream.
			if err = errors.Join(b.Probe(t.Context()), b.EnsureLane(t.Context(), Lane{"q", pelton.Normal, 0})); err == nil {
				t.Cleanup(b.Close)
				awaitPages(t, b)
				return b
			}
			b.Close()
		}
		if !errors.Is(err, pelton.ErrUnavailable) || time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// shareSegments lets two processes write pages of the same segments at the same time, as workers do that drain a lane together: none
// of them has to be sealed for that.
func shareSegments(t *testing.T, processes []*Broker) {
	t.Helper()
	records := enqueuedPlain(t, processes[2], 8*segmentSize)
	var writing sync.WaitGroup
	alone := 0
	for i, r := range records {
		writing.Add(1)
		err := processes[i%2].SaveRecordSoon(t.Context(), successOf(r, "1"), func(err error) {
			if err != nil {
				t.Error(err)
			}
			writing.Done()
		})
		must(t, err)
		if i%16 == 0 {
			time.Sleep(time.Millisecond)
		}
	}
	writing.Wait()
	for _, r := range records {
		got, err := processes[2].LoadRecord(t.Context(), r.ID)
		must(t, err)
		if !got.Paged {
			alone++
		}
	}
	if alone > 0 {
		t.Errorf("%d of %d tasks are not in pages", alone, len(records))
	}
}

// raceForPages lets two processes cancel tasks from the first one on, while a third one writes them into pages from the
// last one on, so that they meet. Each task has the outcome of whoever was told so, and of one alone.
func raceForPages(t *testing.T, processes []*Broker, rounds int) {
	t.Helper()
	cancelled, succeeded := 0, 0
	for round := range rounds {
		records := enqueuedPlain(t, processes[0], segmentSize)
		ends := make([][]error, 3)
		var ending sync.WaitGroup
		var tried atomic.Int64
		for i, b := range processes[1:] {
			ending.Go(func() {
				for k, r := range records {
					if k%2 != i {
						ends[i+1] = append(ends[i+1], pelton.ErrConflict)
						continue
					}
					_, err := b.Cancel(t.Context(), r.ID)
					tried.Add(1)
					ends[i+1] = append(ends[i+1], err)
				}
			})
		}
		ends[0] = make([]error, len(records))
		for k, r := range slices.Backward(records) {
			for int(tried.Load()) < len(records)-1-k-round%8 { // some more or less ahead in each round
				time.Sleep(100 * time.Microsecond)
			}
			ending.Add(1)
			err := processes[0].SaveRecordSoon(t.Context(), successOf(r, "1"), func(err error) { ends[0][k] = err; ending.Done() })
			if err != nil {
				ends[0][k] = err
				ending.Done()
			}
		}
		ending.Wait()
		for k, r := range records {
			var won []int
			for i, errs := range ends {
				if errs[k] == nil {
					won = append(won, i)
				} else if !errors.Is(errs[k], ErrStale) && !errors.Is(errs[k], pelton.ErrConflict) {
					t.Fatal(errs[k])
				}
			}
			got, err := processes[k%3].LoadRecord(t.Context(), r.ID)
			if err != nil || len(won) != 1 || (won[0] == 0) != (got.State == pelton.Succeeded) {
				t.Fatalf("round %d, task %d: %v say that they ended it, and it is %+v, %v", round, k, won, got, err)
			}
			if won[0] == 0 {
				succeeded++
			} else {
				cancelled++
			}
		}
	}
	t.Logf("%d succeeded, %d were cancelled", succeeded, cancelled)
	if succeeded == 0 || cancelled == 0 {
		t.Error("nobody raced")
	}
}

// paged is a task of the model.
type paged struct {
	id       pelton.ID
	change   int // +1 with each change
	state    pelton.State
	result   string
	recorded bool // there is a record for which the segment was sealed
	lone     bool // its first success was a record
	over     int  // records of successes that came too late: who has not read them is to read again
	looks    []paged
	read     []*Record // of each look
}

// checkPages lets processes that each remember what they like succeed with, cancel and requeue the tasks of a few
// segments, by what they read some time ago. A model says which of it must succeed: a
// change of what was read, if nothing has changed since; a success of a task that has no record. So a task ends once.
func checkPages(t *testing.T, processes []*Broker) {
	t.Helper()
	ctx := t.Context()
	processes[2].pagers.least = leastPaged // of one task it makes no page
	rapid.Check(t, func(t *rapid.T) {
		var tasks []*paged
		process := func() *Broker { return rapid.SampledFrom(processes).Draw(t, "process") }
		task := func() *paged {
			if len(tasks) == 0 {
				t.Skip()
			}
			return rapid.SampledFrom(tasks).Draw(t, "task")
		}
		look := func() (*paged, paged, *Record) {
			p := task()
			if len(p.looks) == 0 {
				t.Skip()
			}
			i := rapid.IntRange(0, len(p.looks)-1).Draw(t, "look")
			r := *p.read[i]
			return p, p.looks[i], &r
		}
		change := func(b *Broker, p *paged, seen paged, r *Record) {
			err := b.SaveRecord(ctx, r)
			switch {
			case err == nil && p.change == seen.change:
				p.change, p.state, p.result, p.recorded = p.change+1, r.State, string(r.Result), true
			case errors.Is(err, ErrStale) && p.over != seen.over:
			case err == nil || p.change == seen.change || !errors.Is(err, ErrStale):
				t.Fatalf("change to %s of what was read %d changes ago: %v", r.State, p.change-seen.change, err)
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"enqueue": func(t *rapid.T) {
				r := aRecord("q", pelton.Normal)
				if err := process().Enqueue(ctx, r); err != nil {
					t.Fatal(err)
				}
				tasks = append(tasks, &paged{id: r.ID, state: pelton.Queued})
			},
			"others between": func(t *rapid.T) { // in another segment then
				for range segmentSize {
					if err := processes[0].Enqueue(ctx, aRecord("others", pelton.Low)); err != nil {
						t.Fatal(err)
					}
				}
			},
			"look": func(*rapid.T) {
				p := task()
				r, err := process().LoadRecord(ctx, p.id)
				if err != nil {
					t.Fatal(err)
				}
				p.looks, p.read = append(p.looks, *p), append(p.read, r)
			},
			"run": func(*rapid.T) { // as whoever believes that nobody had it
				p := task()
				b, result := process(), fmt.Sprint(p.change, len(tasks))
				lone := b.pagers.least > 1
				r := aRecord("q", pelton.Normal)
				r.ID = p.id
				err := succeed(b, successOf(r, result))
				switch {
				case p.change == 0 && err == nil:
					p.change, p.state, p.result, p.lone = 1, pelton.Succeeded, result, lone
				case p.change == 0:
					t.Fatalf("success of a task without a record: %v", err)
				case (p.recorded && !p.lone || p.lone && lone) && !errors.Is(err, ErrStale):
					t.Fatalf("success of a task that has a record: %v", err)
				case err != nil && !errors.Is(err, ErrStale):
					t.Fatal(err)
				case err == nil && lone:
					p.over++
				}
			},
			"cancel": func(*rapid.T) {
				p, seen, r := look()
				if seen.state.Terminal() {
					t.Skip()
				}
				r.State, r.FinishedAt = pelton.Cancelled, time.Now().UTC()
				change(process(), p, seen, r)
			},
			"requeue": func(*rapid.T) {
				p, seen, r := look()
				if !seen.state.Terminal() {
					t.Skip()
				}
				r.State, r.Result, r.FinishedAt = pelton.Queued, nil, time.Time{}
				r.Epoch++
				change(process(), p, seen, r)
			},
			"": func(*rapid.T) {
				if len(tasks) == 0 {
					return
				}
				p := task()
				r, err := process().LoadRecord(ctx, p.id)
				if err != nil || r.State != p.state || !bytes.Equal(r.Result, []byte(p.result)) {
					t.Fatalf("reads %+v, %v; want %s with %q", r, err, p.state, p.result)
				}
			},
		})
		for _, p := range tasks {
			r, err := processes[0].ReadRecord(ctx, p.id)
			if err != nil || r.State != p.state {
				t.Fatalf("reads %+v, %v; want %s", r, err, p.state)
			}
		}
		over := slices.DeleteFunc(tasks, func(p *paged) bool { return p.state != pelton.Succeeded })
		listed := map[pelton.ID]bool{}
		for cursor, more := "", true; more && len(over) > 0; more = cursor != "" {
			var err error
			if cursor, err = processes[1].EachListed(ctx, ListFilter{State: pelton.Succeeded}, cursor, func(r *Record) bool {
				listed[r.ID] = true
				return true
			}); err != nil {
				t.Fatal(err)
			}
		}
		for _, p := range over {
			if !listed[p.id] {
				t.Fatalf("%s is not among those that succeeded", p.id)
			}
		}
	})
}
