package broker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/brokertest"
)

// inShardOf is a new task's record in a shard.
func inShardOf(shard uint8, queue string, p pelton.Priority) *Record {
	r := aRecord(queue, p)
	r.ID = pelton.NewID(r.CreatedAt, shard)
	return r
}

// openShards is an installation with so many shards.
func openShards(t *testing.T, n int) *Broker {
	t.Helper()
	b := openNew(t)
	grow(t, b, n)
	return b
}

func grow(t *testing.T, b *Broker, n int) {
	t.Helper()
	grown, err := b.GrowShards(t.Context(), n)
	must(t, err)
	if !grown || b.Shards() != n {
		t.Fatalf("grown %t, to %d shards, want %d", grown, b.Shards(), n)
	}
}

func TestShardsGrow(t *testing.T) {
	t.Parallel()
	nc := brokertest.Start(t)
	b, other := openOn(t, nc, Config{}), openOn(t, nc, Config{})
	if b.Shards() != 1 || b.Place(false) != 0 || b.Place(false) != 0 {
		t.Fatalf("%d shards at first", b.Shards())
	}
	must(t, b.EnsureLane(t.Context(), Lane{Queue: "q", Priority: pelton.Low}))
	heard, forget := other.Growth()
	defer forget()
	grow(t, b, 4)
	began := time.Now()
	wait(t, heard, "word of more shards")
	if took := time.Since(began); took > 2*time.Second || other.Shards() != 4 {
		t.Errorf("another process heard after %s of %d shards", took, other.Shards())
	}
	var places []uint8
	for range 8 {
		places = append(places, other.Place(false))
	}
	for i, place := range places[1:] { // whatever the first one is
		if place != (places[i]+1)%4 {
			t.Errorf("places %v, want one after the other", places)
		}
	}
	for range 3 {
		if other.Place(true) != 0 {
			t.Error("a bounded lane is not placed in the first shard")
		}
	}
	for shard := range uint8(4) {
		if info, err := b.consumer(t.Context(), b.tasks(shard), laneConsumer("q", pelton.Low)); err != nil || info == nil {
			t.Errorf("lane in shard %d: %v, %v", shard, info, err)
		}
	}
	if grown, err := b.GrowShards(t.Context(), 4); grown || err != nil {
		t.Errorf("as many as there are: %t, %v", grown, err)
	}
	if _, err := b.GrowShards(t.Context(), 2); !errors.Is(err, pelton.ErrConflict) {
		t.Errorf("fewer = %v, want ErrConflict", err)
	}
	for _, n := range []int{0, -1, MaxShards + 1} {
		if _, err := b.GrowShards(t.Context(), n); !errors.Is(err, pelton.ErrInvalid) {
			t.Errorf("%d shards = %v, want ErrInvalid", n, err)
		}
	}
	if late := openOn(t, nc, Config{}); late.Shards() != 4 {
		t.Errorf("a later process knows of %d shards", late.Shards())
	}
}

// TestGrowAtOnce grows from several processes to different numbers: the largest is reached, and who wanted
// fewer is told that there are more.
func TestGrowAtOnce(t *testing.T) {
	t.Parallel()
	nc := brokertest.Start(t)
	var growing sync.WaitGroup
	for _, n := range []int{5, 2, 3, 5} {
		b := openOn(t, nc, Config{})
		growing.Go(func() {
			if _, err := b.GrowShards(t.Context(), n); err != nil && (n == 5 || !errors.Is(err, pelton.ErrConflict)) {
				t.Errorf("grow to %d: %v", n, err)
			}
		})
	}
	growing.Wait()
	b := openOn(t, nc, Config{})
	if b.Shards() != 5 {
		t.Errorf("%d shards, want 5", b.Shards())
	}
	for shard := range uint8(5) {
		must(t, b.Enqueue(t.Context(), inShardOf(shard, "q", pelton.Low)))
	}
}

// TestGrowthInterrupted goes on from what one who died in the middle left: streams without the document, of
// which nobody knows.
func TestGrowthInterrupted(t *testing.T) {
	t.Parallel()
	nc := brokertest.Start(t)
	dead := openOn(t, nc, Config{})
	must(t, dead.EnsureLane(t.Context(), Lane{Queue: "q", Priority: pelton.Low}))
	_, err := dead.openStream(t.Context(), dead.tasksStream(1, 1)) // and no bucket
	must(t, err)
	b := openOn(t, nc, Config{})
	if b.Shards() != 1 {
		t.Fatalf("%d shards without the document", b.Shards())
	}
	must(t, b.EnsureLane(t.Context(), Lane{Queue: "new", Priority: pelton.High})) // used for the first time in between
	grow(t, b, 3)
	for shard := range uint8(3) {
		for _, lane := range []Lane{{"q", pelton.Low, shard}, {"new", pelton.High, shard}} {
			if _, err := b.SettleLane(t.Context(), lane, false); err != nil {
				t.Errorf("lane %s: %v", lane, err)
			}
		}
	}
	// What is lost of a shard that is in the document is made anew.
	must(t, b.js.DeleteStream(t.Context(), bucketStream(b.state(2))))
	must(t, openOn(t, nc, Config{}).Enqueue(t.Context(), delayed(2)))
}

