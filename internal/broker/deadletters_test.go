package broker

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/brokertest"
)

// aDead stores a failed task with its dead letter.
func aDead(t *testing.T, b *Broker, queue string) *Record {
	t.Helper()
	r := aRecord(queue, pelton.Normal)
	r.State, r.FinishedAt, r.Attempt, r.Ended, r.Crashes = pelton.Failed, time.Now().UTC().Truncate(time.Millisecond), 3, 3, 1
	r.Owner, r.Carrier = "w1", 17
	r.Fail(pelton.Failure{Message: "boom", Reason: pelton.ReasonError, Attempt: 3, At: r.FinishedAt})
	must(t, b.CreateRecord(t.Context(), r))
	must(t, b.PublishDead(t.Context(), r))
	return r
}

// walk follows EachDead to its end and returns the sequences in order.
func walk(t require, b *Broker, before uint64) (seqs []uint64, calls int) {
	t.Helper()
	for {
		next, err := b.EachDead(t.Context(), before, func(r *Record) bool {
			seqs = append(seqs, r.Revision)
			return true
		})
		if err != nil {
			t.Fatal(err)
		}
		calls++
		if next == 0 {
			return seqs, calls
		}
		before = next
	}
}

// require is what a *testing.T and a *rapid.T have in common here.
type require interface {
	Helper()
	Fatal(args ...any)
	Context() context.Context
}

func TestEachDeadIsNewestFirst(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	if seqs, calls := walk(t, b, 0); len(seqs) != 0 || calls != 1 {
		t.Errorf("no letters: %v in %d calls", seqs, calls)
	}
	var want []uint64
	for range 5 {
		letter, err := b.FindDead(t.Context(), aDead(t, b, "q").ID)
		must(t, err)
		must(t, b.Probe(t.Context())) // which takes a sequence and leaves a hole
		want = append(want, letter.Revision)
	}
	slices.Reverse(want)
	if seqs, _ := walk(t, b, 0); !cmp.Equal(want, seqs) {
		t.Errorf("all: %v, want %v", seqs, want)
	}
	if seqs, _ := walk(t, b, want[1]); !cmp.Equal(want[2:], seqs) {
		t.Errorf("below %d: %v, want %v", want[1], seqs, want[2:])
	}
	if seqs, _ := walk(t, b, 1<<60); !cmp.Equal(want, seqs) {
		t.Errorf("from beyond the end: %v, want %v", seqs, want)
	}

	// A visit that declines leaves its letter to the next call.
	var seen []uint64
	next, err := b.EachDead(t.Context(), 0, func(r *Record) bool {
		if len(seen) == 2 {
			return false
		}
		seen = append(seen, r.Revision)
		return true
	})
	must(t, err)
	if rest, _ := walk(t, b, next); !cmp.Equal(want, append(seen, rest...)) {
		t.Errorf("two, then the rest: %v and %v, want %v", seen, rest, want)
	}
}

// TestEachDeadMeetsAnyHoles deletes any of the letters and expects the others.
func TestEachDeadMeetsAnyHoles(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	rapid.Check(t, func(rt *rapid.T) {
		must(t, b.purge(rt.Context(), b.dead(), "pelton.d.>"))
		keep := rapid.SliceOfN(rapid.Bool(), 1, 40).Draw(rt, "keep")
		var want []uint64
		var gone []*Record
		for _, kept := range keep {
			r := aRecord("q", pelton.Low)
			r.State = pelton.Failed
			must(t, b.PublishDead(rt.Context(), r))
			letter, err := b.LoadDead(rt.Context(), "q", r.ID)
			must(t, err)
			if kept {
				want = append([]uint64{letter.Revision}, want...)
			} else {
				gone = append(gone, letter)
			}
		}
		for _, letter := range gone {
			must(t, b.DeleteDead(rt.Context(), letter))
		}
		if seqs, _ := walk(rt, b, 0); !slices.Equal(want, seqs) {
			rt.Errorf("%v, want %v", seqs, want)
		}
	})
}

