package broker

import (
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/brokertest"
)

// A place behind the one that was reached is called without a look at its record.
// If the task has left the line, the message of the call gives its turn back, and
// passes all others that have left.
func TestCallOfATaskThatLeft(t *testing.T) {
	t.Parallel()
	b := openOn(t, brokertest.Start(t), Config{})
	records := inLineOf(t, b, "k", 5)
	lane := deliveries(t, b, "q", pelton.Low, 5)
	settled(t, b, "k")
	first := wait(t, lane, "first call")
	start(t, b, records[0], first.Seq)
	for _, r := range records[1:4] {
		r.State = pelton.Cancelled
		must(t, b.SaveRecord(t.Context(), r)) // whoever cancelled it died here
	}
	records[0].State = pelton.Succeeded
	must(t, b.SaveRecord(t.Context(), records[0]))
	must(t, b.LeaveLines(t.Context(), records[0], first.Seq))
	haveTurns(t, b, "k", records[1])

	void := wait(t, lane, "call of a cancelled task")
	if void.Err != nil || void.Envelope.ID != records[1].ID {
		t.Fatalf("called %+v, %v", void.Envelope, void.Err)
	}
	must(t, b.LeaveDropped(t.Context(), records[1], void.Envelope, void.Seq))
	haveTurns(t, b, "k", records[4])
	if last := wait(t, lane, "last call"); last.Err != nil || last.Envelope.ID != records[4].ID {
		t.Errorf("called %+v, %v", last.Envelope, last.Err)
	}
	shows(t, b, b.keyed(0), waitingConsumer("q"), 0)
}

// Whoever drops the message of a call before the turn is written makes that write
// fail: a turn without a message would block the line.
func TestDropBeforeTheTurn(t *testing.T) {
	t.Parallel()
	for _, why := range []string{"cancelled", "forgotten", "requeued"} {
		t.Run(why, func(t *testing.T) {
			t.Parallel()
			b := openOn(t, brokertest.Start(t), Config{})
			records := inLineOf(t, b, "k", 2)
			lane := deliveries(t, b, "q", pelton.Low, 5)
			settled(t, b, "k")
			wait(t, lane, "first call")
			line := Line{Key: "k"}
			// Another process sees room for two, and has not written yet.
			other, err := b.loadLine(t.Context(), line)
			must(t, err)
			place, err := b.get(t.Context(), b.keyed(0), getRequest{Seq: other.Reached + 1, NextFor: b.placesIn(0, line)}, false)
			must(t, err)
			what, head, err := b.placeOf(t.Context(), other, place, true)
			must(t, err)
			if what != placeWaits || head.ID != records[1].ID {
				t.Fatalf("the second place is %v of %s", what, head.ID)
			}
			must(t, (&calling{b: b, calls: []call{{head, place}}}).publish(t.Context()))
			early := wait(t, lane, "early call")

			r := records[1]
			switch why {
			case "cancelled":
				r.State = pelton.Cancelled
				must(t, b.SaveRecord(t.Context(), r))
			case "forgotten":
				r = nil
			case "requeued":
				r.State = pelton.Failed
				must(t, b.SaveRecord(t.Context(), r))
				r.restart(time.Now())
				must(t, b.SaveRecord(t.Context(), r))
			}
			must(t, b.LeaveDropped(t.Context(), r, early.Envelope, early.Seq))
			other.Granted = append(other.Granted, grant{ID: head.ID, Epoch: head.Epoch, At: time.Now()})
			if err := b.saveLine(t.Context(), other); !errors.Is(err, ErrStale) {
				t.Errorf("a turn that counts on a dropped message = %v, want ErrStale", err)
			}
			haveTurns(t, b, "k", records[0])
		})
	}
}