func delayed(shard uint8) *Record {
	r := inShardOf(shard, "q", pelton.Low)
	r.State, r.RunAt = pelton.Scheduled, time.Now().Add(time.Hour).UTC()
	return r
}

// TestNoShardIsUnknown reads and cancels tasks of shards that the process has not heard of.
func TestNoShardIsUnknown(t *testing.T) {
	t.Parallel()
	nc := brokertest.Start(t)
	b := openOn(t, nc, Config{})
	grow(t, b, 3)
	plain, later := inShardOf(2, "q", pelton.Low), delayed(1)
	must(t, b.Enqueue(t.Context(), plain))
	must(t, b.Enqueue(t.Context(), later))
	for _, id := range []pelton.ID{plain.ID, later.ID} {
		other := openOn(t, nc, Config{})
		other.shards.n.Store(1) // as if it had not heard
		for name, read := range map[string]func(context.Context, pelton.ID) (*Record, error){"load": other.LoadRecord, "read": other.ReadRecord, "cancel": other.Cancel} {
			other.shards.n.Store(1)
			if r, err := read(t.Context(), id); err != nil || r.ID != id {
				t.Errorf("%s: %v, %v", name, r, err)
			}
		}
	}
	for _, id := range []pelton.ID{pelton.NewID(time.Now(), 3), pelton.NewID(time.Now(), 255), pelton.NewID(time.Now(), 7).At(12)} {
		if _, err := b.ReadRecord(t.Context(), id); !errors.Is(err, pelton.ErrNotFound) {
			t.Errorf("a shard that is not there = %v, want ErrNotFound", err)
		}
	}
}

// TestShardsAreOne counts, lists and purges tasks of all sorts over three shards.
func TestShardsAreOne(t *testing.T) {
	t.Parallel()
	b := openShards(t, 3)
	var ready, all []pelton.ID
	for i := range 12 {
		shard := uint8(i % 3)
		plain, later, keyed := inShardOf(shard, "q", pelton.Low), delayed(shard), inShardOf(shard, "q", pelton.Low)
		keyed.ConcurrencyKey = "k"
		keyed.EnterLine()
		for _, r := range []*Record{plain, later, keyed} {
			must(t, b.Enqueue(t.Context(), r))
			if r.ID.Shard() != shard {
				t.Fatalf("task %s is in shard %d, want %d", r.ID, r.ID.Shard(), shard)
			}
			all = append(all, r.ID)
		}
		ready = append(ready, plain.ID)
	}
	reaches(t, "all to be counted", func() bool {
		q, err := b.Queue(t.Context(), "q")
		must(t, err)
		list, err := b.Queues(t.Context())
		must(t, err)
		return q.Ready == 12 && q.Scheduled == 12 && q.Waiting == 12 && list[0].Ready == 12 && list[0].Scheduled == 12
	})
	if n, err := b.Ready(t.Context(), "q"); n != 24 || err != nil {
		t.Errorf("ready for max_depth: %d, %v", n, err)
	}
	for f, want := range map[ListFilter][]pelton.ID{{State: pelton.Queued, Part: InLanes}: ready, {}: all} {
		slices.Reverse(want)
		if f.State == "" {
			if got := listed(t, b, f); len(got) != len(want) {
				t.Errorf("all: %d listed, want %d", len(got), len(want))
			}
		} else if got := listed(t, b, f); !slices.Equal(got, want) {
			t.Errorf("%+v: listed %v, want %v", f, got, want)
		}
	}
	if idle, err := b.Idle(t.Context()); idle || err != nil {
		t.Errorf("idle %t, %v", idle, err)
	}
	must(t, b.Probe(t.Context()))
	purged := 0
	for cursor, more := "", true; more; more = cursor != "" {
		n, next, err := b.PurgeQueue(t.Context(), "q", "", cursor, -1)
		must(t, err)
		purged, cursor = purged+n, next
	}
	if purged != len(all) {
		t.Errorf("purged %d of %d", purged, len(all))
	}
	for _, id := range all {
		if r, err := b.LoadRecord(t.Context(), id); err != nil || r.State != pelton.Cancelled {
			t.Errorf("task %s after the purge: %v, %v", id, r, err)
		}
	}
	if idle, err := b.Idle(t.Context()); !idle || err != nil {
		t.Errorf("after the purge: idle %t, %v", idle, err)
	}
}

