package broker

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/brokertest"
)

// holdPages keeps pages with the outcomes of such tasks from being sent until release is called.
func holdPages(t testing.TB, b *Broker, records []*Record) (release func()) {
	ps := &b.pagers
	ps.mu.Lock()
	defer ps.mu.Unlock()
	ps.least = 1
	keys := map[pageKey]bool{}
	for _, r := range records {
		w, err := b.recordWrite(r)
		if err != nil {
			t.Fatal(err)
		}
		keys[pageKey{segmentOf(r.ID), w.ttl}] = true
	}
	for key := range keys {
		ps.flying[key] = nil
	}
	return func() {
		for key := range keys {
			b.pageWritten(b.groups.ctx, key, nil, 0, pelton.ErrUnavailable) // nobody's
		}
	}
}

// openPaging is a process that knows that it may write pages.
func openPaging(t *testing.T, nc *nats.Conn, cfg Config) *Broker {
	t.Helper()
	b := openOn(t, nc, cfg)
	awaitPages(t, b)
	return b
}

func awaitPages(t *testing.T, b *Broker) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !b.pages(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("no pages may be written")
		}
	}
}

// Where every write is synced, pages of several segments share a sync, and one of a sealed segment does not keep the others.
func TestPagesInAGroup(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	must(t, b.SaveHorizon(t.Context(), false, true))
	records := enqueuedPlain(t, b, 5*segmentSize)
	server := openPaging(t, b.conn.nc, Config{})
	if _, err := server.Cancel(t.Context(), records[3*segmentSize].ID); err != nil {
		t.Fatal(err)
	}
	var done []*Record
	for i, r := range records {
		if i != 3*segmentSize {
			done = append(done, successOf(r, "1"))
		}
	}
	for _, err := range succeedTogether(t, b, done) {
		must(t, err)
	}
	paged := 0
	for _, r := range done {
		got, err := server.LoadRecord(t.Context(), r.ID)
		if err != nil || got.State != pelton.Succeeded {
			t.Fatalf("%+v, %v", got, err)
		}
		if got.Paged {
			paged++
		}
	}
	if paged != 4*segmentSize {
		t.Errorf("%d of %d in pages", paged, len(done))
	}
}

// Pages are written when a server has said that it reads them: whoever makes an installation does, and one that
// is there already learns it from the first server of this version. One of an earlier version takes it back.
func TestPagesWaitForServers(t *testing.T) {
	t.Parallel()
	srv := brokertest.StartServer(t)
	b := openOn(t, brokertest.Connect(t, srv), Config{})
	if !b.pages() {
		t.Error("whoever makes an installation may not write pages")
	}
	earlier := write{subject: b.configKey(horizonKey), data: []byte(`{"server":"another","sequence":0}`), expect: anyRevision}
	_, err := b.do(t.Context(), earlier)
	must(t, err)
	worker := openOn(t, brokertest.Connect(t, srv), Config{})
	var done []*Record
	for _, r := range enqueuedPlain(t, worker, 3) {
		done = append(done, successOf(r, "1"))
	}
	for _, err := range succeedTogether(t, worker, done) {
		must(t, err)
	}
	for _, r := range done {
		if got, err := b.LoadRecord(t.Context(), r.ID); err != nil || got.Paged || got.State != pelton.Succeeded {
			t.Errorf("with a server of an earlier version: %+v, %v", got, err)
		}
	}
	for range 2 { // again is no change
		must(t, b.SavePages(t.Context()))
	}
	awaitPages(t, openOn(t, brokertest.Connect(t, srv), Config{}))
	_, err = b.do(t.Context(), earlier)
	must(t, err)
	must(t, b.SaveHorizon(t.Context(), true, false))
	awaitPages(t, openOn(t, brokertest.Connect(t, srv), Config{}))
}

// enqueuedPlain enqueues n plain tasks.
func enqueuedPlain(t *testing.T, b *Broker, n int, change ...func(int, *Record)) []*Record {
	t.Helper()
	records := make([]*Record, n)
	for i := range records {
		records[i] = aRecord("q", pelton.Normal)
		for _, c := range change {
			c(i, records[i])
		}
	}
	for _, err := range b.EnqueueMany(t.Context(), records) {
		must(t, err)
	}
	return records
}

