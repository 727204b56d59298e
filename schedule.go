package pelton

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Bounds and defaults of schedules.
const (
	MinEvery             = time.Second          // the shortest interval
	MaxEvery             = 366 * 24 * time.Hour // the longest one
	DefaultCatchUpWindow = time.Hour            // of CatchUpAll
	MaxCatchUpWindow     = 31 * 24 * time.Hour  // of CatchUpAll
	MaxBackfill          = 1000                 // ticks of one call of Backfill
	DefaultBackfill      = 100                  // ticks of one call that does not say
	maxJitter            = 24 * time.Hour       // and less than the time between two ticks
	maxCronBytes         = 256
)

// NoRevision in Schedule.Revision of a change demands that there is no such schedule
// yet.
const NoRevision uint64 = 1<<64 - 1

// Schedule is a rule that enqueues a task again and again, or once. Exactly one of
// Cron, Every and At is set. The zero value of every other field but Name and Task
// means its default.
//
// The moments that the rule names are its ticks, to each of which there is one
// task, however many servers there are. A tick's nominal time is that moment; the
// task may start later, and knows the nominal time (Task.Schedule).
type Schedule struct {
	// Name has the form of a queue's: ^[a-z0-9][a-z0-9_-]{0,63}$.
	Name string
	// Cron is an expression of 5 fields (minute, hour, day of month, month, day of
	// week) or of 6 (second first), one of @yearly, @monthly, @weekly, @daily and
	// @hourly, or "@every 90s". docs/schedules.md has the form and what it means when
	// clocks are changed.
	Cron string
	// Every is an interval of MinEvery to MaxEvery, in whole milliseconds. Its ticks
	// are the multiples of the interval since StartsAt, or since 1970-01-01T00:00:00Z
	// without one: "1h" is every full hour.
	Every time.Duration
	// At is the one tick of a schedule that fires once.
	At time.Time
	// Zone is the IANA name of the time zone that Cron means. Empty means UTC.
	Zone string
	// Task is what each tick enqueues. It must not say RunAt, ExpiresAt or an
	// idempotency key: those belong to one task.
	Task Spec
	// Overlap says what becomes of a tick while the task of an earlier one is not
	// over. Empty means OverlapAllow.
	Overlap Overlap
	// CatchUp says what becomes of ticks that were missed because no server, or no
	// broker, was there. Empty means CatchUpLast.
	CatchUp CatchUp
	// CatchUpWindow is how far back CatchUpAll goes, at most MaxCatchUpWindow. Zero
	// means DefaultCatchUpWindow.
	CatchUpWindow time.Duration
	// Jitter delays each task by up to that much, by an amount that the schedule's
	// name and the tick determine. It must be less than the time between two ticks.
	Jitter time.Duration
	// Paused schedules have no ticks; those of the meantime are not caught up.
	Paused bool
	// StartsAt and EndsAt bound the ticks; both are still within. Zero is no bound.
	StartsAt time.Time
	EndsAt   time.Time
	// Owner is who declared the schedule by Apply, and may change and prune it by
	// that. Empty is a schedule that was made by itself.
	Owner string

	// What follows is told, not asked for.

	// Revision of the definition. In a change, a revision that is not zero must be
	// the present one, or be NoRevision.
	Revision  uint64
	CreatedAt time.Time
	UpdatedAt time.Time
	// Next are the nominal times of the next ticks, up to five, none while paused.
	Next []time.Time
	// Last are the latest runs, newest first.
	Last []ScheduleRun
	// Failing says why the latest tick brought no task. Nil: it did.
	Failing *ScheduleFailing
}

// ScheduleRun is what a tick brought.
type ScheduleRun struct {
	Tick time.Time `json:"tick"` // nominal; of a manual run, when it was asked for
	// TaskID is zero if the tick was skipped.
	TaskID ID `json:"task_id,omitzero"`
	// State of the task. Empty if its record has expired, or the tick was skipped.
	State State `json:"state,omitempty"`
	// Skipped says why there is no task: "overlap", "missed" (the last one of several
	// that were) or "refused".
	Skipped SkipReason `json:"skipped,omitempty"`
	// Manual runs were asked for, and are no ticks.
	Manual bool `json:"manual,omitempty"`
}

// SkipReason says why a tick brought no task.
type SkipReason string

// The reasons.
const (
	SkippedOverlap SkipReason = "overlap" // an earlier task was not over
	SkippedMissed  SkipReason = "missed"  // nobody was there in time, and CatchUp leaves it
	SkippedRefused SkipReason = "refused" // see Schedule.Failing
)

// ScheduleFailing says why a schedule brings no tasks. Its next ticks are tried all
// the same.
type ScheduleFailing struct {
	Reason string    `json:"reason"`
	At     time.Time `json:"at"`
	Tick   time.Time `json:"tick,omitzero"`
}

// TaskSchedule says which tick of which schedule a task is of.
type TaskSchedule struct {
	Name string    `json:"name"`
	Tick time.Time `json:"tick"` // nominal; of a manual run, when it was asked for
	// Manual runs were asked for, and are no ticks.
	Manual bool `json:"manual,omitempty"`
}

