package scheduler

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/peltonq/pelton"
)

func TestPutGetDelete(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	want := pelton.Schedule{
		Name: "nightly", Cron: "30 2 * * *", Zone: "Europe/Berlin", Overlap: pelton.OverlapSkip, CatchUp: pelton.CatchUpAll,
		CatchUpWindow: 2 * time.Hour, Jitter: time.Minute, StartsAt: time.Date(2030, 3, 30, 0, 0, 0, 0, time.UTC), EndsAt: time.Date(2030, 4, 2, 0, 0, 0, 0, time.UTC),
		Task: pelton.Spec{Kind: "report.build", Payload: []byte(`{ "a" : "<&>" }`), Priority: pelton.Low},
	}
	got, created, err := b.c.Put(t.Context(), want)
	if err != nil || !created {
		t.Fatal(created, err)
	}
	if diff := cmp.Diff(&want, got, cmpopts.IgnoreFields(pelton.Schedule{}, "Revision", "CreatedAt", "UpdatedAt", "Next")); diff != "" {
		t.Error(diff)
	}
	next := []time.Time{
		time.Date(2030, 3, 30, 1, 30, 0, 0, time.UTC), time.Date(2030, 3, 31, 1, 0, 0, 0, time.UTC), time.Date(2030, 4, 1, 0, 30, 0, 0, time.UTC),
	}
	if diff := cmp.Diff(next, got.Next); diff != "" {
		t.Error(diff)
	}
	if got.Revision == 0 || got.CreatedAt.IsZero() || got.UpdatedAt.IsZero() {
		t.Errorf("%+v", got)
	}
	again, created, err := b.c.Put(t.Context(), want)
	if err != nil || created || again.Revision != got.Revision {
		t.Errorf("the same again: created %t, revision %d, %v", created, again.Revision, err)
	}

	// A change at a revision that is not the present one.
	want.Jitter, want.Revision = 0, got.Revision
	changed, created, err := b.c.Put(t.Context(), want)
	if err != nil || created || changed.Revision == got.Revision || !changed.CreatedAt.Equal(got.CreatedAt) {
		t.Errorf("changed: created %t, %+v, %v", created, changed, err)
	}
	want.Jitter = time.Second
	if _, _, err := b.c.Put(t.Context(), want); !errors.Is(err, pelton.ErrConflict) {
		t.Errorf("an old revision: %v", err)
	}
	if _, _, err := b.c.Put(t.Context(), pelton.Schedule{Name: "new", Every: time.Hour, Task: want.Task, Revision: 3}); !errors.Is(err, pelton.ErrConflict) {
		t.Errorf("a revision of nothing: %v", err)
	}

	if err := b.c.Delete(t.Context(), "nightly"); err != nil {
		t.Fatal(err)
	}
	for what, err := range map[string]error{
		"delete": b.c.Delete(t.Context(), "nightly"),
		"get":    second(b.c.Get(t.Context(), "nightly")),
		"pause":  second(b.c.Pause(t.Context(), "nightly")),
		"run":    second(b.c.RunNow(t.Context(), "nightly")),
	} {
		if !errors.Is(err, pelton.ErrNotFound) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := second(b.c.Get(t.Context(), "a.b")); !errors.Is(err, pelton.ErrInvalid) {
		t.Errorf("a bad name: %v", err)
	}
}

func second[T any](_ T, err error) error { return err }

func TestPutRefuses(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	now := b.now()
	for name, tt := range map[string]struct {
		s           pelton.Schedule
		field, says string
	}{
		"cron":              {pelton.Schedule{Cron: "61 * * * *"}, "cron", `minute: "61"`},
		"interval of cron":  {pelton.Schedule{Cron: "@every 500ms"}, "cron", "@every: 500ms is not between 1s"},
		"never":             {pelton.Schedule{Cron: "0 0 30 2 *"}, "cron", "never fires"},
		"never in time":     {pelton.Schedule{Cron: "0 0 29 2 *", EndsAt: time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)}, "cron", "no tick until ends_at"},
		"ended":             {pelton.Schedule{Every: time.Hour, EndsAt: now.Add(-time.Hour)}, "ends_at", "has passed"},
		"passed":            {pelton.Schedule{At: now.Add(-time.Hour)}, "at", "has passed"},
		"starts at the end": {pelton.Schedule{Cron: "0 0 1 1 *", StartsAt: time.Date(9999, 2, 1, 0, 0, 0, 0, time.UTC)}, "cron", "never fires"},
		"jitter":            {pelton.Schedule{Cron: "*/5 * * * *", Jitter: 5 * time.Minute}, "jitter", "5m is not less than the time between two ticks, which is 5m"},
	} {
		tt.s.Name, tt.s.Task.Kind = "s", "k"
		_, _, err := b.c.Put(t.Context(), tt.s)
		if err == nil {
			t.Errorf("%s: stored", name)
			continue
		}
		b.wants(err, tt.field, tt.says)
	}
	_, _, err := b.c.Put(t.Context(), pelton.Schedule{Name: "s", Cron: "61 * * * *", Zone: "x"})
	var fields []string
	if invalid, ok := errors.AsType[*pelton.ValidationError](err); ok {
		for _, f := range invalid.Fields {
			fields = append(fields, f.Field)
		}
	}
	if diff := cmp.Diff([]string{"zone", "task.kind", "cron"}, fields); diff != "" {
		t.Error(diff)
	}
}