// succeedTogether writes the successes of tasks in as few entries as can be, and what became of each.
func succeedTogether(t testing.TB, b *Broker, records []*Record) []error {
	t.Helper()
	release := holdPages(t, b, records)
	errs := make([]error, len(records))
	var writing sync.WaitGroup
	for i, r := range records {
		writing.Add(1)
		done := func(err error) { errs[i] = err; writing.Done() }
		if err := b.SaveRecordSoon(t.Context(), r, done); err != nil {
			done(err)
		}
	}
	release()
	writing.Wait()
	return errs
}

// entries is how often a shard's bucket was written to.
func entries(t *testing.T, b *Broker) uint64 {
	t.Helper()
	_, end, err := b.streamBounds(t.Context(), bucketStream(b.state(0)))
	must(t, err)
	return end - 1
}

// Successes that come together are one entry for each segment, and each is read as it would be alone.
func TestPage(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	var done []*Record
	for i, r := range enqueuedPlain(t, b, 2*segmentSize) { // sequences 1 to 128: three segments
		r.Labels = map[string]string{"i": fmt.Sprint(i)}
		done = append(done, successOf(r, strings.Repeat("r", i+1)))
	}
	before := entries(t, b)
	for i, err := range succeedTogether(t, b, done) {
		if err != nil {
			t.Errorf("task %d: %v", i, err)
		}
	}
	if n := entries(t, b) - before; n != 3 {
		t.Errorf("%d entries", n)
	}
	other := openOn(t, b.conn.nc, Config{})
	for i, r := range done {
		for name, read := range map[string]func() (*Record, error){
			"leader":   func() (*Record, error) { return other.LoadRecord(t.Context(), r.ID) },
			"any copy": func() (*Record, error) { return b.ReadRecord(t.Context(), r.ID) },
		} {
			got, err := read()
			if err != nil {
				t.Fatalf("task %d from %s: %v", i, name, err)
			}
			if diff := cmp.Diff(r, got); diff != "" || got.Revision == 0 || !got.Paged {
				t.Fatalf("task %d from %s (-want +got):\n%s", i, name, diff)
			}
		}
	}
}

// What comes when nothing else is under way is not kept waiting, and what comes meanwhile is written together.
func TestPagesAreWrittenWhenTheyCanBe(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	r := enqueuedPlain(t, b, 1)[0]
	done := make(chan error, 1)
	must(t, b.SaveRecordSoon(t.Context(), successOf(r, "1"), func(err error) { done <- err }))
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	for _, err := range succeedTogether(t, b, []*Record{successOf(enqueuedPlain(t, b, 1)[0], "2")}) {
		must(t, err)
	}
	if len(b.pagers.flying) != 0 {
		t.Errorf("left: %+v", b.pagers.flying)
	}
}

// A page has tasks of one segment and one retention. What is large, not over, or has a record goes alone.
func TestPagesHaveWhatBelongsTogether(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	records := enqueuedPlain(t, b, 10, func(i int, r *Record) {
		if i%2 == 0 {
			r.Retention = 2 * time.Hour
		}
	})
	var done []*Record
	for _, r := range records[:8] {
		done = append(done, successOf(r, "1"))
	}
	before := entries(t, b)
	for _, err := range succeedTogether(t, b, done) {
		must(t, err)
	}
	if n := entries(t, b) - before; n != 2 {
		t.Errorf("%d entries for two retentions", n)
	}
	large := successOf(records[8], strings.Repeat("x", mostPaged))
	cancelled := successOf(records[9], "")
	cancelled.State = pelton.Cancelled
	alone := []*Record{large, cancelled}
	for _, err := range succeedTogether(t, b, alone) {
		must(t, err)
	}
	for _, r := range alone {
		if got, err := b.LoadRecord(t.Context(), r.ID); err != nil || got.Paged || got.State != r.State {
			t.Errorf("%s with %d bytes: %+v, %v", r.State, len(r.Result), got, err)
		}
	}
}