// Overlap is what becomes of a tick while the task of an earlier one is not over.
type Overlap string

const (
	// OverlapAllow enqueues it.
	OverlapAllow Overlap = "allow"
	// OverlapSkip skips it.
	OverlapSkip Overlap = "skip"
	// OverlapQueue lets one task wait until the earlier one is over, and skips further
	// ticks meanwhile.
	OverlapQueue Overlap = "queue"
	// OverlapCancel cancels the earlier task, then enqueues it.
	OverlapCancel Overlap = "cancel"
)

// Overlaps lists the values of Overlap, the default first.
func Overlaps() []Overlap { return []Overlap{OverlapAllow, OverlapSkip, OverlapQueue, OverlapCancel} }

// CatchUp is what becomes of ticks that were missed.
type CatchUp string

const (
	// CatchUpNone leaves them out.
	CatchUpNone CatchUp = "none"
	// CatchUpLast enqueues the latest of them.
	CatchUpLast CatchUp = "last"
	// CatchUpAll enqueues all of them that are within the window.
	CatchUpAll CatchUp = "all"
)

// CatchUps lists the values of CatchUp, the default first.
func CatchUps() []CatchUp { return []CatchUp{CatchUpLast, CatchUpNone, CatchUpAll} }

// ScheduleQuery asks for schedules, sorted by name.
type ScheduleQuery struct {
	// Owner selects those that Apply made for it. Empty selects all.
	Owner string
	// Cursor goes on where an earlier answer ended. Empty starts with the first.
	Cursor string
	// Limit is the most schedules of the page, 500 at most. Zero means 50.
	Limit int
}

// SchedulePage is one page of schedules, sorted by name.
type SchedulePage struct {
	Items []*Schedule
	// NextCursor leads to the next page and is empty after the last one.
	NextCursor string
}

// Backfill asks for the ticks of a past interval.
type Backfill struct {
	From time.Time // the first moment of the interval
	To   time.Time // the first one after it; not in the future
	// Limit is the most ticks of the call, MaxBackfill at most. Zero means
	// DefaultBackfill.
	Limit int
	// DryRun lists the ticks and enqueues nothing.
	DryRun bool
}

// BackfillResult says how far a backfill came.
type BackfillResult struct {
	Ticks    []BackfillTick `json:"ticks"`
	Enqueued int            `json:"enqueued"` // in a dry run: would be
	Existing int            `json:"existing"` // had a task already
	Failed   int            `json:"failed"`   // were refused
	// NextFrom is where to go on, if the interval has more ticks than the limit.
	NextFrom time.Time `json:"next_from,omitzero"`
}

// BackfillTick is one tick of a backfill.
type BackfillTick struct {
	Tick   time.Time `json:"tick"`
	TaskID ID        `json:"task_id,omitzero"`
	// Existing says that the tick had its task before. Its State is that task's.
	Existing bool   `json:"existing,omitempty"`
	State    State  `json:"state,omitempty"`
	Error    string `json:"error,omitempty"` // why it was refused
}

// Applied says what Apply did, by name.
type Applied struct {
	Created   []string `json:"created"`
	Changed   []string `json:"changed"`
	Unchanged []string `json:"unchanged"`
	Deleted   []string `json:"deleted"`
}

// ApplyOptions says how Apply goes about it. The zero value applies and prunes.
type ApplyOptions struct {
	// Keep leaves schedules of the owner that are not wanted any more.
	Keep bool
	// DryRun says what would be done, and changes nothing.
	DryRun bool
}

// ValidateScheduleName checks a schedule's name, which has the form of a queue's.
func ValidateScheduleName(name string) error {
	if !queueName.MatchString(name) {
		return fmt.Errorf("%w: schedule %q must match %s", ErrInvalid, clip(name, 80), queueName)
	}
	return nil
}

// Normalized is the schedule with its defaults filled in, and times in UTC. It checks
// everything that needs no calendar: whether Cron can be read, and whether there will
// be a tick at all, package scheduler knows. The error is a *ValidationError that
// names every field at fault.
func (s Schedule) Normalized(now time.Time) (Schedule, error) {
	var bad []FieldError
	fail := func(field, format string, args ...any) {
		bad = append(bad, FieldError{Field: field, Message: fmt.Sprintf(format, args...)})
	}
	if !queueName.MatchString(s.Name) {
		fail("name", "%q must match %s", clip(s.Name, 80), queueName)
	}
	s.normalizeRule(fail)
	s.normalizePolicies(fail)
	if problem := keyProblem(s.Owner); problem != "" {
		fail("owner", "%s", problem)
	}
	bad = append(bad, s.checkTask(now)...)
	if len(bad) > 0 {
		return Schedule{}, &ValidationError{Fields: bad}
	}
	return s, nil
}

