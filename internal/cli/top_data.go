package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/peltonq/pelton"
)

const (
	topTimeout  = 5 * time.Second // of one look
	topFailures = 50              // the most that are shown
	// topSpan is the time that rates are taken over: long enough to be calm, short
	// enough to show what happens.
	topSpan = 5 * time.Second
)

// topRates are tasks of a queue a second.
type topRates struct {
	Enqueued float64 `json:"enqueued"` // became ready, retries and releases included
	Finished float64 `json:"finished"` // left a worker, however they ended
}

// topQueue is a queue with its rates, which are absent until they are known.
type topQueue struct {
	pelton.Queue
	Rates *topRates `json:"per_second,omitempty"`
}

// topSnapshot is one look at everything.
type topSnapshot struct {
	At       time.Time       `json:"at"`
	Queues   []topQueue      `json:"queues"`
	Workers  []pelton.Worker `json:"workers"`
	Failures []pelton.Task   `json:"failures"` // dead letters, newest first
}

// look asks the API for a snapshot, without rates.
func (c *client) look(ctx context.Context) (*topSnapshot, error) {
	ctx, cancel := context.WithTimeout(ctx, topTimeout)
	defer cancel()
	s := &topSnapshot{Queues: []topQueue{}, Workers: []pelton.Worker{}, Failures: []pelton.Task{}}
	calls, ctx := errgroup.WithContext(ctx)
	calls.Go(func() error { return collect(ctx, c, "queues", nil, &s.Queues) })
	calls.Go(func() error { return collect(ctx, c, "workers", mostItems(), &s.Workers) })
	calls.Go(func() error {
		page, err := c.do(ctx, request{method: "GET", path: []string{"dead"}, query: url.Values{"limit": {strconv.Itoa(topFailures)}}})
		if err != nil {
			return err
		}
		var list struct {
			Items []pelton.Task `json:"items"`
		}
		if err := json.Unmarshal(page, &list); err != nil {
			return fmt.Errorf("the server's answer is not a list of dead letters: %w", err)
		}
		s.Failures = append(s.Failures, list.Items...)
		return nil
	})
	err := calls.Wait()
	s.At = time.Now()
	return s, err
}

func collect[T any](ctx context.Context, c *client, list string, query url.Values, into *[]T) error {
	return c.eachItem(ctx, list, query, func(raw json.RawMessage) error {
		var item T
		if err := json.Unmarshal(raw, &item); err != nil {
			return fmt.Errorf("the server's answer is not one of %s: %w", list, err)
		}
		*into = append(*into, item)
		return nil
	})
}

// UnmarshalJSON reads the queue alone: rates are ours.
func (q *topQueue) UnmarshalJSON(data []byte) error { return json.Unmarshal(data, &q.Queue) }

// topCounts are what a queue has counted up to a moment.
type topCounts struct{ enqueued, finished float64 }

func countsOf(q *pelton.Queue) (c topCounts) {
	for _, d := range q.Priorities {
		c.enqueued += float64(d.Deliveries) + float64(d.Ready)
		c.finished += float64(d.Deliveries) - float64(d.Running)
	}
	return c
}

// rate gives the queues of a snapshot their rates against an earlier one. What was
// not there then, or counts less now because the broker began anew, has none.
func (s *topSnapshot) rate(before *topSnapshot) {
	took := s.At.Sub(before.At).Seconds()
	if took <= 0 {
		return
	}
	old := make(map[string]topCounts, len(before.Queues))
	for i := range before.Queues {
		old[before.Queues[i].Name] = countsOf(&before.Queues[i].Queue)
	}
	for i := range s.Queues {
		q := &s.Queues[i]
		was, known := old[q.Name]
		is := countsOf(&q.Queue)
		if known && is.enqueued >= was.enqueued && is.finished >= was.finished {
			q.Rates = &topRates{(is.enqueued - was.enqueued) / took, (is.finished - was.finished) / took}
		}
	}
}

// topHistory are the looks of the last topSpan, and one before.
type topHistory []*topSnapshot

// add gives a snapshot its rates and keeps it.
func (h *topHistory) add(s *topSnapshot) {
	for len(*h) > 1 && s.At.Sub((*h)[1].At) >= topSpan {
		*h = (*h)[1:]
	}
	if len(*h) > 0 {
		s.rate((*h)[0])
	}
	*h = append(*h, s)
}
