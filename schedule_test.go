package pelton_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/peltonq/pelton"
)

func aSchedule() pelton.Schedule {
	return pelton.Schedule{Name: "nightly", Cron: "0 3 * * *", Task: pelton.Spec{Kind: "report.build"}}
}

func TestScheduleDefaults(t *testing.T) {
	t.Parallel()
	s := aSchedule()
	s.Cron = "  0  3 * *\t* "
	got, err := s.Normalized(now)
	if err != nil {
		t.Fatal(err)
	}
	want := aSchedule()
	want.Zone, want.Overlap, want.CatchUp, want.CatchUpWindow = "UTC", pelton.OverlapAllow, pelton.CatchUpLast, time.Hour
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	again, err := got.Normalized(now)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(got, again); diff != "" {
		t.Errorf("a second time: %s", diff)
	}
}

func TestScheduleTimesAreRoundedInwards(t *testing.T) {
	t.Parallel()
	moment := time.Date(2030, 1, 2, 3, 4, 5, 6_000_001, time.FixedZone("", 3600))
	s := aSchedule()
	s.StartsAt, s.EndsAt = moment, moment.Add(time.Hour)
	got, err := s.Normalized(now)
	if err != nil {
		t.Fatal(err)
	}
	floor := time.Date(2030, 1, 2, 2, 4, 5, 6_000_000, time.UTC)
	if want := floor.Add(time.Millisecond); got.StartsAt != want {
		t.Errorf("starts_at %s, want %s", got.StartsAt, want)
	}
	if want := floor.Add(time.Hour); got.EndsAt != want {
		t.Errorf("ends_at %s, want %s", got.EndsAt, want)
	}
}

