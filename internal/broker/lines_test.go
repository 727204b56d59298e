package broker

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/brokertest"
)

// keyed is a new task with a concurrency key.
func keyed(key string) *Record {
	r := aRecord("q", pelton.Low)
	r.ConcurrencyKey = key
	r.EnterLine()
	return r
}

// inLineOf enqueues n tasks of a key, and nobody calls them.
func inLineOf(t *testing.T, b *Broker, key string, n int) []*Record {
	t.Helper()
	records := make([]*Record, n)
	for i := range records {
		records[i] = keyed(key)
		must(t, b.Enqueue(t.Context(), records[i]))
	}
	return records
}

func settled(t *testing.T, b *Broker, key string) *lineDoc {
	t.Helper()
	doc, err := b.settleLine(t.Context(), Line{Key: key}, lineSettling{})
	must(t, err)
	return doc
}

func turns(doc *lineDoc) []pelton.ID {
	ids := []pelton.ID{}
	for _, g := range doc.Granted {
		ids = append(ids, g.ID)
	}
	return ids
}

func idsOf(records ...*Record) []pelton.ID {
	ids := []pelton.ID{}
	for _, r := range records {
		ids = append(ids, r.ID)
	}
	return ids
}

// haveTurns checks who has a turn, in order. A task's message may come a moment
// before its turn.
func haveTurns(t *testing.T, b *Broker, key string, want ...*Record) {
	t.Helper()
	for range 100 {
		if doc, err := b.loadLine(t.Context(), Line{Key: key}); err == nil && slices.Equal(turns(doc), idsOf(want...)) {
			return
		}
	}
	doc, err := b.loadLine(t.Context(), Line{Key: key})
	must(t, err)
	if diff := cmp.Diff(idsOf(want...), turns(doc)); diff != "" {
		t.Errorf("turns of %s (-want +got):\n%s", key, diff)
	}
}

// start is what a worker does with a delivery of a task that has its turn.
func start(t *testing.T, b *Broker, r *Record, carrier uint64) {
	t.Helper()
	r.State, r.Owner, r.Carrier, r.InLine = pelton.Running, "w", carrier, false
	must(t, b.SaveRecord(t.Context(), r))
}

func TestLineTokens(t *testing.T) {
	t.Parallel()
	seen := map[string]Line{}
	for _, line := range []Line{{Key: "a"}, {Kind: "a"}, {Key: "b"}, {Key: "a.b"}, {Key: "key\na"}, {Key: "*"}, {Key: ">"}, {Key: "ä ö"}} {
		token := line.token()
		if other, twice := seen[token]; twice || len(token) != 32 || strings.ContainsAny(token, ".*> ") {
			t.Errorf("token of %+v is %q, of %+v too", line, token, other)
		}
		seen[token] = line
	}
}

func TestPlacesOfARecord(t *testing.T) {
	t.Parallel()
	key, kind := Line{Key: "k"}, Line{Kind: "test.kind"}
	fresh, plain := keyed("k"), aRecord("q", pelton.Low)
	plain.EnterLine()
	started, over, second := keyed("k"), keyed("k"), keyed("k")
	started.InLine = false
	over.State = pelton.Cancelled
	second.QueueForKind(time.Now())
	requeued := keyed("k")
	requeued.State, requeued.Carrier = pelton.Failed, 9
	requeued.restart(time.Now())
	for name, tc := range map[string]struct {
		r     *Record
		line  Line
		epoch uint32
		want  bool
	}{
		"fresh":                    {fresh, key, 0, true},
		"another line":             {fresh, kind, 0, false},
		"another epoch":            {fresh, key, 1, false},
		"plain":                    {plain, key, 0, false},
		"started":                  {started, key, 0, false},
		"over":                     {over, key, 0, false},
		"in the second line":       {second, kind, 1, true},
		"has the first behind it":  {second, key, 0, false},
		"requeued":                 {requeued, key, 1, true},
		"from before the requeue":  {requeued, key, 0, false},
		"of a kind without a line": {plain, kind, 0, false},
	} {
		if got := tc.r.waitsAt(tc.line, tc.epoch); got != tc.want {
			t.Errorf("%s: waits = %t, want %t", name, got, tc.want)
		}
	}
	if requeued.Former != 9 || requeued.Carrier != 0 {
		t.Errorf("requeued record has former %d, carrier %d", requeued.Former, requeued.Carrier)
	}
	data, err := encodeRecord(second)
	must(t, err)
	again, err := decodeRecord(data, 1)
	must(t, err)
	if diff := cmp.Diff(second.Places, again.Places); diff != "" || !again.InLine || again.ConcurrencyKey != "k" {
		t.Errorf("record after a round trip: %+v", again)
	}
	second.Places = nil
	data, err = encodeRecord(second)
	must(t, err)
	if _, err := decodeRecord(data, 1); !errors.Is(err, ErrMalformed) {
		t.Errorf("a record in line without a place = %v, want ErrMalformed", err)
	}
}