// A task is called a second time from another place of its own, right after its run
// gave its turn back. That run's acknowledgement is on its way: until it lands, nobody
// can tell the second call from a copy of the first, and its message must stay.
func TestDropBesideTheOwnMessage(t *testing.T) {
	t.Parallel()
	b := openOn(t, brokertest.Start(t), Config{})
	r := inLineOf(t, b, "k", 1)[0]
	must(t, b.publishPlace(t.Context(), r)) // a request that was repeated
	lane := deliveries(t, b, "q", pelton.Low, 5)
	settled(t, b, "k")
	run := wait(t, lane, "call")
	start(t, b, r, run.Seq)
	r.State = pelton.Succeeded
	must(t, b.SaveRecord(t.Context(), r))
	must(t, b.LeaveLines(t.Context(), r, run.Seq))
	second := wait(t, lane, "second call")
	if err := b.LeaveDropped(t.Context(), r, second.Envelope, second.Seq); !errors.Is(err, pelton.ErrUnavailable) {
		t.Errorf("dropped beside the message of the run = %v, want ErrUnavailable", err)
	}
	must(t, b.DeleteMessage(t.Context(), 0, run.Seq)) // the acknowledgement
	must(t, b.LeaveDropped(t.Context(), r, second.Envelope, second.Seq))
	haveTurns(t, b, "k")
}

// What a process remembers of a line may be old. It must not matter.
func TestTurnsSeenLongAgo(t *testing.T) {
	t.Parallel()
	srv := brokertest.StartServer(t)
	a, b := openOn(t, brokertest.Connect(t, srv), Config{}), openOn(t, brokertest.Connect(t, srv), Config{})
	records := inLineOf(t, a, "k", 3)
	lane := deliveries(t, a, "q", pelton.Low, 5)
	end := func(by *Broker, r *Record, seq uint64) {
		t.Helper()
		start(t, by, r, seq)
		r.State = pelton.Succeeded
		must(t, by.SaveRecord(t.Context(), r))
		must(t, by.LeaveLines(t.Context(), r, seq))
	}
	settled(t, b, "k") // b has seen the first task's turn
	if called, err := b.Called(t.Context(), records[0]); err != nil || !called {
		t.Fatalf("Called = %v, %v", called, err)
	}
	end(a, records[0], wait(t, lane, "first call").Seq)
	second := wait(t, lane, "second call")
	must(t, b.LeaveLines(t.Context(), records[0], 0)) // again, by what b has seen
	haveTurns(t, a, "k", records[1])
	end(a, records[1], second.Seq)
	haveTurns(t, a, "k", records[2])
	end(b, records[2], wait(t, lane, "third call").Seq)
	haveTurns(t, a, "k")
}

func TestEncodeLine(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 28, 8, 0, 0, 123456789, time.FixedZone("x", 3600))
	for _, doc := range []*lineDoc{
		{Line: Line{Key: "a \"quoted\" ä\n"}, Granted: []grant{{ID: pelton.NewID(at, 0), At: at}}},
		{Line: Line{Kind: "k"}, Reached: 7, Granted: []grant{{ID: pelton.NewID(at, 0), Epoch: 3, At: at.UTC()}, {ID: pelton.NewID(at, 0), At: at}}},
		{Line: Line{Key: "k"}, Reached: 7, Back: 9, Granted: []grant{{ID: pelton.NewID(at, 0), At: at}}},
		{Line: Line{Key: "k"}, Granted: []grant{{ID: pelton.NewID(at, 0), At: at, By: 8, Worker: "w"}, {ID: pelton.NewID(at, 0), At: at}}},
		{Line: Line{Key: "k"}, Granted: []grant{{ID: pelton.NewID(at, 0), At: at, By: 8, Worker: "w", Then: []pelton.ID{pelton.NewID(at, 0), pelton.NewID(at, 1)}}}},
	} {
		data, err := doc.encode()
		must(t, err)
		got, err := decodeLine(&stored{data: data})
		must(t, err)
		want := *doc
		want.Version = version
		if doc.Back > 0 || doc.Granted[0].By > 0 { // nothing for those who do not know of it
			want.Version = versionRelay
		}
		if diff := cmp.Diff(&want, got, cmp.AllowUnexported(lineDoc{}), cmpopts.EquateApproxTime(0)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", data, diff)
		}
	}
}

