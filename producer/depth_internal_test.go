package producer

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/peltonq/pelton"
)

// gateRig is a gate and the queue that it stands before.
type gateRig struct {
	*depthGate
	stored uint64 // ready tasks
	counts int
}

func newGateRig() *gateRig {
	return &gateRig{depthGate: &depthGate{sampling: make(chan struct{}, 1)}}
}

// ask asks for a place for one more task.
func (r *gateRig) ask(t *testing.T, most uint64) (land func(), in bool) {
	t.Helper()
	land, err := r.admit(t.Context(), most, func(context.Context) (uint64, error) { r.counts++; return r.stored, nil })
	if err != nil && !errors.Is(err, pelton.ErrOverloaded) {
		t.Fatal(err)
	}
	return land, err == nil
}

// enqueue enqueues up to n tasks, one after the other, and tells how many were let in.
func (r *gateRig) enqueue(t *testing.T, n int, most uint64) (in int) {
	t.Helper()
	for range n {
		if land, ok := r.ask(t, most); ok {
			r.stored++
			in++
			land()
		}
	}
	return in
}

// However long tasks take to be enqueued, and however often is counted meanwhile,
// their places are theirs.
func TestDepthGateKeepsPlacesOfSlowTasks(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newGateRig()
		var lands []func()
		for range 10 {
			for range 4 {
				if land, in := r.ask(t, 5); in {
					lands = append(lands, land)
				}
			}
			<-time.After(2 * sampleFor) // the next one counts
		}
		if len(lands) != 5 || r.counts != 10 {
			t.Errorf("%d let in, none of them stored yet, with %d counts; want 5 and 10", len(lands), r.counts)
		}
		r.stored = 5
		for _, land := range lands {
			land()
		}
		if n := r.enqueue(t, 10, 5); n != 0 {
			t.Errorf("%d let into a full queue", n)
		}
		<-time.After(sampleFor)
		if n := r.enqueue(t, 10, 7); n != 2 { // each counts once, when it has landed before
			t.Errorf("%d let in where there is room for 2", n)
		}
	})
}

// A task that lands during a count may be missing in it.
func TestDepthGateAndLandingDuringACount(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newGateRig()
		land, _ := r.ask(t, 1)
		<-time.After(sampleFor)
		if _, err := r.admit(t.Context(), 1, func(context.Context) (uint64, error) {
			land() // stored after what the count saw
			return 0, nil
		}); !errors.Is(err, pelton.ErrOverloaded) {
			t.Errorf("admit = %v, want ErrOverloaded", err)
		}
		r.stored = 1
		<-time.After(sampleFor)
		if n := r.enqueue(t, 5, 2); n != 1 {
			t.Errorf("%d let in where there is room for one", n)
		}
	})
}

// Workers that keep up let a small queue take many tasks: a full queue is counted
// every sampleFull, one with room every sampleFor, however many tasks come.
func TestDepthGateCounts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newGateRig()
		const rounds = 100
		for round := range rounds {
			if n := r.enqueue(t, 50, 5); n != 5 {
				t.Errorf("round %d: %d let in, want 5", round, n)
			}
			r.stored = 0 // workers took them
			<-time.After(sampleFull)
		}
		if r.counts != rounds {
			t.Errorf("%d counts in %d rounds", r.counts, rounds)
		}
		<-time.After(sampleFor)
		r.counts = 0
		for range rounds {
			if n := r.enqueue(t, 5, 1e6); n != 5 {
				t.Errorf("%d let in, want 5", n)
			}
			<-time.After(sampleFor / 10)
		}
		if r.counts != rounds/10 {
			t.Errorf("%d counts in %s", r.counts, rounds*sampleFor/10)
		}
	})
}

// An error of the count lets nobody in, and is not the last word.
func TestDepthGateWithoutACount(t *testing.T) {
	t.Parallel()
	r := newGateRig()
	broken := errors.New("broken")
	if _, err := r.admit(t.Context(), 5, func(context.Context) (uint64, error) { return 0, broken }); !errors.Is(err, broken) || errors.Is(err, pelton.ErrOverloaded) {
		t.Errorf("admit = %v, want the error of the count", err)
	}
	if n := r.enqueue(t, 10, 5); n != 5 {
		t.Errorf("%d let in after that, want 5", n)
	}
}