// A line calls its tasks in the order in which they came, as many as the limit
// says, and what is not called stays in it.
func TestSettleCallsInOrder(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	setLimit(t, b, pelton.Limit{Name: "three", ConcurrencyKey: "three*", MaxRunning: 3})
	one, three := inLineOf(t, b, "one", 5), inLineOf(t, b, "three", 5)
	for range 2 { // settling again changes nothing
		settled(t, b, "one")
		settled(t, b, "three")
		haveTurns(t, b, "one", one[0])
		haveTurns(t, b, "three", three[:3]...)
	}
	got := []pelton.ID{}
	lane := deliveries(t, b, "q", pelton.Low, 4)
	for range 4 {
		d := wait(t, lane, "called task")
		must(t, d.Err)
		equalBytes(t, "payload, which is short", d.Envelope.Payload, one[0].Payload)
		got = append(got, d.Envelope.ID)
	}
	if diff := cmp.Diff(append(idsOf(one[0]), idsOf(three[:3]...)...), got); diff != "" {
		t.Errorf("called (-want +got):\n%s", diff)
	}
	shows(t, b, b.keyed(0), waitingConsumer("q"), 6)
	q, err := b.Queue(t.Context(), "q")
	must(t, err)
	if q.Waiting != 6 || q.Running != 4 || q.Ready != 0 {
		t.Errorf("queue is %+v, want 6 that wait and 4 that run", q)
	}
	all, err := b.Queues(t.Context())
	must(t, err)
	if len(all) != 1 || all[0].Waiting != 6 {
		t.Errorf("queues are %+v", all)
	}
	// One of each ends: its line calls the next.
	for _, r := range []*Record{one[0], three[1]} {
		r.State = pelton.Succeeded
		must(t, b.SaveRecord(t.Context(), r))
		must(t, b.LeaveLines(t.Context(), r, 0))
	}
	haveTurns(t, b, "one", one[1])
	haveTurns(t, b, "three", three[0], three[2], three[3])
	if got := streamState(t, b, b.tasks(0)).State.LastSeq; got != 6 {
		t.Errorf("%d messages for 6 calls", got)
	}
}