func TestPlainHead(t *testing.T) {
	t.Parallel()
	r := keyed("k")
	for name, change := range map[string]func(*Record){
		"new":                           func(*Record) {},
		"requeued":                      func(r *Record) { r.Epoch = 7 },
		"high":                          func(r *Record) { r.Priority = pelton.High },
		"no key, nothing else of note":  func(r *Record) { r.ConcurrencyKey = "" },
		"no key, put into a line later": func(r *Record) { r.ConcurrencyKey, r.Epoch = "", 3 },
	} {
		r := *r
		change(&r)
		data, err := encodeEnvelope(r.Envelope())
		must(t, err)
		got, ok := plainHead(data)
		want := placeHead{Version: version, ID: r.ID, Queue: r.Queue, Priority: r.Priority, Epoch: r.Epoch}
		if diff := cmp.Diff(want, got); diff != "" || !ok {
			t.Errorf("%s: read %v (-want +got):\n%s", name, ok, diff)
		}
	}
	data, err := encodeEnvelope(r.Envelope())
	must(t, err)
	for i := range len(data) { // all of it is needed, or it is left to the decoder
		if head, ok := plainHead(data[:i]); ok && head.ID != r.ID {
			t.Errorf("%q was read as %+v", data[:i], head)
		}
	}
	for _, text := range []string{``, `{`, `{"v":2,"id":"` + r.ID.String() + `"}`, `{"id":"x","v":1}`, `{"v":1,"id":"x","kind":"a","queue":"q","priority":"low","max_attempts":1}`} {
		if head, ok := plainHead([]byte(text)); ok {
			t.Errorf("%q was read as %+v", text, head)
		}
	}
}

// FuzzPlainAck: what the short way reads, the JSON decoder reads too.
func FuzzPlainAck(f *testing.F) {
	for _, text := range []string{
		`{"stream":"pelton_TASKS_0","seq":17}`, `{"stream":"S", "seq":17}`, `{"stream":"S","seq":17,"duplicate":true}`, `{"stream":"S","domain":"d","seq":1}`,
		`{"stream":"S","seq":0}`, `{"stream":"S","seq":99999999999999999999}`, `{"error":{"code":503},"stream":"S","seq":0}`, `{"stream":"a\"b","seq":1}`, `{"stream":"S","seq":1`,
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		seq, ok := plainAck(data)
		if !ok || !json.Valid(data) { // the server sends no other
			return
		}
		var ack struct {
			Seq   uint64          `json:"seq"`
			Error json.RawMessage `json:"error"`
		}
		if err := json.Unmarshal(data, &ack); err != nil || ack.Seq != seq || ack.Error != nil {
			t.Errorf("%q was read as %d, is %+v, %v", data, seq, ack, err)
		}
	})
}

// The documents that are remembered are bounded by the tasks that they name.
func TestSeenDocumentsAreBounded(t *testing.T) {
	t.Parallel()
	seen, err := newSeenDocs()
	must(t, err)
	doc := func(key string, turns, then int) *lineDoc {
		d := &lineDoc{Line: Line{Key: key}}
		for range turns {
			d.Granted = append(d.Granted, grant{Then: make([]pelton.ID, then)})
		}
		return d
	}
	first, often := doc("first", 1000, 0), doc("often", 1, 3)
	seen.keep(first)
	for n := range 100 {
		seen.keep(often)
		seen.keep(doc(string(rune('a'+n)), 1000, n%3))
		if seen.tasks > seenTasks {
			t.Fatalf("%d tasks are remembered", seen.tasks)
		}
	}
	if seen.of(first.Line) != nil || seen.of(often.Line) == nil {
		t.Error("what was used last is not what is remembered")
	}
	for _, line := range seen.docs.Keys() {
		seen.keep(&lineDoc{Line: line}) // nobody has a turn any more
	}
	if seen.tasks != 0 || seen.docs.Len() != 0 {
		t.Errorf("%d tasks of %d lines are left", seen.tasks, seen.docs.Len())
	}
}