// listed lists in pages of two.
func listed(t *testing.T, b *Broker, f ListFilter) (ids []pelton.ID) {
	t.Helper()
	for cursor, more := "", true; more; more = cursor != "" {
		n := 0
		next, err := b.EachListed(t.Context(), f, cursor, func(r *Record) bool {
			if n++; n > 2 {
				return false
			}
			ids = append(ids, r.ID)
			return true
		})
		must(t, err)
		cursor = next
	}
	return ids
}

// TestListGoesOnAfterGrowth goes on with a cursor of before there were more shards.
func TestListGoesOnAfterGrowth(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	for range 4 {
		must(t, b.Enqueue(t.Context(), aRecord("q", pelton.Low)))
	}
	for _, f := range []ListFilter{{State: pelton.Queued}, {}} {
		seen := map[pelton.ID]bool{}
		visit := func(most int) func(r *Record) bool {
			return func(r *Record) bool {
				if most--; most < 0 {
					return false
				}
				if seen[r.ID] {
					t.Errorf("task %s is listed twice", r.ID)
				}
				seen[r.ID] = true
				return true
			}
		}
		cursor, err := b.EachListed(t.Context(), f, "", visit(2))
		must(t, err)
		before := b.Shards()
		grow(t, b, before+1)
		late := inShardOf(uint8(before), "q", pelton.Low)
		must(t, b.Enqueue(t.Context(), late))
		if cursor, err = b.EachListed(t.Context(), f, cursor, visit(100)); cursor != "" || err != nil {
			t.Errorf("%+v: then %q, %v", f, cursor, err)
		}
		if want := 4 + before; len(seen) != want || !seen[late.ID] {
			t.Errorf("%+v: %d listed, want %d with the late one", f, len(seen), want)
		}
	}
}

// TestListsOfOthersGoOn goes on with a cursor of a process that knows of more shards.
func TestListsOfOthersGoOn(t *testing.T) {
	t.Parallel()
	b := openShards(t, 3)
	other := openOn(t, b.conn.nc, Config{})
	for shard := range uint8(3) {
		must(t, b.Enqueue(t.Context(), inShardOf(shard, "q", pelton.Low)))
	}
	other.shards.n.Store(1) // as if it had not heard
	n := 0
	cursor, err := b.EachListed(t.Context(), ListFilter{}, "", func(*Record) bool { n++; return n < 3 })
	must(t, err)
	next, err := other.EachListed(t.Context(), ListFilter{}, cursor, func(*Record) bool { n++; return true })
	if next != "" || err != nil || n != 4 { // the third was seen, and not passed
		t.Errorf("went on to %q, %v, %d visits", next, err, n)
	}
	var invalid *pelton.ValidationError
	if _, err := b.EachListed(t.Context(), ListFilter{}, "a1.1.1.1.1.1.1", func(*Record) bool { return true }); !errors.As(err, &invalid) {
		t.Errorf("a cursor of shards that are not there = %v", err)
	}
}

// TestHorizonIsNotUndone: what a look had read before the horizon was saved is not kept after it.
func TestHorizonIsNotUndone(t *testing.T) {
	t.Parallel()
	b := openShards(t, 2)
	must(t, b.SaveHorizon(t.Context(), false, true))
	for _, stale := range []horizon{{Server: b.conn.nc.ConnectedServerId()}, {Server: "of before", revision: 1}} {
		b.keepHorizon(&stale)
		if h := b.horizon.Load(); !h.Always {
			t.Errorf("%+v is kept instead of the one that was saved", h)
		}
	}
	later := horizon{Server: b.conn.nc.ConnectedServerId(), revision: 1 << 40}
	b.keepHorizon(&later)
	if h := b.horizon.Load(); h != &later {
		t.Errorf("%+v is kept after a later one", h)
	}
}

