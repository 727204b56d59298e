package producer

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/broker"
)

// However many ask for records at once, so many are read at a time; the others wait
// their turn, as long as their ctx lasts.
func TestReadsAreBounded(t *testing.T) {
	t.Parallel()
	const most, callers = 4, 50
	c := &Client{reads: make(chan struct{}, most)}
	var (
		mu        sync.Mutex
		now, peak int
		full      = make(chan struct{})
		goOn      = make(chan struct{})
	)
	read := func(_ context.Context, id pelton.ID) (*broker.Record, error) {
		mu.Lock()
		now++
		if peak = max(peak, now); now == most {
			select {
			case <-full:
			default:
				close(full)
			}
		}
		mu.Unlock()
		<-goOn
		mu.Lock()
		now--
		mu.Unlock()
		return &broker.Record{Meta: broker.Meta{ID: id}}, nil
	}
	var all sync.WaitGroup
	for range callers {
		all.Go(func() {
			id := pelton.NewID(time.Now(), 0)
			if r, err := c.reading(t.Context(), id, read); err != nil || r.ID != id {
				t.Errorf("%v, %v", r, err)
			}
		})
	}
	<-full
	gone, leave := context.WithCancel(t.Context())
	leave()
	if _, err := c.reading(gone, pelton.NewID(time.Now(), 0), read); !errors.Is(err, pelton.ErrUnavailable) || !errors.Is(err, context.Canceled) {
		t.Errorf("a caller that has gone: %v", err)
	}
	close(goOn)
	all.Wait()
	if peak != most {
		t.Errorf("%d reads at a time, want %d", peak, most)
	}
}

// Who looks while a read is under way gets the next one, with all others who did,
// and never one that began before.
func TestLooksAreShared(t *testing.T) {
	t.Parallel()
	var l looks
	id := pelton.NewID(time.Now(), 0)
	began, goOn := make(chan uint64), make(chan struct{})
	var reads uint64
	read := func(_ context.Context, id pelton.ID) (*broker.Record, error) {
		reads++ // one at a time for a task
		n := reads
		began <- n
		<-goOn
		return &broker.Record{Meta: broker.Meta{ID: id}, Revision: n}, nil
	}
	var all sync.WaitGroup
	look := func(want uint64) {
		all.Go(func() {
			if r, err := l.at(t.Context(), id, read); err != nil || r.Revision != want {
				t.Errorf("%+v, %v, want read %d", r, err, want)
			}
		})
	}
	look(1)
	if n := <-began; n != 1 {
		t.Fatalf("read %d began", n)
	}
	gone, leave := context.WithCancelCause(t.Context())
	leave(errors.New("gone"))
	if _, err := l.at(gone, id, read); err == nil || err.Error() != "gone" {
		t.Errorf("a caller that has gone: %v", err)
	}
	l.mu.Lock()
	next := l.byID[id].next
	l.mu.Unlock()
	for range 50 {
		if got := l.join(t.Context(), id, read); got != next {
			t.Error("a caller does not share the next read")
		}
	}
	goOn <- struct{}{}
	if n := <-began; n != 2 {
		t.Fatalf("read %d began", n)
	}
	goOn <- struct{}{}
	<-next.done
	l.going.Wait()
	if next.record.Revision != 2 || reads != 2 || len(l.byID) != 0 {
		t.Errorf("%d reads, %d tasks are remembered", reads, len(l.byID))
	}
	look(3)
	<-began
	close(goOn)
	all.Wait()
	l.going.Wait()
}
