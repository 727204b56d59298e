package broker

import (
	"testing"
	"time"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/brokertest"
)

// Whoever watches a task hears of it when it succeeds in a page, also where many are watched, and nothing of other tasks.
func TestPageEvents(t *testing.T) {
	t.Parallel()
	srv := brokertest.StartServer(t)
	worker, server := openOn(t, brokertest.Connect(t, srv), Config{}), openOn(t, brokertest.Connect(t, srv), Config{})
	records := enqueuedPlain(t, worker, mostSingle+segmentSize)
	heard := make([]<-chan Event, len(records))
	for i, r := range records {
		events, stop, err := server.Watch(t.Context(), r.ID)
		must(t, err)
		defer stop()
		heard[i] = events
	}
	var done []*Record
	for i, r := range records {
		if i%3 > 0 {
			done = append(done, successOf(r, "1"))
		}
	}
	for _, err := range succeedTogether(t, worker, done) {
		must(t, err)
	}
	must(t, worker.conn.nc.Flush())
	for i, r := range records {
		if i%3 == 0 {
			continue
		}
		select {
		case e := <-heard[i]:
			if got, err := server.LoadRecord(t.Context(), r.ID); err != nil || e != (Event{ID: r.ID, State: pelton.Succeeded, Revision: got.Revision}) {
				t.Errorf("task %d: %+v, record %+v, %v", i, e, got, err)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("task %d: no event", i)
		}
	}
	for i := range heard {
		select {
		case e := <-heard[i]:
			t.Errorf("task %d: another event %+v", i, e)
		default:
		}
	}
}