// After somebody created a record in a segment there are no more pages, by whom ever; those who do not know it
// yet are refused a page, and write records.
func TestSealedSegment(t *testing.T) {
	t.Parallel()
	srv := brokertest.StartServer(t)
	worker, server := openOn(t, brokertest.Connect(t, srv), Config{}), openOn(t, brokertest.Connect(t, srv), Config{})
	records := enqueuedPlain(t, worker, 6)
	must(t, succeedTogether(t, worker, []*Record{successOf(records[0], "1")})[0])
	if _, err := server.Cancel(t.Context(), records[1].ID); err != nil {
		t.Fatal(err)
	}
	for i, err := range succeedTogether(t, worker, []*Record{successOf(records[0], "2"), successOf(records[1], "1"), successOf(records[2], "1")}) {
		if i < 2 && !errors.Is(err, ErrStale) || i == 2 && err != nil {
			t.Errorf("task %d: %v", i, err)
		}
	}
	if err := worker.SaveRecord(t.Context(), successOf(records[1], "1")); !errors.Is(err, ErrStale) {
		t.Errorf("success of a cancelled task: %v", err)
	}
	before := entries(t, worker)
	for _, err := range succeedTogether(t, worker, []*Record{successOf(records[3], "1"), successOf(records[4], "1")}) { // known by now
		must(t, err)
	}
	if n := entries(t, worker) - before; n != 2 {
		t.Errorf("%d entries for two tasks of a sealed segment", n)
	}
	want := []pelton.State{pelton.Succeeded, pelton.Cancelled, pelton.Succeeded, pelton.Succeeded, pelton.Succeeded, pelton.Queued}
	for i, r := range records {
		got, err := server.LoadRecord(t.Context(), r.ID)
		if err != nil || got.State != want[i] || got.Paged != (i == 0) {
			t.Errorf("task %d: %+v, %v", i, got, err)
		}
	}
}

// Who read a task before it succeeded does not change it after that.
func TestNoRecordOfWhatIsInAPage(t *testing.T) {
	t.Parallel()
	srv := brokertest.StartServer(t)
	worker, server := openOn(t, brokertest.Connect(t, srv), Config{}), openOn(t, brokertest.Connect(t, srv), Config{})
	r := enqueuedPlain(t, worker, 1)[0]
	seen, err := server.LoadRecord(t.Context(), r.ID)
	must(t, err)
	must(t, succeedTogether(t, worker, []*Record{successOf(r, "1")})[0])
	seen.State = pelton.Cancelled
	for range 2 { // with and without knowing the seal
		if err := server.SaveRecord(t.Context(), seen); !errors.Is(err, ErrStale) {
			t.Errorf("cancelled after it succeeded: %v", err)
		}
	}
	if _, err := server.Cancel(t.Context(), r.ID); !errors.Is(err, pelton.ErrConflict) {
		t.Errorf("cancel of what is in a page: %v", err)
	}
	server.seals.forget()
	if _, err := server.Cancel(t.Context(), r.ID); !errors.Is(err, pelton.ErrConflict) {
		t.Errorf("cancel of what is in a page, with nothing known: %v", err)
	}
}

// What was known of seals before the connection was lost is not known any more, nor what was being found out meanwhile.
func TestSealsAreForgotten(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	seg := segment{0, 5}
	lost := b.seals.losses()
	if !b.seals.learn(seg, &sealed{read: true}, lost) || b.seals.of(seg) == nil {
		t.Error("nothing was learned")
	}
	b.conn.changed(nats.RECONNECTING)
	if b.seals.of(seg) != nil || b.seals.learn(seg, &sealed{read: true}, lost) || b.seals.of(seg) != nil {
		t.Error("known after the connection was lost")
	}
}