func TestScheduleRefuses(t *testing.T) {
	t.Parallel()
	only := func(s *pelton.Schedule) { s.Cron = "" }
	for name, tt := range map[string]struct {
		change func(*pelton.Schedule)
		field  string
		says   string
	}{
		"no name":          {func(s *pelton.Schedule) { s.Name = "" }, "name", "must match"},
		"name of subjects": {func(s *pelton.Schedule) { s.Name = "a.b" }, "name", "must match"},
		"no rule":          {only, "cron", "is required"},
		"two rules":        {func(s *pelton.Schedule) { s.Every = time.Minute }, "cron", "give one of the three"},
		"long cron":        {func(s *pelton.Schedule) { s.Cron = strings.Repeat("1,", 200) }, "cron", "more than 256"},
		"short interval":   {func(s *pelton.Schedule) { only(s); s.Every = 999 * time.Millisecond }, "every", "999ms is not between 1s and"},
		"negative":         {func(s *pelton.Schedule) { only(s); s.Every = -time.Minute }, "every", "is not between 1s"},
		"long interval":    {func(s *pelton.Schedule) { only(s); s.Every = 367 * 24 * time.Hour }, "every", "is not between"},
		"microseconds":     {func(s *pelton.Schedule) { only(s); s.Every = time.Second + time.Microsecond }, "every", "whole milliseconds"},
		"zone":             {func(s *pelton.Schedule) { s.Zone = "Europe/Atlantis" }, "zone", `"Europe/Atlantis" is not the name`},
		"zone of a server": {func(s *pelton.Schedule) { s.Zone = "Local" }, "zone", "is not the name"},
		"path as zone":     {func(s *pelton.Schedule) { s.Zone = "../../etc/passwd" }, "zone", "is not the name"},
		"zone of every":    {func(s *pelton.Schedule) { only(s); s.Every, s.Zone = time.Minute, "Europe/Berlin" }, "zone", "is for cron"},
		"year 10000":       {func(s *pelton.Schedule) { only(s); s.At = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC) }, "at", "year 9999"},
		"year 1969":        {func(s *pelton.Schedule) { only(s); s.At = time.Date(1969, 1, 1, 0, 0, 0, 0, time.UTC) }, "at", "before the year 1970"},
		"late start":       {func(s *pelton.Schedule) { s.StartsAt = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC) }, "starts_at", "year 9999"},
		"end before start": {func(s *pelton.Schedule) { s.StartsAt, s.EndsAt = now.Add(2*time.Second), now.Add(time.Second) }, "ends_at", "is before starts_at"},
		"at after the end": {func(s *pelton.Schedule) { only(s); s.At, s.EndsAt = now.Add(time.Hour), now }, "at", "would never fire"},
		"overlap":          {func(s *pelton.Schedule) { s.Overlap = "wait" }, "overlap", `"wait" is none of`},
		"catch-up":         {func(s *pelton.Schedule) { s.CatchUp = "some" }, "catch_up", `"some" is none of`},
		"window":           {func(s *pelton.Schedule) { s.CatchUpWindow = time.Millisecond }, "catch_up_window", "1ms is not between 1s"},
		"long window":      {func(s *pelton.Schedule) { s.CatchUpWindow = 32 * 24 * time.Hour }, "catch_up_window", "is not between"},
		"jitter":           {func(s *pelton.Schedule) { s.Jitter = -1 }, "jitter", "is not between"},
		"jitter of every":  {func(s *pelton.Schedule) { only(s); s.Every, s.Jitter = time.Minute, time.Minute }, "jitter", "not less than the interval"},
		"owner":            {func(s *pelton.Schedule) { s.Owner = "a\n" }, "owner", "control character"},
		"no kind":          {func(s *pelton.Schedule) { s.Task.Kind = "" }, "task.kind", "is required"},
		"bad task":         {func(s *pelton.Schedule) { s.Task.Queue = "Q" }, "task.queue", "must match"},
		"time of a task":   {func(s *pelton.Schedule) { s.Task.RunAt = now }, "task.run_at", "belongs to one task"},
		"expiry of a task": {func(s *pelton.Schedule) { s.Task.ExpiresAt = now.Add(-time.Hour) }, "task.expires_at", "belongs to one task"},
		"idempotency key":  {func(s *pelton.Schedule) { s.Task.IdempotencyKey = "x" }, "task.idempotency_key", "belongs to one task"},
		"two lines":        {func(s *pelton.Schedule) { s.Overlap, s.Task.ConcurrencyKey = pelton.OverlapQueue, "x" }, "task.concurrency_key", "excludes the overlap policy"},
	} {
		s := aSchedule()
		tt.change(&s)
		_, err := s.Normalized(now)
		invalid, ok := errors.AsType[*pelton.ValidationError](err)
		if !ok || !errors.Is(err, pelton.ErrInvalid) || len(invalid.Fields) != 1 {
			t.Errorf("%s: error %v, want one field", name, err)
			continue
		}
		if f := invalid.Fields[0]; f.Field != tt.field || !strings.Contains(f.Message, tt.says) {
			t.Errorf("%s: %s %q, want %s … %s …", name, f.Field, f.Message, tt.field, tt.says)
		}
	}
}

func TestScheduleNamesEveryField(t *testing.T) {
	t.Parallel()
	_, err := pelton.Schedule{Zone: "x", Overlap: "x", CatchUp: "x", CatchUpWindow: 1, Task: pelton.Spec{Queue: "Q"}}.Normalized(now)
	invalid, ok := errors.AsType[*pelton.ValidationError](err)
	if !ok {
		t.Fatal(err)
	}
	var fields []string
	for _, f := range invalid.Fields {
		fields = append(fields, f.Field)
	}
	want := []string{"name", "cron", "zone", "overlap", "catch_up", "catch_up_window", "task.kind", "task.queue"}
	if diff := cmp.Diff(want, fields); diff != "" {
		t.Error(diff)
	}
}

