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
	c := &Client{now: time.Now, reads: make(chan struct{}, most)}
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
			if task, err := c.reading(t.Context(), id, read); err != nil || task.ID != id {
				t.Errorf("%v, %v", task, err)
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