// What is in a page is not written again by those to whom the seal alone is known.
func TestSealWithoutItsPages(t *testing.T) {
	t.Parallel()
	srv := brokertest.StartServer(t)
	one, two := openOn(t, brokertest.Connect(t, srv), Config{}), openPaging(t, brokertest.Connect(t, srv), Config{})
	records := enqueuedPlain(t, one, 2)
	must(t, succeedTogether(t, one, []*Record{successOf(records[0], "1")})[0])
	if _, err := one.Cancel(t.Context(), records[1].ID); err != nil {
		t.Fatal(err)
	}
	two.seals.learn(segmentOf(records[0].ID), &sealed{}, 0)
	if err := succeedTogether(t, two, []*Record{successOf(records[0], "2")})[0]; !errors.Is(err, ErrStale) {
		t.Errorf("a second success of what is in a page: %v", err)
	}
}

// Few successes are records, which are found by one key, and of which others know without a seal.
func TestFewAreRecords(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	records := enqueuedPlain(t, b, leastPaged+1)
	must(t, succeed(b, successOf(records[0], "1")))
	got, err := b.LoadRecord(t.Context(), records[0].ID)
	if err != nil || got.Paged || !got.Lone || string(got.Result) != "1" {
		t.Errorf("alone: %+v, %v", got, err)
	}
	if err := b.SaveRecordSoon(t.Context(), successOf(records[0], "2"), func(err error) {
		if !errors.Is(err, ErrStale) {
			t.Errorf("a second success: %v", err)
		}
	}); err != nil {
		t.Error(err)
	}
	requeued, err := b.Requeue(t.Context(), records[0].ID)
	if err != nil || requeued.Lone || requeued.Revision <= got.Revision {
		t.Errorf("requeued: %+v, %v", requeued, err)
	}
	for _, err := range succeedTogether(t, b, []*Record{successOf(records[0], "3"), successOf(records[1], "3"), successOf(records[2], "3"), successOf(records[3], "3")}) {
		must(t, err)
	}
	if got, err := b.LoadRecord(t.Context(), records[0].ID); err != nil || got.State != pelton.Queued {
		t.Errorf("requeued, and then in a page of somebody late: %+v, %v", got, err)
	}
}

// A success in a page and one as a record: the first counts, and whoever changes it has read both.
func TestFirstOfPageAndRecordCounts(t *testing.T) {
	t.Parallel()
	srv := brokertest.StartServer(t)
	pages, alone := openOn(t, brokertest.Connect(t, srv), Config{}), openPaging(t, brokertest.Connect(t, srv), Config{})
	records := enqueuedPlain(t, pages, 2)
	together := func(i int) { must(t, succeedTogether(t, pages, []*Record{successOf(records[i], "page")})[0]) }
	single := func(i int) { must(t, succeed(alone, successOf(records[i], "record"))) }
	together(0)
	single(0)
	single(1)
	together(1)
	for i, want := range []string{"page", "record"} {
		got, err := alone.LoadRecord(t.Context(), records[i].ID)
		if err != nil || string(got.Result) != want || got.Paged != (i == 0) || (got.Over > 0) != (i == 0) {
			t.Errorf("task %d: %+v, %v", i, got, err)
		}
		if requeued, err := alone.Requeue(t.Context(), records[i].ID); err != nil || requeued.Epoch != 1 {
			t.Errorf("task %d requeued: %+v, %v", i, requeued, err)
		}
		if got, err := pages.LoadRecord(t.Context(), records[i].ID); err != nil || got.State != pelton.Queued || got.Paged || got.Lone {
			t.Errorf("task %d after that: %+v, %v", i, got, err)
		}
	}
}

// Of two pages that have a task the first counts.
func TestFirstPageCounts(t *testing.T) {
	t.Parallel()
	srv := brokertest.StartServer(t)
	one, two := openOn(t, brokertest.Connect(t, srv), Config{}), openPaging(t, brokertest.Connect(t, srv), Config{})
	records := enqueuedPlain(t, one, 2)
	must(t, succeedTogether(t, one, []*Record{successOf(records[0], "1")})[0])
	for _, err := range succeedTogether(t, two, []*Record{successOf(records[0], "2"), successOf(records[1], "3")}) {
		must(t, err)
	}
	for i, want := range []string{"1", "3"} {
		if got, err := two.LoadRecord(t.Context(), records[i].ID); err != nil || string(got.Result) != want {
			t.Errorf("task %d: %+v, %v", i, got, err)
		}
	}
}