func TestScheduleJSON(t *testing.T) {
	t.Parallel()
	full := pelton.Schedule{
		Name: "nightly", Cron: "0 3 * * *", Every: 90 * time.Minute, At: now, Zone: "Europe/Berlin",
		Task: pelton.Spec{
			Kind: "report.build", Payload: json.RawMessage(`{ "a" : "<&>" }`), Queue: "reports", Priority: pelton.Low, Delay: time.Second,
			RunAt: now, ExpiresAt: now, Timeout: 90 * time.Second, MaxAttempts: 3, Backoff: pelton.Backoff{Initial: time.Second, Factor: 3},
			Retention: time.Hour, RateKey: "r", Labels: map[string]string{"a": "b"}, Unique: &pelton.Unique{Key: "k", Window: time.Minute},
			IdempotencyKey: "i", ConcurrencyKey: "c",
		},
		Overlap: pelton.OverlapQueue, CatchUp: pelton.CatchUpAll, CatchUpWindow: 2 * time.Hour, Jitter: time.Second, Paused: true,
		StartsAt: now, EndsAt: now.Add(time.Hour), Owner: "me", Revision: 7, CreatedAt: now, UpdatedAt: now,
		Next:    []time.Time{now},
		Last:    []pelton.ScheduleRun{{Tick: now, TaskID: pelton.NewID(now, 0), State: pelton.Running, Manual: true}, {Tick: now, Skipped: pelton.SkippedOverlap}},
		Failing: &pelton.ScheduleFailing{Reason: "why", At: now, Tick: now},
	}
	data, err := full.AppendJSON(nil)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(data), `"payload":{ "a" : "<&>" }`) || !strings.Contains(string(data), `"every":"1h30m"`) {
		t.Errorf("%s", data)
	}
	var got pelton.Schedule
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(full, got); diff != "" {
		t.Error(diff)
	}

	small, err := json.Marshal(aSchedule())
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"name":"nightly","cron":"0 3 * * *","jitter":"0s","paused":false,"task":{"kind":"report.build"}}`; string(small) != want {
		t.Errorf("%s, want %s", small, want)
	}
	for _, bad := range []string{`{"every":"soon"}`, `{"jitter":"-1s"}`, `{"task":{"timeout":"x"}}`, `{"task":[]}`} {
		if err := json.Unmarshal([]byte(bad), &got); err == nil {
			t.Errorf("%s was read", bad)
		}
	}
}

func TestTaskOfScheduleJSON(t *testing.T) {
	t.Parallel()
	task := pelton.Task{ID: pelton.NewID(now, 0), Kind: "k", Queue: "q", Priority: pelton.Low, State: pelton.Queued, Schedule: &pelton.TaskSchedule{Name: "nightly", Tick: now.Truncate(time.Millisecond)}}
	data, err := json.Marshal(task)
	if err != nil {
		t.Fatal(err)
	}
	if want := `"schedule":{"name":"nightly","tick":"2026-05-04T03:02:01.123Z"}`; !strings.Contains(string(data), want) {
		t.Errorf("%s, want %s", data, want)
	}
	var got pelton.Task
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(task, got); diff != "" {
		t.Error(diff)
	}
}

func TestTickID(t *testing.T) {
	t.Parallel()
	tick := time.Date(2026, 5, 4, 3, 0, 0, 0, time.UTC)
	id := pelton.TickID("nightly", "one", tick, 3)
	if again := pelton.TickID("nightly", "one", tick.In(time.FixedZone("", 7200)), 3); again != id {
		t.Errorf("%s and %s for one tick", id, again)
	}
	if parsed, err := pelton.ParseID(id.String()); err != nil || parsed != id || !id.Minted() || id.Shard() != 3 || !id.Time().Equal(tick) {
		t.Errorf("id %s: %v, minted %t, shard %d, time %s", id, err, id.Minted(), id.Shard(), id.Time())
	}
	seen := map[pelton.ID]string{id: "the tick"}
	for name, other := range map[string]pelton.ID{
		"other name":        pelton.TickID("nightl", "yone", tick, 3),
		"other incarnation": pelton.TickID("nightly", "two", tick, 3),
		"other tick":        pelton.TickID("nightly", "one", tick.Add(time.Second), 3),
	} {
		if was, found := seen[other]; found {
			t.Errorf("%s has the id of %s", name, was)
		}
		seen[other] = name
	}
}
