package scheduler

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/broker"
)

// Apply is ApplyWith that prunes.
func (c *Client) Apply(ctx context.Context, owner string, want []pelton.Schedule) (*pelton.Applied, error) {
	return c.ApplyWith(ctx, owner, want, pelton.ApplyOptions{})
}

// ApplyWith makes the schedules of an owner those that are wanted: it adds and changes
// what differs, and deletes what the owner made by Apply and does not want any more. All
// are checked before the first is written: the fields of a *pelton.ValidationError are
// such as "schedules[3].cron", counted from 0. A schedule that belongs to nobody, or to
// another, is pelton.ErrConflict. A pause made by Pause is kept until Resume or Put ends
// it.
//
// It is not atomic: after an error, some are applied, which the answer lists, and a
// repeat does the rest. Each change is made only to what still belongs to the owner.
// Whoever applies at the same time for the same owner should want the same.
func (c *Client) ApplyWith(ctx context.Context, owner string, want []pelton.Schedule, opts pelton.ApplyOptions) (*pelton.Applied, error) {
	if c.closed.Load() {
		return nil, fmt.Errorf("scheduler: %w", pelton.ErrClosed)
	}
	if owner == "" {
		return nil, invalid("owner", "is required")
	}
	if err := pelton.ValidateKey(owner); err != nil { // also if there is nothing to apply
		return nil, invalid("owner", "%s", strings.TrimPrefix(err.Error(), pelton.ErrInvalid.Error()+": key "))
	}
	now, err := c.b.Now(ctx)
	if err != nil {
		return nil, err
	}
	wanted, err := c.checkAll(ctx, owner, want, now)
	if err != nil {
		return nil, err
	}
	names, err := c.b.ScheduleNames(ctx)
	if err != nil {
		return nil, err
	}
	done := &pelton.Applied{Created: []string{}, Changed: []string{}, Unchanged: []string{}, Deleted: []string{}}
	for _, name := range slices.Sorted(maps.Keys(wanted)) {
		created, changed, err := c.put(ctx, wanted[name], how{declared: true, dry: opts.DryRun})
		switch {
		case err != nil:
			return done, fmt.Errorf("apply: %w", err)
		case created:
			done.Created = append(done.Created, name)
		case changed:
			done.Changed = append(done.Changed, name)
		default:
			done.Unchanged = append(done.Unchanged, name)
		}
	}
	for _, name := range names {
		if _, keep := wanted[name]; keep || opts.Keep {
			continue
		}
		deleted, err := c.prune(ctx, name, owner, opts.DryRun)
		if err != nil {
			return done, fmt.Errorf("apply: %w", err)
		}
		if deleted {
			done.Deleted = append(done.Deleted, name)
		}
	}
	return done, nil
}

// errKept says that a schedule is not to be deleted.
var errKept = errors.New("kept")

// prune deletes a schedule if it is the owner's at that moment.
func (c *Client) prune(ctx context.Context, name, owner string, dry bool) (deleted bool, err error) {
	mine := false
	err = c.delete(ctx, name, func(doc *broker.ScheduleDoc) error {
		if mine = doc.Schedule.Owner == owner; !mine || dry {
			return errKept
		}
		return nil
	})
	switch {
	case errors.Is(err, errKept):
		return mine, nil
	case errors.Is(err, pelton.ErrNotFound):
		return false, nil
	default:
		return err == nil, err
	}
}

// checkAll gives what is wanted by name, or everything that is wrong with it.
func (c *Client) checkAll(ctx context.Context, owner string, want []pelton.Schedule, now time.Time) (map[string]pelton.Schedule, error) {
	wanted := make(map[string]pelton.Schedule, len(want))
	var bad []pelton.FieldError
	for i, s := range want {
		s.Owner, s.Revision = owner, 0
		at := fmt.Sprintf("schedules[%d].", i)
		err := c.checkWanted(ctx, s, now)
		var faults *pelton.ValidationError
		switch {
		case errors.As(err, &faults):
			for _, f := range faults.Fields {
				if f.Field == "owner" { // of all of them
					return nil, &pelton.ValidationError{Fields: []pelton.FieldError{f}}
				}
				bad = append(bad, pelton.FieldError{Field: at + f.Field, Message: f.Message})
			}
		case err != nil:
			return nil, fmt.Errorf("apply: %w", err)
		}
		if _, twice := wanted[s.Name]; twice {
			bad = append(bad, pelton.FieldError{Field: at + "name", Message: fmt.Sprintf("%q is there twice", s.Name)})
		}
		wanted[s.Name] = s
	}
	if len(bad) > 0 {
		return nil, &pelton.ValidationError{Fields: bad}
	}
	return wanted, nil
}

// checkWanted is what put would say, without writing.
func (c *Client) checkWanted(ctx context.Context, s pelton.Schedule, now time.Time) error {
	norm, r, err := normalize(s, now)
	if err != nil {
		return err
	}
	old, err := c.b.LoadSchedule(ctx, s.Name)
	absent := errors.Is(err, pelton.ErrNotFound)
	switch {
	case err != nil && !absent:
		return err
	case !absent && old.Schedule.Owner != s.Owner:
		return notOwned(&old.Schedule)
	case absent || !sameRule(&old.Schedule, &norm):
		return r.check(now)
	}
	return nil
}

// notOwned says to whom a schedule belongs that another wants to apply.
func notOwned(s *pelton.Schedule) error {
	by := "nobody"
	if s.Owner != "" {
		by = fmt.Sprintf("%q", s.Owner)
	}
	return fmt.Errorf("schedule %s: %w: it belongs to %s", s.Name, pelton.ErrConflict, by)
}