// A rule that changes counts from the change, another field leaves the ticks alone, and
// a name that is used again has other tasks.
func TestChangesAndTicks(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	at := b.now().Add(time.Hour).Truncate(time.Second)
	step := func(now time.Time) {
		t.Helper()
		v, err := b.c.load(t.Context(), "s")
		if err == nil {
			err = b.c.step(t.Context(), v, now, false)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	rule := pelton.Schedule{Name: "s", At: at}
	b.put(rule)
	step(at)
	first := runs(b.get("s"))
	// The schedule is over. Putting it once more is no error, and fires nothing.
	rule.Task.Priority = pelton.High
	b.put(rule)
	step(at.Add(time.Second))
	if got := runs(b.get("s")); len(first) != 1 || len(got) != 1 {
		t.Errorf("runs %+v, then %+v", first, got)
	}
	// Another time is another tick.
	rule.At = at.Add(time.Hour)
	b.put(rule)
	step(at.Add(time.Hour))
	if got := runs(b.get("s")); len(got) != 2 || !got[1].Tick.Equal(rule.At) {
		t.Errorf("runs %+v", got)
	}
	// Deleted and made again, with the first tick.
	if err := b.c.Delete(t.Context(), "s"); err != nil {
		t.Fatal(err)
	}
	rule.At = at
	if s := b.put(rule); len(s.Last) != 0 {
		t.Errorf("a new schedule remembers %+v", s.Last)
	}
	step(at)
	if got := runs(b.get("s")); len(got) != 1 || !got[0].Tick.Equal(at) || got[0].TaskID == first[0].TaskID {
		t.Errorf("runs %+v, the first was %s", got, first[0].TaskID)
	}
}

func TestPauseAndResume(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.run(b.c)
	b.put(pelton.Schedule{Name: "s", Every: time.Second, CatchUp: pelton.CatchUpAll})
	b.until("s", "running", func(s *pelton.Schedule) bool { return len(runs(s)) > 0 })
	s, err := b.c.Pause(t.Context(), "s")
	if err != nil || !s.Paused || len(s.Next) != 0 {
		t.Fatalf("%+v, %v", s, err)
	}
	paused := b.now()
	<-time.After(2500 * time.Millisecond)
	if s, err = b.c.Resume(t.Context(), "s"); err != nil || s.Paused || len(s.Next) == 0 {
		t.Fatalf("%+v, %v", s, err)
	}
	resumed := s.UpdatedAt
	s = b.until("s", "running again", func(s *pelton.Schedule) bool { list := runs(s); return list[len(list)-1].Tick.After(resumed) })
	for _, run := range runs(s) {
		if run.Tick.After(paused.Add(time.Millisecond)) && run.Tick.Before(resumed) {
			t.Errorf("tick %s, paused from %s to %s", run.Tick, paused, resumed)
		}
	}
}

func TestRunNow(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.put(pelton.Schedule{Name: "s", Every: time.Hour, Paused: true, Task: pelton.Spec{Kind: "k", Payload: []byte(`{ }`)}})
	task, err := b.c.RunNow(t.Context(), "s")
	if err != nil {
		t.Fatal(err)
	}
	if task.Schedule == nil || !task.Schedule.Manual || task.Schedule.Name != "s" || string(task.Payload) != "{ }" {
		t.Errorf("%+v of %+v", task, task.Schedule)
	}
	other, err := b.c.RunNow(t.Context(), "s")
	if err != nil || other.ID == task.ID {
		t.Errorf("%v, %v", other, err)
	}
	last := b.get("s").Last
	if len(last) != 2 || last[0].TaskID != other.ID || !last[1].Manual || last[1].State != pelton.Queued {
		t.Errorf("%+v", last)
	}
}

func TestBackfill(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.put(pelton.Schedule{Name: "s", Cron: "0 * * * *"})
	day := b.now().AddDate(0, 0, -2).Truncate(24 * time.Hour)
	ask := pelton.Backfill{From: day, To: day.Add(5 * time.Hour), DryRun: true}
	backfill := func(enqueued, existing, failed int) *pelton.BackfillResult {
		t.Helper()
		got, err := b.c.Backfill(t.Context(), "s", ask)
		if err != nil {
			t.Fatal(err)
		}
		if got.Enqueued != enqueued || got.Existing != existing || got.Failed != failed || len(got.Ticks) != enqueued+existing+failed {
			t.Errorf("%+v, want %d enqueued, %d there, %d failed", got, enqueued, existing, failed)
		}
		return got
	}
	dry := backfill(5, 0, 0)
	if !dry.Ticks[0].Tick.Equal(day) || !dry.Ticks[4].Tick.Equal(day.Add(4*time.Hour)) {
		t.Errorf("%+v", dry.Ticks)
	}
	if _, err := b.tasks.Get(t.Context(), dry.Ticks[0].TaskID); !errors.Is(err, pelton.ErrNotFound) {
		t.Errorf("a dry run enqueued: %v", err)
	}
	ask.DryRun, ask.Limit = false, 2
	part := backfill(2, 0, 0)
	if !part.NextFrom.Equal(day.Add(2 * time.Hour)) {
		t.Errorf("next from %s", part.NextFrom)
	}
	task, err := b.tasks.Get(t.Context(), part.Ticks[1].TaskID)
	if err != nil || !task.Schedule.Tick.Equal(day.Add(time.Hour)) || part.Ticks[1].TaskID != dry.Ticks[1].TaskID {
		t.Errorf("%+v, %v", task, err)
	}
	ask.Limit = 0
	if whole := backfill(3, 2, 0); !whole.NextFrom.IsZero() || whole.Ticks[0].State != pelton.Queued {
		t.Errorf("%+v", whole)
	}
	ask.DryRun = true
	backfill(0, 5, 0)

	for field, ask := range map[string]pelton.Backfill{
		"from":  {To: day},
		"to":    {From: day, To: b.now().Add(time.Hour)},
		"limit": {From: day, To: day.Add(1), Limit: 1001},
	} {
		_, err := b.c.Backfill(t.Context(), "s", ask)
		b.wants(err, field, "")
	}
	_, err = b.c.Backfill(t.Context(), "s", pelton.Backfill{From: day, To: day})
	b.wants(err, "to", "is not after from")
}

func TestApply(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	task := pelton.Spec{Kind: "k"}
	a := pelton.Schedule{Name: "a", Every: time.Hour, Task: task}
	c := pelton.Schedule{Name: "c", Cron: "0 3 * * *", Task: task}
	d := pelton.Schedule{Name: "d", Cron: "@daily", Task: task}
	b.put(pelton.Schedule{Name: "by-hand", Every: time.Hour})
	apply := func(want pelton.Applied, schedules ...pelton.Schedule) {
		t.Helper()
		got, err := b.c.Apply(t.Context(), "app", schedules)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(&want, got, cmpopts.EquateEmpty()); diff != "" {
			t.Error(diff)
		}
	}
	apply(pelton.Applied{Created: []string{"a", "c"}}, a, c)
	apply(pelton.Applied{Unchanged: []string{"a", "c"}}, a, c)
	if _, err := b.c.Pause(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	c.Overlap = pelton.OverlapSkip
	apply(pelton.Applied{Created: []string{"d"}, Changed: []string{"c"}, Unchanged: []string{"a"}}, d, c, a)
	if s := b.get("a"); !s.Paused || s.Owner != "app" {
		t.Errorf("a pause made by hand is gone: %+v", s)
	}
	if _, err := b.c.Resume(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	apply(pelton.Applied{Unchanged: []string{"a"}, Deleted: []string{"c", "d"}}, a)

	// Everything is checked before anything is written.
	for name, tt := range map[string]struct {
		owner string
		want  []pelton.Schedule
		is    error
	}{
		"another's":  {"other", []pelton.Schedule{d, a}, pelton.ErrConflict},
		"nobody's":   {"app", []pelton.Schedule{d, {Name: "by-hand", Every: time.Minute, Task: task}}, pelton.ErrConflict},
		"bad":        {"app", []pelton.Schedule{d, {Name: "e", Cron: "x", Task: task}}, pelton.ErrInvalid},
		"never":      {"app", []pelton.Schedule{d, {Name: "e", Cron: "0 0 31 2 *", Task: task}}, pelton.ErrInvalid},
		"twice":      {"app", []pelton.Schedule{d, d}, pelton.ErrInvalid},
		"no owner":   {"", nil, pelton.ErrInvalid},
		"bad owner":  {"\n", []pelton.Schedule{d}, pelton.ErrInvalid},
		"not a name": {"app", []pelton.Schedule{{Name: "A", Every: time.Hour, Task: task}}, pelton.ErrInvalid},
	} {
		if got, err := b.c.Apply(t.Context(), tt.owner, tt.want); !errors.Is(err, tt.is) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	_, err := b.c.Apply(t.Context(), "app", []pelton.Schedule{a, {Name: "e", Cron: "61 * * * *", Task: task}, {Name: "f", Every: time.Hour, Task: task, Overlap: "x"}})
	invalid, ok := errors.AsType[*pelton.ValidationError](err)
	if !ok || len(invalid.Fields) != 2 || invalid.Fields[0].Field != "schedules[1].cron" || invalid.Fields[1].Field != "schedules[2].overlap" {
		t.Errorf("%v does not say all that is wrong", err)
	}

	// A dry run says what would be, and Keep prunes nothing.
	how := pelton.ApplyOptions{DryRun: true}
	applyWith := func(want pelton.Applied, schedules ...pelton.Schedule) {
		t.Helper()
		got, err := b.c.ApplyWith(t.Context(), "app", schedules, how)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(&want, got, cmpopts.EquateEmpty()); diff != "" {
			t.Error(diff)
		}
	}
	applyWith(pelton.Applied{Created: []string{"c"}, Deleted: []string{"a"}}, c)
	other := a
	other.Every = time.Minute
	applyWith(pelton.Applied{Changed: []string{"a"}}, other)
	how.Keep = true
	applyWith(pelton.Applied{})
	how.DryRun = false
	applyWith(pelton.Applied{})
	applyWith(pelton.Applied{Unchanged: []string{"a"}}, a)

	page, err := b.c.List(t.Context(), pelton.ScheduleQuery{})
	if err != nil {
		t.Fatal(err)
	}
	if len(page.Items) != 2 || page.Items[0].Name != "a" || page.Items[1].Name != "by-hand" || page.NextCursor != "" {
		t.Errorf("%+v", page)
	}
}

func TestList(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for _, name := range []string{"c", "a", "d", "b"} {
		b.put(pelton.Schedule{Name: name, Every: time.Hour})
	}
	var got []string
	q := pelton.ScheduleQuery{Limit: 3}
	for pages := 1; ; pages++ {
		page, err := b.c.List(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range page.Items {
			got = append(got, s.Name)
		}
		if q.Cursor = page.NextCursor; q.Cursor == "" {
			if pages != 2 {
				t.Errorf("%d pages", pages)
			}
			break
		}
	}
	if diff := cmp.Diff([]string{"a", "b", "c", "d"}, got); diff != "" {
		t.Error(diff)
	}
	if page, err := b.c.List(t.Context(), pelton.ScheduleQuery{Owner: "nobody"}); err != nil || len(page.Items) != 0 {
		t.Errorf("%+v, %v", page, err)
	}
	_, err := b.c.List(t.Context(), pelton.ScheduleQuery{Limit: 501})
	b.wants(err, "limit", "not between")
}

func TestPreview(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	s := pelton.Schedule{Name: "s", Cron: "0 0 29 2 *", Task: pelton.Spec{Kind: "k"}, Paused: true}
	ticks, err := b.c.Preview(t.Context(), s, 3)
	if err != nil {
		t.Fatal(err)
	}
	if len(ticks) != 3 || ticks[2].Year()-ticks[0].Year() != 8 || ticks[1].Day() != 29 {
		t.Errorf("%v", ticks)
	}
	s.Cron = "0 0 31 2 *"
	_, err = b.c.Preview(t.Context(), s, 3)
	b.wants(err, "cron", "never fires")
}

// The overlap policies, decided while tasks of earlier ticks wait and run.
func TestOverlap(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	start := b.now().Add(time.Hour).Truncate(time.Second)
	// tick fires the nth tick of a schedule.
	tick := func(name string, n int) {
		t.Helper()
		v, err := b.c.load(t.Context(), name)
		if err == nil {
			err = b.c.step(t.Context(), v, start.Add(time.Duration(n)*time.Minute), false)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	// shown are the runs of a schedule, oldest first.
	shown := func(name string) (got []string) {
		last := b.get(name).Last
		for i := len(last) - 1; i >= 0; i-- {
			got = append(got, string(last[i].State)+string(last[i].Skipped))
		}
		return got
	}
	for policy, want := range map[pelton.Overlap][]string{
		pelton.OverlapAllow:  {"queued", "queued", "queued"},
		pelton.OverlapSkip:   {"queued", "overlap", "overlap"},
		pelton.OverlapQueue:  {"queued", "queued", "overlap"},
		pelton.OverlapCancel: {"cancelled", "cancelled", "queued"},
	} {
		name := string(policy)
		b.put(pelton.Schedule{Name: name, Every: time.Minute, StartsAt: start, Overlap: policy})
		for n := range 3 {
			tick(name, n)
		}
		if diff := cmp.Diff(want, shown(name)); diff != "" {
			t.Errorf("%s: %s", policy, diff)
		}
	}
	// Once the first is over, there is a place again.
	first := runs(b.get("skip"))[0]
	if _, err := b.tasks.Cancel(t.Context(), first.TaskID); err != nil {
		t.Fatal(err)
	}
	tick("skip", 3)
	if diff := cmp.Diff([]string{"cancelled", "overlap", "overlap", "queued"}, shown("skip")); diff != "" {
		t.Error(diff)
	}
}