// TestEachDeadIsBounded looks at a thousand messages and no more, and passes over
// what is no letter.
func TestEachDeadIsBounded(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	const n = maxDeadLooks + 10
	b.pipeline(t.Context(), n, func(int) bool { return true }, func(i int) (write, error) {
		r := aRecord("q", pelton.Normal)
		r.State = pelton.Failed
		data, err := encodeRecord(r)
		if i%10 == 0 {
			data = []byte("not Pelton's")
		}
		return write{subject: b.deadLetter("q", r.ID), data: data, expect: anyRevision}, err
	}, func(_ int, _ uint64, err error) { must(t, err) })
	seen := 0
	b.deadReads = time.Hour // however slow the machine is
	next, err := b.EachDead(t.Context(), 0, func(*Record) bool { seen++; return true })
	if err != nil || next != n-maxDeadLooks+1 || seen != maxDeadLooks*9/10 {
		t.Errorf("one call: %d letters, go on at %d, %v", seen, next, err)
	}
	if seqs, calls := walk(t, b, 0); len(seqs) != n*9/10 || calls != 2 {
		t.Errorf("%d letters in %d calls", len(seqs), calls)
	}
}

// TestEachDeadIsBoundedInTime gets one message further when the first read uses up
// the time, and says where to go on.
func TestEachDeadIsBoundedInTime(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	const n = 5
	for range n {
		aDead(t, b, "q")
	}
	b.deadReads = 1 // a nanosecond
	if seqs, calls := walk(t, b, 0); len(seqs) != n || calls != n+1 {
		t.Errorf("%d letters in %d calls, want %d and one that finds the end", len(seqs), calls, n)
	}
}

func TestFindAndDeleteDead(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	one, other := aDead(t, b, "q"), aDead(t, b, "other_queue")
	for _, r := range []*Record{one, other} {
		letter, err := b.FindDead(t.Context(), r.ID)
		must(t, err)
		if letter.ID != r.ID || letter.Queue != r.Queue || len(letter.Errors) != 1 {
			t.Errorf("letter = %+v", letter)
		}
	}
	old, err := b.FindDead(t.Context(), one.ID)
	must(t, err)
	one.Epoch++
	must(t, b.PublishDead(t.Context(), one)) // it failed again
	if err := b.DeleteDead(t.Context(), old); !errors.Is(err, pelton.ErrNotFound) {
		t.Errorf("delete a replaced letter = %v, want ErrNotFound", err)
	}
	newer, err := b.FindDead(t.Context(), one.ID)
	must(t, err)
	must(t, b.DeleteDead(t.Context(), newer))
	if err := b.DeleteDead(t.Context(), newer); !errors.Is(err, pelton.ErrNotFound) {
		t.Errorf("delete again = %v, want ErrNotFound", err)
	}
	if err := b.DeleteDead(t.Context(), &Record{Meta: one.Meta, Revision: 1 << 40}); !errors.Is(err, pelton.ErrNotFound) {
		t.Errorf("delete a sequence that never was = %v, want ErrNotFound", err)
	}
	if _, err := b.FindDead(t.Context(), one.ID); !errors.Is(err, pelton.ErrNotFound) {
		t.Errorf("FindDead = %v, want ErrNotFound", err)
	}
	if _, err := b.FindDead(t.Context(), other.ID); err != nil {
		t.Errorf("the other letter is gone: %v", err)
	}
}

