package broker

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/jetstream"
	"pgregory.net/rapid"

	"github.com/peltonq/pelton"
)

// A bucket covers what is listed in it, whenever that was, and the nearer the narrower.
func TestDueBuckets(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		now := time.Unix(rapid.Int64Range(0, 4e9).Draw(t, "now"), rapid.Int64Range(0, 999_999_999).Draw(t, "ns"))
		ahead := time.Duration(rapid.Int64Range(0, int64(1<<62)).Draw(t, "ahead") >> rapid.IntRange(0, 40).Draw(t, "shift"))
		due := now.Add(ahead)
		name := dueBucket(due, now)
		from, to, ok := dueBounds(name)
		if !ok || due.Before(from) || !due.Before(to) {
			t.Fatalf("due at %s is listed in %q, from %s to %s, %t", due, name, from, to, ok)
		}
		if width := to.Sub(from); width > 10*time.Second && width > ahead/2 && ahead > 10*time.Minute {
			t.Fatalf("%q is %s wide for what is %s ahead", name, width, ahead)
		}
	})
	for _, name := range []string{"", "a", "z5", "a-5", "ax", "probe", "a99999999999999999999"} {
		if _, _, ok := dueBounds(name); ok {
			t.Errorf("%q is a bucket", name)
		}
	}
}

func TestDueEntry(t *testing.T) {
	t.Parallel()
	want := dueEntry{time.Now().UnixNano(), pelton.NewID(time.Now(), 0), 7, pelton.Retrying, pelton.High, "email.send"}
	for _, more := range []string{"", " of a later version"} {
		got, err := decodeDue(append(want.encode(), more...))
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(dueEntry{})); diff != "" || err != nil {
			t.Errorf("%v %s", err, diff)
		}
	}
	for _, bad := range []string{"", "1", "x " + want.id.String() + " 0 scheduled high k", "1 x 0 scheduled high k", "1 " + want.id.String() + " -1 scheduled high k", strings.Repeat("é", 3000)} {
		if e, err := decodeDue([]byte(bad)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%.40q is %+v, %v", bad, e, err)
		}
	}
}

// dueIDs lists all, page by page.
func dueIDs(t *testing.T, b *Broker, f DueFilter, page int) (ids []pelton.ID) {
	t.Helper()
	var at DuePoint
	for range 1000 {
		n := 0
		next, err := b.EachDue(t.Context(), f, at, page, func(r *Record) bool {
			if n == page {
				return false
			}
			n++
			ids = append(ids, r.ID)
			return true
		})
		must(t, err)
		if next.At.IsZero() {
			return ids
		}
		at = next
	}
	t.Fatal("the list does not end")
	return nil
}

func delayedUntil(queue string, at time.Time) *Record {
	r := aRecord(queue, pelton.Low)
	r.State, r.RunAt = pelton.Scheduled, at.UTC()
	return r
}

func enqueueAll(t *testing.T, b *Broker, records []*Record) {
	t.Helper()
	for i, err := range b.EnqueueMany(t.Context(), records) {
		if err != nil {
			t.Fatalf("record %d: %v", i, err)
		}
	}
}

// inOrder are the ids of the records by due time, then by id.
func inOrder(records []*Record) (ids []pelton.ID) {
	sorted := slices.SortedFunc(slices.Values(records), func(a, b *Record) int {
		return compareDue(dueEntry{due: a.RunAt.UnixNano(), id: a.ID}, dueEntry{due: b.RunAt.UnixNano(), id: b.ID})
	})
	for _, r := range sorted {
		ids = append(ids, r.ID)
	}
	return ids
}