// The message of a call has what the record of a new task has, if that is short and
// usual: then nobody has to read it. A write that goes by it fails if the record has
// changed.
func TestUnstarted(t *testing.T) {
	t.Parallel()
	usual := func(change func(*Record)) *Record {
		r := keyed("k")
		change(r)
		return r
	}
	for name, tc := range map[string]struct {
		record *Record
		has    bool
	}{
		"usual":    {usual(func(*Record) {}), true},
		"empty":    {usual(func(r *Record) { r.Payload = nil }), true},
		"long":     {usual(func(r *Record) { r.Payload = bytes.Repeat([]byte{'1'}, smallInLine+1) }), false},
		"unique":   {usual(func(r *Record) { r.Unique = &pelton.Unique{Key: "u"} }), false},
		"kept":     {usual(func(r *Record) { r.KeepUntil = time.Now().UTC() }), false},
		"requeued": {usual(func(r *Record) { r.Epoch = 1; r.EnterLine() }), false},
		"delayed": {usual(func(r *Record) {
			r.State, r.RunAt = pelton.Scheduled, time.Now().Add(50*time.Millisecond).UTC()
		}), false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := openNew(t)
			must(t, b.Enqueue(t.Context(), tc.record))
			lane := deliveries(t, b, "q", pelton.Low, 1)
			reaches(t, "it is called", func() bool { return len(settled(t, b, "k").Granted) == 1 })
			d := wait(t, lane, "called task")
			must(t, d.Err)
			got := d.Unstarted()
			if !tc.has {
				if got != nil || len(d.Envelope.Payload) > 0 {
					t.Errorf("the message has a record %+v, and a payload of %d bytes", got, len(d.Envelope.Payload))
				}
				return
			}
			want, err := b.LoadRecord(t.Context(), tc.record.ID)
			must(t, err)
			if got == nil {
				t.Fatal("the message has no record")
			}
			if diff := cmp.Diff(want, got, cmpopts.EquateEmpty(), cmpopts.IgnoreFields(Record{}, "Version")); diff != "" {
				t.Errorf("the message's record is not the stored one (-stored +message's):\n%s", diff)
			}
			if strings.Contains(string(mustEncode(t, got)), "recorded") {
				t.Error("what is for places is in the record")
			}
			must(t, b.SaveRecord(t.Context(), want)) // something becomes of it
			if err := b.SaveRecord(t.Context(), got); !errors.Is(err, ErrStale) {
				t.Errorf("a write by what it was: %v", err)
			}
		})
	}
}

func mustEncode(t *testing.T, r *Record) []byte {
	t.Helper()
	data, err := encodeRecord(r)
	must(t, err)
	return data
}

// Settlers that compete, in one process and in several, never give more turns
// than the limit, and everybody gets one.
func TestSettlersCompete(t *testing.T) {
	t.Parallel()
	nc := brokertest.Start(t)
	brokers := []*Broker{openOn(t, nc, Config{}), openOn(t, nc, Config{}), openOn(t, nc, Config{})}
	for _, b := range brokers {
		setLimit(t, b, pelton.Limit{Name: "x", ConcurrencyKey: "x", MaxRunning: 4})
	}
	const n = 60
	records := inLineOf(t, brokers[0], "x", n)
	var working sync.WaitGroup
	ended := make(chan pelton.ID, n)
	for i := range 12 {
		b := brokers[i%len(brokers)]
		working.Go(func() {
			for range n {
				doc, err := b.settleLine(t.Context(), Line{Key: "x"}, lineSettling{})
				if err != nil {
					t.Error(err)
					return
				}
				if len(doc.Granted) > 4 {
					t.Errorf("%d turns, more than the limit of 4", len(doc.Granted))
				}
				if len(doc.Granted) == 0 {
					return
				}
				r, err := b.LoadRecord(t.Context(), doc.Granted[i%len(doc.Granted)].ID)
				if err != nil {
					t.Error(err)
					return
				}
				if !r.State.Terminal() {
					if r.State = pelton.Succeeded; b.SaveRecord(t.Context(), r) == nil {
						ended <- r.ID
					}
				}
				if err := b.LeaveLines(t.Context(), r, 0); err != nil {
					t.Error(err)
				}
			}
		})
	}
	working.Wait()
	close(ended)
	got := map[pelton.ID]bool{}
	for id := range ended {
		got[id] = true
	}
	for _, r := range records {
		if !got[r.ID] {
			t.Errorf("task %s never had its turn", r.ID)
		}
	}
	haveTurns(t, brokers[0], "x")
	reaches(t, "no place is left", func() bool {
		return gone(t, brokers[0], brokers[0].keyed(0), brokers[0].place(0, Line{Key: "x"}, "q"))
	})
}