func (s *Schedule) normalizeRule(fail func(field, format string, args ...any)) {
	s.Cron = strings.Join(strings.Fields(s.Cron), " ")
	given := 0
	for _, is := range []bool{s.Cron != "", s.Every != 0, !s.At.IsZero()} {
		if is {
			given++
		}
	}
	switch {
	case given == 0:
		fail("cron", "is required, or every, or at")
	case given > 1:
		fail("cron", "excludes every and at: give one of the three")
	}
	if len(s.Cron) > maxCronBytes {
		fail("cron", "is %d bytes, more than %d", len(s.Cron), maxCronBytes)
	}
	if s.Every != 0 {
		if s.Every < MinEvery || s.Every > MaxEvery {
			fail("every", "%s is not between %s and %s", FormatDuration(s.Every), FormatDuration(MinEvery), FormatDuration(MaxEvery))
		} else if s.Every%time.Millisecond != 0 {
			fail("every", "%s is not in whole milliseconds", s.Every)
		}
	}
	if s.Zone == "" {
		s.Zone = "UTC"
	}
	if _, err := time.LoadLocation(s.Zone); err != nil || s.Zone == "Local" {
		fail("zone", "%q is not the name of a time zone such as Europe/Berlin", clip(s.Zone, 80))
	} else if s.Cron == "" && given > 0 && s.Zone != "UTC" {
		fail("zone", "is for cron")
	}
	for _, t := range []struct {
		field string
		at    *time.Time
	}{{"at", &s.At}, {"starts_at", &s.StartsAt}, {"ends_at", &s.EndsAt}} {
		// To the millisecond, as ids have it, and inwards: no task comes early.
		given := t.at.UTC()
		if *t.at = given.Truncate(time.Millisecond); t.field != "ends_at" && t.at.Before(given) {
			*t.at = t.at.Add(time.Millisecond)
		}
		if year := t.at.Year(); year > maxYear {
			fail(t.field, "is after the year 9999")
		} else if !t.at.IsZero() && year < 1970 {
			fail(t.field, "is before the year 1970")
		}
	}
	if !s.StartsAt.IsZero() && !s.EndsAt.IsZero() && s.EndsAt.Before(s.StartsAt) {
		fail("ends_at", "is before starts_at")
	}
	if !s.At.IsZero() && (!s.StartsAt.IsZero() && s.At.Before(s.StartsAt) || !s.EndsAt.IsZero() && s.At.After(s.EndsAt)) {
		fail("at", "is not between starts_at and ends_at: it would never fire")
	}
}

func (s *Schedule) normalizePolicies(fail func(field, format string, args ...any)) {
	if s.Overlap == "" {
		s.Overlap = OverlapAllow
	} else if !slices.Contains(Overlaps(), s.Overlap) {
		fail("overlap", "%q is none of allow, skip, queue, cancel", clip(string(s.Overlap), 64))
	}
	if s.CatchUp == "" {
		s.CatchUp = CatchUpLast
	} else if !slices.Contains(CatchUps(), s.CatchUp) {
		fail("catch_up", "%q is none of none, last, all", clip(string(s.CatchUp), 64))
	}
	switch {
	case s.CatchUpWindow == 0:
		s.CatchUpWindow = DefaultCatchUpWindow
	case s.CatchUpWindow < time.Second || s.CatchUpWindow > MaxCatchUpWindow:
		fail("catch_up_window", "%s is not between 1s and %s", FormatDuration(s.CatchUpWindow), FormatDuration(MaxCatchUpWindow))
	}
	switch {
	case s.Jitter == 0:
	case s.Jitter < time.Millisecond || s.Jitter > maxJitter:
		fail("jitter", "%s is not between 1ms and %s", FormatDuration(s.Jitter), FormatDuration(maxJitter))
	case s.Every > 0 && s.Jitter >= s.Every:
		fail("jitter", "%s is not less than the interval of %s", FormatDuration(s.Jitter), FormatDuration(s.Every))
	}
}

// checkTask checks what each tick enqueues. The task is kept as it was given: what
// it does not say, the settings of its queue do when its time comes.
func (s *Schedule) checkTask(now time.Time) []FieldError {
	var bad []FieldError
	fail := func(field, message string) { bad = append(bad, FieldError{Field: "task." + field, Message: message}) }
	task := s.Task
	if !task.RunAt.IsZero() {
		fail("run_at", "belongs to one task: the schedule says when")
	}
	if !task.ExpiresAt.IsZero() {
		fail("expires_at", "belongs to one task")
	}
	if task.IdempotencyKey != "" {
		fail("idempotency_key", "belongs to one task: a tick has one task anyhow")
	}
	if task.ConcurrencyKey != "" && s.Overlap == OverlapQueue {
		fail("concurrency_key", "excludes the overlap policy queue, which makes a line of its own")
	}
	task.RunAt, task.ExpiresAt, task.IdempotencyKey = time.Time{}, time.Time{}, ""
	_, err := task.Normalized(now)
	var invalid *ValidationError
	if errors.As(err, &invalid) {
		for _, f := range invalid.Fields {
			fail(f.Field, f.Message)
		}
	}
	return bad
}