// The list has every task once, soonest first, whatever the size of a page, over
// seconds and centuries, and with more than is held in memory.
func TestEachDueIsInOrder(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	now := time.Now()
	ends := []time.Duration{time.Minute, 30 * time.Minute, 12 * time.Hour, 30 * 24 * time.Hour, 700 * 24 * time.Hour, 200 * 365 * 24 * time.Hour}
	records := make([]*Record, 300)
	for i := range records {
		ahead := 30*time.Second + time.Duration(rand.Int64N(int64(ends[i%len(ends)])))
		records[i] = delayedUntil([]string{"a", "b", "c"}[i%3], now.Add(ahead))
		if i%5 == 0 {
			records[i].RunAt = now.Add(time.Hour).UTC() // many at the same time
		}
	}
	enqueueAll(t, b, records[:250])
	for _, r := range records[250:] {
		must(t, b.Enqueue(t.Context(), r))
	}
	want := inOrder(records)
	for _, page := range []int{7, 500, 5000} {
		if diff := cmp.Diff(want, dueIDs(t, b, DueFilter{}, page)); diff != "" {
			t.Errorf("pages of %d (-want +got):\n%s", page, diff)
		}
	}
	b.due.mu.Lock()
	b.due.most, b.due.buckets = 15, nil
	b.due.mu.Unlock()
	if diff := cmp.Diff(want, dueIDs(t, b, DueFilter{}, 100)); diff != "" {
		t.Errorf("with little memory (-want +got):\n%s", diff)
	}
	held := 0
	for _, read := range b.due.buckets {
		held += len(read.entries)
	}
	if held > 15 {
		t.Errorf("%d entries are held, want at most 15", held)
	}
	later := delayedUntil("a", now.Add(time.Hour))
	must(t, b.Enqueue(t.Context(), later)) // into a bucket that was read
	if diff := cmp.Diff(inOrder(append(records, later)), dueIDs(t, b, DueFilter{}, 100)); diff != "" {
		t.Errorf("with a later task (-want +got):\n%s", diff)
	}
}