// A message that was published before the turn was written down, because its
// settler died in between or is slow, gets its task the turn; one that comes out of
// turn is dropped, and whoever counted on it has to begin again.
func TestMessageBeforeItsTurn(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	records := inLineOf(t, b, "k", 3)
	called := func(r *Record) bool {
		t.Helper()
		ok, err := b.Called(t.Context(), r)
		must(t, err)
		return ok
	}
	for range 2 {
		if !called(records[0]) {
			t.Error("the first of the line was not called by its own message")
		}
	}
	haveTurns(t, b, "k", records[0])

	before, err := b.loadLine(t.Context(), Line{Key: "k"})
	must(t, err)
	if called(records[2]) {
		t.Error("the third of the line was called before its turn")
	}
	// A settler that saw room then, by another view of the limit, has lost.
	stale := *before
	stale.Granted = append(slices.Clone(before.Granted), grant{ID: records[1].ID, At: time.Now()})
	if err := b.saveLine(t.Context(), &stale); !errors.Is(err, ErrStale) {
		t.Errorf("a grant that counts on a dropped message = %v, want ErrStale", err)
	}
	haveTurns(t, b, "k", records[0])
	// Also where nobody has a turn yet.
	lone := keyed("lone")
	must(t, b.CreateRecord(t.Context(), lone)) // no place: somebody else's message
	if called(lone) {
		t.Error("a task without a place was called")
	}
	first := &lineDoc{Line: Line{Key: "lone"}, Granted: []grant{{ID: lone.ID}}}
	if err := b.saveLine(t.Context(), first); !errors.Is(err, ErrStale) {
		t.Errorf("a first grant that counts on a dropped message = %v, want ErrStale", err)
	}
}

// Places whose tasks do not wait there any more are passed over and deleted,
// however many.
func TestVoidPlaces(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	const n = voidsAtOnce + 44
	records := make([]*Record, n)
	for i := range records {
		records[i] = keyed("k")
	}
	for _, err := range b.EnqueueMany(t.Context(), records) {
		must(t, err)
	}
	must(t, b.publishPlace(t.Context(), records[0])) // a second place of the first
	junk := write{subject: b.place(0, Line{Key: "k"}, "q"), data: []byte("junk"), expect: anyRevision}
	_, err := b.do(t.Context(), junk)
	must(t, err)
	must(t, b.publishPlace(t.Context(), records[n-1]))
	settled(t, b, "k")
	for _, r := range records[1 : n-1] {
		r.State = pelton.Cancelled
		must(t, b.SaveRecord(t.Context(), r))
		must(t, b.LeaveLines(t.Context(), r, 0))
	}
	haveTurns(t, b, "k", records[0])
	lane := deliveries(t, b, "q", pelton.Low, 10)
	drop := func(r *Record) { // a worker finds that the task is over
		t.Helper()
		d := wait(t, lane, "call")
		if d.Err != nil || d.Envelope.ID != r.ID {
			t.Fatalf("called %+v, %v, want %s", d.Envelope, d.Err, r.ID)
		}
		must(t, b.LeaveDropped(t.Context(), r, d.Envelope, d.Seq))
	}
	records[0].State = pelton.Failed
	must(t, b.SaveRecord(t.Context(), records[0]))
	wait(t, lane, "first call")
	must(t, b.LeaveLines(t.Context(), records[0], 0))
	haveTurns(t, b, "k", records[1])
	drop(records[1]) // and all the others that are cancelled
	haveTurns(t, b, "k", records[n-1])
	records[n-1].State = pelton.Expired
	must(t, b.SaveRecord(t.Context(), records[n-1]))
	drop(records[n-1])
	haveTurns(t, b, "k")
	reaches(t, "no place is left", func() bool { return streamState(t, b, b.keyed(0)).State.Msgs == 0 })
	idle, err := b.Idle(t.Context())
	must(t, err)
	if idle { // the lane's messages are their workers' to acknowledge
		t.Error("idle with two messages in the lane")
	}
}