// TestDropDeadIsForGood deletes a letter that neither the sweep nor a late
// redelivery brings back, and leaves the record its time.
func TestDropDeadIsForGood(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	dropped, other := aDead(t, b, "q"), aDead(t, b, "q")
	letter, err := b.FindDead(t.Context(), dropped.ID)
	must(t, err)
	must(t, b.DropDead(t.Context(), letter))
	if err := b.DropDead(t.Context(), letter); !errors.Is(err, pelton.ErrNotFound) {
		t.Errorf("again = %v, want ErrNotFound", err)
	}
	now, err := b.LoadRecord(t.Context(), dropped.ID)
	must(t, err)
	if now.State != pelton.Failed || !now.LetterDropped {
		t.Errorf("record = %+v", now)
	}
	must(t, b.PublishDead(t.Context(), now))
	if swept := sweep(t, aged(b)); swept.Letters != 0 {
		t.Errorf("swept %+v", swept)
	}
	noLetter(t, b, dropped.ID)
	msg, err := b.get(t.Context(), bucketStream(b.state(0)), getRequest{LastFor: b.record(dropped.ID)}, false)
	must(t, err)
	ttl, err := strconv.Atoi(msg.header.Get(headerTTL))
	if left := pelton.FailedRetention - time.Duration(ttl)*time.Second; err != nil || left < 0 || left > time.Minute {
		t.Errorf("the record lives for %d s, %v", ttl, err)
	}

	// A letter whose record is gone, and one of a task that is not dead any more.
	must(t, b.DropRecord(t.Context(), other))
	if letter, err = b.FindDead(t.Context(), other.ID); err != nil {
		t.Fatal(err)
	}
	must(t, b.DropDead(t.Context(), letter))
	again, err := b.Requeue(t.Context(), dropped.ID)
	must(t, err)
	if again.LetterDropped {
		t.Error("the next failure would leave no letter")
	}
	letter = &Record{Meta: dropped.Meta, Revision: 1}
	if err := b.DropDead(t.Context(), letter); !errors.Is(err, pelton.ErrNotFound) {
		t.Errorf("letter of an earlier epoch = %v, want ErrNotFound", err)
	}
}

// TestPublishDeadAgainstDelete lets a task fail again while the requeue that put
// it back deletes the letter of its last failure: the new letter must stay.
func TestPublishDeadAgainstDelete(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	for range 200 {
		r := aRecord("q", pelton.Normal)
		r.State = pelton.Failed
		must(t, b.PublishDead(t.Context(), r))
		old, err := b.LoadDead(t.Context(), "q", r.ID)
		must(t, err)
		r.Epoch++
		var racing sync.WaitGroup
		racing.Go(func() {
			if err := b.DeleteDead(t.Context(), old); err != nil && !errors.Is(err, pelton.ErrNotFound) {
				t.Error(err)
			}
		})
		racing.Go(func() {
			if err := b.PublishDead(t.Context(), r); err != nil {
				t.Error(err)
			}
		})
		racing.Wait()
		letter, err := b.LoadDead(t.Context(), "q", r.ID)
		if err != nil || letter.Epoch != 1 {
			t.Fatalf("letter = %+v, %v", letter, err)
		}
	}
}

func TestDeadLettersWithoutBroker(t *testing.T) {
	t.Parallel()
	nc := brokertest.Start(t)
	b := openOn(t, nc, Config{})
	r := aDead(t, b, "q")
	nc.Close()
	began := time.Now()
	for name, call := range map[string]func() error{
		"EachDead": func() error {
			_, err := b.EachDead(t.Context(), 0, func(*Record) bool { return true })
			return err
		},
		"FindDead":    func() error { _, err := b.FindDead(t.Context(), r.ID); return err },
		"DeleteDead":  func() error { return b.DeleteDead(t.Context(), r) },
		"DropDead":    func() error { return b.DropDead(t.Context(), r) },
		"Requeue":     func() error { _, err := b.Requeue(t.Context(), r.ID); return err },
		"RequeueDead": func() error { _, err := b.RequeueDead(t.Context(), r); return err },
	} {
		if err := call(); !errors.Is(err, pelton.ErrUnavailable) || errors.Is(err, pelton.ErrUnknownOutcome) {
			t.Errorf("%s = %v, want ErrUnavailable", name, err)
		}
	}
	if took := time.Since(began); took > callTimeout*4/5 {
		t.Errorf("it took %s to say so", took)
	}
}