func TestEachDueFilters(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	at := time.Now().Add(time.Hour)
	one, kind, priority, retrying := delayedUntil("one", at), delayedUntil("two", at), delayedUntil("two", at), delayedUntil("two", at)
	kind.Kind, priority.Priority, retrying.State = "other", pelton.Critical, pelton.Retrying
	enqueueAll(t, b, []*Record{one, kind, priority, retrying, aRecord("two", pelton.Low)})
	for name, tt := range map[string]struct {
		f    DueFilter
		want []*Record
	}{
		"all":      {DueFilter{}, []*Record{one, kind, priority, retrying}},
		"queue":    {DueFilter{Queue: "one"}, []*Record{one}},
		"no queue": {DueFilter{Queue: "three"}, nil},
		"kind":     {DueFilter{Queue: "two", Kind: "other"}, []*Record{kind}},
		"priority": {DueFilter{Priority: pelton.Critical}, []*Record{priority}},
		"state":    {DueFilter{State: pelton.Retrying}, []*Record{retrying}},
		"both":     {DueFilter{State: pelton.Scheduled, Kind: "other"}, []*Record{kind}},
	} {
		if diff := cmp.Diff(inOrder(tt.want), dueIDs(t, b, tt.f, 10)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// What does not wait for its time any more is not listed, and what waits for another
// one is listed there.
func TestEachDueGoesByTheRecord(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	at := time.Now().Add(time.Hour)
	stays, cancelled, run, moved := delayedUntil("q", at), delayedUntil("q", at), delayedUntil("q", at), delayedUntil("q", at)
	all := []*Record{stays, cancelled, run, moved}
	enqueueAll(t, b, all)
	cancelled.State = pelton.Cancelled
	must(t, b.SaveRecord(t.Context(), cancelled))
	runNow(t, b, run.ID)
	moved.Epoch, moved.RunAt = 1, at.Add(-30*time.Minute).UTC()
	must(t, b.SaveRecord(t.Context(), moved))
	must(t, b.Publish(t.Context(), moved))
	must(t, b.Publish(t.Context(), stays)) // a second entry
	if diff := cmp.Diff([]pelton.ID{moved.ID, stays.ID}, dueIDs(t, b, DueFilter{}, 10)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// Entries go by themselves soon after their time; nothing is written for what is due
// at once or not delayed.
func TestDueEntriesExpire(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	enqueueAll(t, b, []*Record{aRecord("q", pelton.Low), delayedUntil("q", time.Now().Add(dueAtLeast/2))})
	must(t, b.Enqueue(t.Context(), aRecord("q", pelton.Low)))
	if got := streamState(t, b, b.dueIndex()).State.LastSeq; got != 0 {
		t.Errorf("%d entries for what does not wait", got)
	}
	must(t, b.Enqueue(t.Context(), delayedUntil("q", time.Now().Add(dueAtLeast+200*time.Millisecond))))
	if got := streamState(t, b, b.dueIndex()).State; got.LastSeq != 1 || got.Msgs != 1 {
		t.Errorf("index = %+v, want one entry", got)
	}
	reaches(t, "the entry to go", func() bool { return streamState(t, b, b.dueIndex()).State.Msgs == 0 })
}

// Without the index tasks are enqueued all the same, at once, and the sweep writes what
// is missing when the index is back.
func TestEnqueueWithoutTheDueIndex(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	must(t, b.Enqueue(t.Context(), delayedUntil("q", time.Now().Add(time.Hour))))
	must(t, b.js.DeleteStream(t.Context(), b.dueIndex()))
	alone, many := delayedUntil("q", time.Now().Add(2*time.Hour)), []*Record{delayedUntil("q", time.Now().Add(3*time.Hour)), delayedUntil("q", time.Now().Add(4*time.Hour))}
	key := delayedUntil("q", time.Now().Add(5*time.Hour))
	key.ConcurrencyKey = "acme"
	key.EnterLine()
	began := time.Now()
	must(t, b.Enqueue(t.Context(), alone))
	enqueueAll(t, b, many)
	must(t, b.Enqueue(t.Context(), key))
	if took := time.Since(began); took > 4*callTimeout/5 {
		t.Errorf("enqueuing waited %s for an index that is gone", took)
	}
	doubt, err := b.dueDoubt(t.Context())
	must(t, err)
	if doubt == 0 {
		t.Fatal("nobody was told that entries are missing")
	}
	_, err = b.openStream(t.Context(), b.streams(1)[len(b.streams(1))-1])
	must(t, err)
	if got := dueIDs(t, b, DueFilter{}, 10); len(got) != 0 {
		t.Errorf("an empty index lists %s", got)
	}
	s := aged(b)
	for range 10 { // in small steps: the doubt lasts to the end of the round
		_, err := s.Step(t.Context(), 2)
		must(t, err)
	}
	if got := dueIDs(t, b, DueFilter{}, 10); len(got) != 5 || !slices.Equal(got[1:], inOrder(append(many, alone, key))) {
		t.Errorf("listed after the sweep: %s", got)
	}
	if doubt, err = b.dueDoubt(t.Context()); err != nil || doubt != 0 {
		t.Errorf("doubt %d is left, %v", doubt, err)
	}
	before := streamState(t, b, b.dueIndex()).State.LastSeq
	sweep(t, s)
	must(t, b.doubtDue(t.Context())) // for nothing: all are there
	sweep(t, s)
	if got := streamState(t, b, b.dueIndex()).State.LastSeq; got != before {
		t.Errorf("the sweep wrote %d entries again", got-before)
	}
}

// Tasks of a version without the index are found once it is there.
func TestDueIndexIsMadeForWhatIsThere(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	if doubt, err := b.dueDoubt(t.Context()); err != nil || doubt != 0 {
		t.Errorf("a new installation doubts its index: %d, %v", doubt, err)
	}
	r := delayedUntil("q", time.Now().Add(time.Hour))
	must(t, b.Enqueue(t.Context(), r))
	must(t, b.Publish(t.Context(), r))
	if got := dueIDs(t, b, DueFilter{}, 10); len(got) != 1 {
		t.Fatalf("listed: %s", got)
	}
	must(t, b.js.DeleteStream(t.Context(), b.dueIndex()))
	again := openOn(t, b.conn.nc, Config{})
	sweep(t, aged(again))
	for _, b := range []*Broker{again, b} { // the second remembers the other index
		if diff := cmp.Diff([]pelton.ID{r.ID}, dueIDs(t, b, DueFilter{}, 10)); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
}

// A large bucket is read by a consumer, which leaves nothing behind.
func TestEachDueReadsLargeBuckets(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	at := time.Now().Add(time.Hour)
	records := make([]*Record, 2*forwardsBatch+100)
	for i := range records {
		records[i] = delayedUntil("q", at.Add(time.Duration(rand.Int64N(int64(time.Second)))))
	}
	for part := range slices.Chunk(records, 700) {
		enqueueAll(t, b, part)
	}
	if got := dueIDs(t, b, DueFilter{}, 500); !slices.Equal(got, inOrder(records)) {
		t.Errorf("%d tasks are listed, or not in order, want %d", len(got), len(records))
	}
	stream, err := b.js.Stream(t.Context(), b.dueIndex())
	must(t, err)
	if info, err := stream.Info(t.Context(), jetstream.WithSubjectFilter(">")); err != nil || info.State.Consumers != 0 || len(info.State.Subjects) > 2 {
		t.Errorf("the index has %d consumers and %d subjects, %v", info.State.Consumers, len(info.State.Subjects), err)
	}
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if _, err := b.EachDue(ctx, DueFilter{}, DuePoint{}, 10, func(*Record) bool { return true }); !errors.Is(err, pelton.ErrUnavailable) {
		t.Errorf("with a ctx that has ended: %v, want ErrUnavailable", err)
	}
}

// A schedule ten years ahead waits; the message of the due index, too.
func TestTenYearsAhead(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	far, last := delayedUntil("q", time.Now().AddDate(10, 0, 0)), delayedUntil("q", time.Date(pelton.MaxRunYear, 12, 31, 23, 59, 59, 999_999_999, time.UTC))
	far.Retention, last.Retention = time.Second, time.Second // counts from the end
	control := delayedUntil("q", time.Now().Add(3*time.Second))
	enqueueAll(t, b, []*Record{far, last, control})
	d := wait(t, deliveries(t, b, "q", pelton.Low, 1), "control") // longer than the retention
	must(t, d.Err)
	if d.Envelope.ID != control.ID || d.Published.Before(control.RunAt) {
		t.Errorf("fired %s at %s, want %s at %s", d.Envelope.ID, d.Published, control.ID, control.RunAt)
	}
	for _, r := range []*Record{far, last} {
		if _, subject := b.scheduleOf(r); gone(t, b, b.tasks(0), subject) || mustLoad(t, b, r.ID).State != pelton.Scheduled {
			t.Errorf("the task of %s is gone", r.RunAt)
		}
	}
	if diff := cmp.Diff([]pelton.ID{far.ID, last.ID}, dueIDs(t, b, DueFilter{}, 10)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	runNow(t, b, far.ID)
}

// The fact behind MaxRunYear: the broker's clock ends in 2262, and what is due after
// that fires at once.
func TestFactScheduleBeyondTheClockFiresAtOnce(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	must(t, b.EnsureScheduled(t.Context(), Lane{Queue: "q", Priority: pelton.Low}))
	r := aRecord("q", pelton.Low)
	must(t, b.PublishSchedule(t.Context(), r.Envelope(), time.Date(2300, 1, 1, 0, 0, 0, 0, time.UTC)))
	if d := wait(t, deliveries(t, b, "q", pelton.Low, 1), "task"); d.Envelope.ID != r.ID {
		t.Errorf("fired %s, want %s", d.Envelope.ID, r.ID)
	}
}
