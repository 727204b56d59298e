package admin

import (
	"context"
	"time"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/broker"
)

// purgeTime is about how long one call of Purge works.
const purgeTime = 5 * time.Second

// SetQueue changes the settings of a queue and returns the queue. change gets a
// copy of what is set now and may be called several times. A queue that does not
// exist is created: its settings hold from its first task on.
//
// The settings are stored first and hold for every lane of the queue when SetQueue
// returns; producers and workers learn of them within two seconds. A shorter lease
// takes a second: workers must give signs of life by it before the broker expects
// them. Errors: *pelton.ValidationError; pelton.ErrNotSupported;
// pelton.ErrUnavailable, when nothing was changed; pelton.ErrUnknownOutcome, when
// the settings may have been stored and may not hold everywhere yet: repeat the
// call.
func (c *Client) SetQueue(ctx context.Context, name string, change func(*pelton.QueueSettings)) (*pelton.Queue, error) {
	return c.set(ctx, name, func(s *pelton.QueueSettings) error {
		change(s)
		return s.Check()
	})
}

// PatchQueue is SetQueue by a JSON merge patch (RFC 7396) of the settings' JSON
// form: null restores a default.
func (c *Client) PatchQueue(ctx context.Context, name string, patch []byte) (*pelton.Queue, error) {
	return c.set(ctx, name, func(s *pelton.QueueSettings) (err error) {
		*s, err = s.Merge(patch)
		return err
	})
}

func (c *Client) set(ctx context.Context, name string, change func(*pelton.QueueSettings) error) (*pelton.Queue, error) {
	_, err := c.b.SetQueue(ctx, name, true, func(q *broker.QueueConfig) error {
		settings := q.Settings.Clone()
		if err := change(&settings); err != nil {
			return err
		}
		q.Settings = settings
		return nil
	})
	if err != nil {
		return nil, err
	}
	return c.b.Queue(ctx, name)
}

// Pause stops a queue, or one of its priorities, from handing out tasks: no worker
// gets one within a second after. Running tasks go on, and tasks can be enqueued,
// cancelled and put off to be retried. The zero priority is all of them, those that
// were never used included. A queue that does not exist is pelton.ErrNotFound. Other
// errors are those of SetQueue.
func (c *Client) Pause(ctx context.Context, name string, p pelton.Priority) (*pelton.Queue, error) {
	return c.pause(ctx, name, p, (*broker.QueueConfig).Pause)
}

// Resume is the opposite of Pause. It does not matter by which calls the priorities
// were paused: the zero priority resumes all of them.
func (c *Client) Resume(ctx context.Context, name string, p pelton.Priority) (*pelton.Queue, error) {
	return c.pause(ctx, name, p, (*broker.QueueConfig).Resume)
}

func (c *Client) pause(ctx context.Context, name string, p pelton.Priority, change func(*broker.QueueConfig, ...pelton.Priority)) (*pelton.Queue, error) {
	of, err := prioritiesOf(p)
	if err != nil {
		return nil, err
	}
	_, err = c.b.SetQueue(ctx, name, false, func(q *broker.QueueConfig) error {
		change(q, of...)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return c.b.Queue(ctx, name)
}

// prioritiesOf is p, or all priorities for "".
func prioritiesOf(p pelton.Priority) ([]pelton.Priority, error) {
	switch {
	case p == "":
		return pelton.Priorities(), nil
	case p.Rank() < 0:
		_, err := pelton.ParsePriority(string(p))
		return nil, err
	default:
		return []pelton.Priority{p}, nil
	}
}

// Purge cancels the tasks of a queue, or of one of its priorities, that wait: ready,
// delayed and to be retried. Each keeps its record, which says cancelled. Running
// tasks are left alone, and so are those that come after it began. It works on
// paused queues too, holds a bounded number of tasks in memory, and any number of
// purges may run at once.
//
// One call works for about 5 s: go on with NextCursor until it is empty. Repeating
// an interrupted purge finishes it. When the broker gets out of reach, it ends with
// what it did so far and the cursor, or with the error if that is nothing.
// pelton.ErrNotFound is a queue that does not exist.
func (c *Client) Purge(ctx context.Context, name string, p pelton.Priority, cursor string) (*pelton.Purged, error) {
	if err := pelton.ValidateQueue(name); err != nil {
		return nil, err
	}
	if _, err := prioritiesOf(p); err != nil {
		return nil, err
	}
	purged, next, err := c.b.PurgeQueue(ctx, name, p, cursor, purgeTime)
	if err != nil && purged == 0 {
		return nil, err
	}
	return &pelton.Purged{Purged: purged, NextCursor: next}, nil
}