// TestGroupsByShard gathers the writes to each stream by themselves, where the broker syncs every write.
func TestGroupsByShard(t *testing.T) {
	t.Parallel()
	b := openShards(t, 2)
	must(t, b.SaveHorizon(t.Context(), false, true))
	if b.lookForHorizon(t.Context()) != horizonRight {
		t.Fatal("the horizon is of another broker")
	}
	seen := map[*group]string{}
	for shard := range uint8(2) {
		r := inShardOf(shard, "q", pelton.Low)
		for _, subject := range []string{b.ready(shard, "q", pelton.Low), b.record(r.ID)} {
			g := b.groups.of(b, &write{subject: subject})
			if g == nil || g != b.groups.of(b, &write{subject: subject}) || seen[g] != "" {
				t.Errorf("%s is gathered with %q", subject, seen[g])
			}
			seen[g] = subject
		}
	}
	for _, subject := range []string{b.scheduled(1, "q", pelton.Low, pelton.NewID(time.Now(), 1), 0), b.taskProbe(1), b.ns + ".t.64.r.q.low", b.ns + ".t.x.r.q.low", b.deadIn("q")} {
		if g := b.groups.of(b, &write{subject: subject}); g != nil {
			t.Errorf("%s is gathered", subject)
		}
	}
	var records []*Record
	for i := range 200 {
		records = append(records, inShardOf(uint8(i%2), "q", pelton.Low))
	}
	for i, err := range b.EnqueueMany(t.Context(), records) {
		if got, readErr := b.LoadRecord(t.Context(), records[i].ID); err != nil || readErr != nil || got.ID.Shard() != uint8(i%2) {
			t.Fatalf("record %d: %v, %v, %v", i, err, got, readErr)
		}
	}
}

// TestFreshByShard holds deliveries of each shard against that shard's horizon.
func TestFreshByShard(t *testing.T) {
	t.Parallel()
	b := openShards(t, 2)
	for range 3 {
		must(t, b.Enqueue(t.Context(), inShardOf(1, "q", pelton.Low)))
	}
	must(t, b.Enqueue(t.Context(), inShardOf(0, "q", pelton.Low)))
	must(t, b.SaveHorizon(t.Context(), true, false))
	must(t, b.Enqueue(t.Context(), inShardOf(0, "q", pelton.Low)))
	must(t, b.Enqueue(t.Context(), inShardOf(1, "q", pelton.Low)))
	grow(t, b, 3)
	must(t, b.EnsureLane(t.Context(), Lane{"q", pelton.Low, 2}))
	must(t, b.Enqueue(t.Context(), inShardOf(2, "q", pelton.Low)))
	if b.lookForHorizon(t.Context()) != horizonRight {
		t.Fatal("the horizon is of another broker")
	}
	for shard, want := range map[uint8][]bool{0: {false, true}, 1: {false, false, false, true}, 2: {true}} {
		came := make(chan *Delivery, 10)
		p, err := b.OpenPuller(Lane{"q", pelton.Low, shard}, func(d *Delivery) { came <- d }, func(PullEnd) {})
		must(t, err)
		must(t, p.Pull(10, 0))
		for i, fresh := range want {
			if d := wait(t, came, fmt.Sprintf("delivery of shard %d", shard)); d.Fresh != fresh || d.Lane.Shard != shard {
				t.Errorf("delivery %d of shard %d: fresh %t, in shard %d", i, shard, d.Fresh, d.Lane.Shard)
			}
		}
		p.Close(t.Context())
	}
}

// TestSweepGoesRoundShards repairs a task without a message in each shard, and a schedule that is overdue.
func TestSweepGoesRoundShards(t *testing.T) {
	t.Parallel()
	b := openShards(t, 3)
	for shard := range uint8(3) {
		r := delayed(shard)
		must(t, b.ensure(t.Context(), r))
		must(t, b.CreateRecord(t.Context(), r)) // and no schedule
	}
	s := b.NewSweeper()
	s.now = func() time.Time { return time.Now().Add(time.Minute) }
	orphans := 0
	for range 6 {
		swept, err := s.Step(t.Context(), 100)
		must(t, err)
		orphans += swept.Orphans
	}
	if orphans != 3 {
		t.Errorf("%d repaired, want 3", orphans)
	}
	for shard := range uint8(3) {
		shows(t, b, b.tasks(shard), scheduledConsumer("q"), 1)
	}
}

// TestElectionsOfShards hears of elections in shards that came later.
func TestElectionsOfShards(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	moved := make(chan Lane, 10)
	stop, err := b.Elections(func(l Lane) { moved <- l })
	must(t, err)
	defer stop()
	grow(t, b, 2)
	want := Lane{"q", pelton.Low, 1}
	reaches(t, "word of an election", func() bool {
		must(t, b.conn.nc.PublishMsg(&nats.Msg{Subject: elections + b.tasks(1) + "." + laneConsumer("q", pelton.Low)}))
		select {
		case got := <-moved:
			if got != want {
				t.Errorf("moved %v, want %v", got, want)
			}
			return true
		case <-time.After(20 * time.Millisecond):
			return false
		}
	})
}
