package scheduler

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/broker"
)

const (
	callTimeout  = 10 * time.Second // bounds a call whose caller set no sooner deadline
	casTries     = 10               // of a write that others may forestall
	shownNext    = 5                // ticks in Schedule.Next
	shownInLists = 5                // runs in the Schedule.Last of a list
	pageLimit    = 50
	maxPage      = 500
	maxPreview   = 1000
	pageBytes    = 4 << 20 // payloads of a page; one schedule always fits
)

// Config is how a Client finds its installation.
type Config struct {
	// Namespace of the installation in NATS. Empty means "pelton".
	Namespace string
	// Lease given to queues that this client is the first to use. Zero means 30 s.
	Lease time.Duration
	// Replicas of what this client is the first to create. Zero means 1.
	Replicas int
	// Tags that the servers of a cluster must have which hold what this client is the first to
	// create. None are any servers.
	Tags []string
	// Logger gets what an operator may want to know. Nil discards.
	Logger *slog.Logger
}

// Client changes and reads schedules, and runs them. It is safe for concurrent use.
type Client struct {
	b      *broker.Broker
	log    *slog.Logger
	closed atomic.Bool
}

// New opens the installation on nc and creates in the broker what is missing. Its
// errors are those of producer.New.
func New(ctx context.Context, nc *nats.Conn, cfg Config) (*Client, error) {
	b, err := broker.Open(ctx, nc, broker.Config{Namespace: cfg.Namespace, Lease: cfg.Lease, Replicas: cfg.Replicas, Tags: cfg.Tags, Logger: cfg.Logger})
	if err != nil {
		return nil, fmt.Errorf("open scheduler: %w", err)
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Client{b: b, log: cfg.Logger}, nil
}

// Close ends calls that are under way. It does not close the NATS connection. End Run
// before.
func (c *Client) Close() {
	if !c.closed.Swap(true) {
		c.b.Close()
	}
}

// begin bounds a call and checks what it is about.
func (c *Client) begin(ctx context.Context, name string) (context.Context, context.CancelFunc, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	if c.closed.Load() {
		return ctx, cancel, fmt.Errorf("scheduler: %w", pelton.ErrClosed)
	}
	return ctx, cancel, pelton.ValidateScheduleName(name)
}

// Put creates or replaces a schedule; created says which. Ticks of a rule that is new
// or changed count from now on; a change of anything else, the task included, leaves
// the ticks as they are. Putting what is there already changes nothing. An owner is
// kept if s names none.
//
// Errors: a *pelton.ValidationError, also for a rule that never fires;
// pelton.ErrConflict if s.Revision is neither zero nor the present one, or is
// pelton.NoRevision and there is one;
// pelton.ErrUnavailable; pelton.ErrUnknownOutcome, after which a repeat is safe.
func (c *Client) Put(ctx context.Context, s pelton.Schedule) (put *pelton.Schedule, created bool, err error) {
	ctx, cancel, err := c.begin(ctx, s.Name)
	defer cancel()
	if err != nil {
		return nil, false, err
	}
	created, _, err = c.put(ctx, s, how{})
	if err != nil {
		return nil, false, fmt.Errorf("put schedule: %w", err)
	}
	put, err = c.get(ctx, s.Name, shownInLists)
	return put, created, err
}

// how says what put does beyond Put.
type how struct {
	declared bool // by the owner: it must be the owner's, and a pause made by hand stays
	dry      bool // nothing is written
}

// put is Put and says whether anything changed.
//
// Crash window: after the definition, the message of the next tick may be missing; the
// reconciler leaves it. What waits for ticks of an earlier rule is harmless.
func (c *Client) put(ctx context.Context, s pelton.Schedule, do how) (created, changed bool, err error) {
	now, err := c.b.Now(ctx)
	if err != nil {
		return false, false, err
	}
	norm, r, err := normalize(s, now)
	if err != nil {
		return false, false, err
	}
	want := s.Revision
	for range casTries {
		old, err := c.b.LoadSchedule(ctx, s.Name)
		absent := errors.Is(err, pelton.ErrNotFound)
		switch {
		case err != nil && !absent:
			return false, false, err
		case want == pelton.NoRevision && !absent:
			return false, false, fmt.Errorf("schedule %s: %w: there is one", s.Name, pelton.ErrConflict)
		case want != 0 && want != pelton.NoRevision && (absent || old.Revision != want):
			return false, false, fmt.Errorf("schedule %s: %w: its revision is not %d", s.Name, pelton.ErrConflict, want)
		case do.declared && !absent && old.Schedule.Owner != s.Owner:
			return false, false, notOwned(&old.Schedule)
		}
		doc, err := succeed(old, absent, norm, do.declared)
		if err != nil {
			return false, false, err
		}
		if doc == nil {
			return false, false, nil
		}
		if doc.Since.IsZero() {
			if err := r.check(now); err != nil {
				return false, false, err
			}
		}
		if absent {
			if err := c.b.CheckScheduleBound(ctx, s.Name); err != nil {
				return false, false, err
			}
		}
		if do.dry {
			return absent, true, nil
		}
		if err = c.b.SaveSchedule(ctx, doc); errors.Is(err, broker.ErrStale) {
			continue
		}
		if err != nil {
			return false, false, err
		}
		return absent, true, c.arm(context.WithoutCancel(ctx), s.Name)
	}
	return false, false, fmt.Errorf("schedule %s: %w: it keeps changing", s.Name, pelton.ErrUnavailable)
}

// succeed is the definition that follows on old; nil if nothing would change. A rule
// that is another, or that was paused, is in force from when it is written.
func succeed(old *broker.ScheduleDoc, absent bool, norm pelton.Schedule, declared bool) (*broker.ScheduleDoc, error) {
	norm.Revision, norm.CreatedAt, norm.UpdatedAt, norm.Next, norm.Last, norm.Failing = 0, time.Time{}, time.Time{}, nil, nil, nil
	if absent {
		return &broker.ScheduleDoc{Schedule: norm, Incarnation: rand.Text(), Revision: old.Revision}, nil
	}
	if norm.Owner == "" {
		norm.Owner = old.Schedule.Owner
	}
	held := declared && old.Held
	norm.Paused = norm.Paused || held
	doc := &broker.ScheduleDoc{Schedule: norm, Incarnation: old.Incarnation, CreatedAt: old.Created(), Held: held, Revision: old.Revision}
	if sameRule(&old.Schedule, &norm) && (!old.Schedule.Paused || norm.Paused) {
		doc.Since = old.InForce()
	}
	before, err := old.Schedule.AppendJSON(nil)
	if err != nil {
		return nil, err
	}
	after, err := norm.AppendJSON(nil)
	if err != nil {
		return nil, err
	}
	if string(before) == string(after) && old.Held == held {
		return nil, nil //nolint:nilnil // documented: nothing would change
	}
	return doc, nil
}

func sameRule(a, b *pelton.Schedule) bool {
	return a.Cron == b.Cron && a.Every == b.Every && a.At.Equal(b.At) && a.Zone == b.Zone && a.StartsAt.Equal(b.StartsAt) && a.EndsAt.Equal(b.EndsAt)
}

// normalize is Schedule.Normalized that can read cron. The error names every field at
// fault.
func normalize(s pelton.Schedule, now time.Time) (pelton.Schedule, *rule, error) {
	norm, err := s.Normalized(now)
	if err == nil {
		r, err := newRule(&norm)
		return norm, r, err
	}
	var bad *pelton.ValidationError
	isCron := func(f pelton.FieldError) bool { return f.Field == "cron" }
	if errors.As(err, &bad) && s.Cron != "" && !slices.ContainsFunc(bad.Fields, isCron) {
		if _, _, err := parseCron(s.Cron, time.UTC); err != nil {
			bad.Fields = append(bad.Fields, pelton.FieldError{Field: "cron", Message: err.Error()})
		}
	}
	return pelton.Schedule{}, nil, err
}

// Delete deletes a schedule and what is remembered of it. Its tasks stay. A schedule
// of the same name that is made later is another one, and its ticks have other tasks.
// With revisions, the present one must be among them, else it is pelton.ErrConflict.
// pelton.ErrNotFound means that there is none.
func (c *Client) Delete(ctx context.Context, name string, revisions ...uint64) error {
	ctx, cancel, err := c.begin(ctx, name)
	defer cancel()
	if err != nil {
		return err
	}
	return c.delete(ctx, name, func(doc *broker.ScheduleDoc) error {
		if len(revisions) > 0 && !slices.Contains(revisions, doc.Revision) {
			return fmt.Errorf("%w: its revision is %d", pelton.ErrConflict, doc.Revision)
		}
		return nil
	})
}

// delete deletes a schedule unless the check of what it is at that moment fails.
func (c *Client) delete(ctx context.Context, name string, check func(*broker.ScheduleDoc) error) error {
	for range casTries {
		doc, err := c.b.LoadSchedule(ctx, name)
		if err == nil {
			err = check(doc)
		}
		if err != nil {
			return fmt.Errorf("delete schedule %s: %w", name, err)
		}
		if err = c.b.DeleteSchedule(ctx, doc); !errors.Is(err, broker.ErrStale) {
			return err
		}
	}
	return fmt.Errorf("delete schedule %s: %w: it keeps changing", name, pelton.ErrUnavailable)
}

// Pause stops a schedule's ticks until Resume. Those of the meantime are not caught up.
func (c *Client) Pause(ctx context.Context, name string) (*pelton.Schedule, error) {
	return c.setPaused(ctx, name, true)
}

// Resume ends a pause. Ticks count from now on.
func (c *Client) Resume(ctx context.Context, name string) (*pelton.Schedule, error) {
	return c.setPaused(ctx, name, false)
}

func (c *Client) setPaused(ctx context.Context, name string, paused bool) (*pelton.Schedule, error) {
	ctx, cancel, err := c.begin(ctx, name)
	defer cancel()
	if err != nil {
		return nil, err
	}
	for range casTries {
		doc, err := c.b.LoadSchedule(ctx, name)
		if err != nil {
			return nil, err
		}
		if doc.Schedule.Paused == paused && doc.Held == paused {
			return c.get(ctx, name, shownInLists)
		}
		doc.CreatedAt = doc.Created()
		if doc.Since = doc.InForce(); doc.Schedule.Paused && !paused {
			doc.Since = time.Time{}
		}
		doc.Schedule.Paused, doc.Held = paused, paused
		err = c.b.SaveSchedule(ctx, doc)
		if errors.Is(err, broker.ErrStale) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if err := c.arm(context.WithoutCancel(ctx), name); err != nil {
			return nil, err
		}
		return c.get(ctx, name, shownInLists)
	}
	return nil, fmt.Errorf("pause or resume schedule %s: %w: it keeps changing", name, pelton.ErrUnavailable)
}
