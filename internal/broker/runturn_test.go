package broker

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/brokertest"
)

// few is a broker that knows of a limit of kind "test.kind".
func few(t *testing.T, b *Broker, n int) *Broker {
	t.Helper()
	must(t, b.LoadLimits(t.Context()))
	b.limits.set([]pelton.Limit{{Name: "k", Kind: "test.kind", MaxRunning: n}})
	return b
}

// located are plain tasks of kind "test.kind", each with the message that is its place.
func located(t *testing.T, b *Broker, n int) []*Record {
	t.Helper()
	must(t, b.EnsureLane(t.Context(), Lane{Queue: "q", Priority: pelton.Low}))
	records := make([]*Record, n)
	for i := range records {
		records[i] = aRecord("q", pelton.Low)
		must(t, b.Enqueue(t.Context(), records[i]))
	}
	return records
}

func turnOf(r *Record, worker string) RunTurn { return r.RunTurn(r.ID.Sequence(), worker) }

// asks asks for a turn and reports whether there is one at once.
func asks(t *testing.T, b *Broker, turn RunTurn) (taken bool, other string) {
	t.Helper()
	stop := make(chan struct{})
	close(stop)
	taken, other, err := b.AskTurn(t.Context(), turn).Await(t.Context(), time.Minute, stop)
	must(t, err)
	return taken, other
}

func takes(t *testing.T, b *Broker, turn RunTurn, want bool) {
	t.Helper()
	if taken, other := asks(t, b, turn); taken != want || other != "" {
		t.Errorf("task %s has its turn: %v, by %q; want %v", turn.id, taken, other, want)
	}
}

func haveKindTurns(t *testing.T, b *Broker, want ...*Record) {
	t.Helper()
	doc, err := b.loadLine(t.Context(), Line{Kind: "test.kind"})
	must(t, err)
	if diff := cmp.Diff(idsOf(want...), turns(doc)); diff != "" {
		t.Errorf("turns (-want +got):\n%s", diff)
	}
}

func TestRunTurns(t *testing.T) {
	t.Parallel()
	b := few(t, openNew(t), 2)
	r := located(t, b, 4)
	takes(t, b, turnOf(r[0], "w"), true)
	takes(t, b, turnOf(r[1], "w"), true)
	takes(t, b, turnOf(r[2], "w"), false)
	takes(t, b, turnOf(r[1], "w"), true) // it has it already
	haveKindTurns(t, b, r[0], r[1])

	// Another worker that gets the message finds who has the turn, and may take it over from that one.
	if taken, other := asks(t, b, turnOf(r[0], "v")); taken || other != "w" {
		t.Errorf("turn of another worker: %v, %q", taken, other)
	}
	if taken, other := asks(t, b, turnOf(r[0], "v").From("u")); taken || other != "w" {
		t.Errorf("turn of another worker, taken from a third: %v, %q", taken, other)
	}
	takes(t, b, turnOf(r[0], "v").From("w"), true)
	if holder, err := b.TurnHolder(t.Context(), turnOf(r[0], "")); err != nil || holder != "v" {
		t.Errorf("holder of the turn = %q, %v", holder, err)
	}

	// Who waits gets what is given back; nobody else's turn is given back by another message, or that of another task.
	waits := b.AskTurn(t.Context(), turnOf(r[2], "w"))
	<-waits.first
	must(t, b.GiveTurnNow(t.Context(), r[0].RunTurn(r[0].ID.Sequence()+100, "w")))
	must(t, b.GiveTurnNow(t.Context(), r[3].RunTurn(r[0].ID.Sequence(), "w")))
	haveKindTurns(t, b, r[0], r[1])
	must(t, b.GiveTurnNow(t.Context(), turnOf(r[0], "v")))
	if taken, _, err := waits.Await(t.Context(), time.Minute, nil); !taken || err != nil {
		t.Errorf("who waited has its turn: %v, %v", taken, err)
	}
	haveKindTurns(t, b, r[1], r[2])
	for range 2 { // it may be repeated
		must(t, b.GiveTurnNow(t.Context(), turnOf(r[1], "w")))
		must(t, b.GiveTurnNow(t.Context(), turnOf(r[2], "w")))
	}
	haveKindTurns(t, b)
	if holder, err := b.TurnHolder(t.Context(), turnOf(r[1], "")); err != nil || holder != "" {
		t.Errorf("holder of a turn that was given back = %q, %v", holder, err)
	}
}

// Of free room, who is in line gets at least half, and all of it where the limit is one.
func TestRunsBesideALine(t *testing.T) {
	t.Parallel()
	for limit, want := range map[int][2]int{1: {1, 0}, 4: {2, 2}} { // in line, runs
		t.Run(fmt.Sprint(limit), func(t *testing.T) {
			t.Parallel()
			b := few(t, openNew(t), limit)
			r := located(t, b, 16)
			var blocks []RunTurn
			for _, first := range r[:limit] {
				blocks = append(blocks, turnOf(first, "w"))
				takes(t, b, blocks[len(blocks)-1], true)
			}
			must(t, b.EnsurePlaces(t.Context(), "q"))
			for _, lined := range r[limit : limit+5] {
				lined.QueueForKind(time.Now())
				must(t, b.SaveRecord(t.Context(), lined))
				must(t, b.Publish(t.Context(), lined))
			}
			asking := make([]*TurnRequest, 0, 5)
			for _, run := range r[limit+5 : limit+10] {
				q := b.AskTurn(t.Context(), turnOf(run, "w"))
				<-q.first
				asking = append(asking, q)
			}
			s := lineSettling{seen: true, asking: &askers{}}
			for _, q := range asking {
				s.asking.turns = append(s.asking.turns, &q.turn)
			}
			for _, turn := range blocks {
				s.leavers = append(s.leavers, &leaver{id: turn.id, by: turn.by})
			}
			doc, err := b.settleLine(t.Context(), Line{Kind: "test.kind"}, s)
			must(t, err)
			var got [2]int
			for _, g := range doc.Granted {
				if g.By > 0 {
					got[1]++
				} else {
					got[0]++
				}
			}
			if got != want {
				t.Errorf("in line, and runs: %v have turns, want %v", got, want)
			}
		})
	}
}

// Where those who were called have all turns, a run gets none.
func TestRunsBesideAFullLine(t *testing.T) {
	t.Parallel()
	const limit = 4
	b := few(t, openNew(t), limit)
	r := located(t, b, limit+1)
	must(t, b.EnsurePlaces(t.Context(), "q"))
	for _, lined := range r[:limit] {
		lined.QueueForKind(time.Now())
		must(t, b.SaveRecord(t.Context(), lined))
		must(t, b.Publish(t.Context(), lined))
	}
	_, err := b.settleLine(t.Context(), Line{Kind: "test.kind"}, lineSettling{})
	must(t, err)
	haveKindTurns(t, b, r[:limit]...)
	takes(t, b, turnOf(r[limit], "w"), false)
	haveKindTurns(t, b, r[:limit]...)
}

// Where others have turns, the runs of a process take half of the room, so that others find some.
func TestRunsLeaveRoomForOthers(t *testing.T) {
	t.Parallel()
	b := few(t, openNew(t), 8)
	r := located(t, b, 9)
	takes(t, b, turnOf(r[0], "v"), true)
	s := lineSettling{seen: true, asking: &askers{seats: make([]seat, 8)}}
	for _, run := range r[1:] {
		turn := turnOf(run, "w")
		s.asking.turns = append(s.asking.turns, &turn)
	}
	doc, err := b.settleLine(t.Context(), Line{Kind: "test.kind"}, s)
	must(t, err)
	if len(doc.Granted) != 1+4 {
		t.Errorf("%d have turns, want the one of before and half of seven more", len(doc.Granted))
	}
	taken := 0
	for _, seat := range s.asking.seats {
		if seat.taken {
			taken++
		}
	}
	if taken != 4 {
		t.Errorf("%d were told so", taken)
	}
}

// What a process remembers of a line may be old: nobody is told by it that he has a turn.
func TestRunTurnOfOldMemory(t *testing.T) {
	t.Parallel()
	nc := brokertest.Start(t)
	b, other := few(t, openOn(t, nc, Config{}), 2), few(t, openOn(t, nc, Config{}), 2)
	r := located(t, b, 2)
	takes(t, b, turnOf(r[0], "w"), true)
	must(t, other.GiveTurnNow(t.Context(), turnOf(r[0], "w")))
	takes(t, other, turnOf(r[1], "v"), true)
	takes(t, b, turnOf(r[0], "w"), true)
	haveKindTurns(t, b, r[1], r[0])
}

// Three processes whose runs come and go never have more turns than the limit, and all get one. Some give up and come again,
// and a document that is written between is no reason to take one twice.
func TestRunTurnsOfProcesses(t *testing.T) {
	t.Parallel()
	nc := brokertest.Start(t)
	const limit, processes, runs = 5, 3, 60
	first := few(t, openOn(t, nc, Config{}), limit)
	records := located(t, first, processes*runs)
	var has, most atomic.Int64
	var working sync.WaitGroup
	for p := range processes {
		b := first
		if p > 0 {
			b = few(t, openOn(t, nc, Config{}), limit)
		}
		for i := range runs {
			working.Go(func() {
				r, worker := records[p*runs+i], fmt.Sprint("w", p)
				for taken := false; !taken; {
					var err error
					var other string
					if taken, other, err = b.AskTurn(t.Context(), turnOf(r, worker)).Await(t.Context(), time.Minute, nil); err != nil || other != "" {
						t.Errorf("ask: %v, %q", err, other)
						return
					}
				}
				now := has.Add(1)
				for seen := most.Load(); now > seen && !most.CompareAndSwap(seen, now); seen = most.Load() {
				}
				time.Sleep(time.Duration(i%4) * time.Millisecond)
				has.Add(-1)
				if err := b.GiveTurnNow(t.Context(), turnOf(r, worker)); err != nil {
					t.Error(err)
				}
			})
		}
	}
	working.Wait()
	if most := most.Load(); most < 2 || most > limit {
		t.Errorf("at most %d had a turn at a time, want 2 to %d", most, limit)
	}
	haveKindTurns(t, first)
}

// A broker that is out of reach is an error, not a turn.
func TestRunTurnWithoutBroker(t *testing.T) {
	t.Parallel()
	b := few(t, openNew(t), 1)
	r := located(t, b, 1)
	b.conn.nc.Close()
	if taken, _, err := b.AskTurn(t.Context(), turnOf(r[0], "w")).Await(t.Context(), time.Minute, nil); taken || err == nil {
		t.Errorf("turn without a broker: %v, %v", taken, err)
	}
	if err := b.GiveTurnNow(t.Context(), turnOf(r[0], "w")); err == nil {
		t.Error("a turn is given back without a broker")
	}
	if d := b.deskOf(Line{Kind: "test.kind"}); len(d.waiting) > 0 {
		t.Errorf("%d wait on", len(d.waiting))
	}
}

// The sweep takes the turn of a run whose message is gone, if its worker does not say that it runs.
func TestSweepTakesTurnsOfRuns(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		gone  bool // the message
		sign  Sign // the worker's answer
		taken bool
	}{
		"message there":              {false, SignNone, false},
		"worker gone":                {true, SignNone, true},
		"worker knows nothing of it": {true, SignHere, true},
		"worker runs it":             {true, SignRuns, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := few(t, openNew(t), 2)
			r := located(t, b, 2)
			takes(t, b, turnOf(r[0], "w"), true)
			if tc.sign != SignNone {
				sub, err := b.conn.nc.Subscribe(b.workerSignal("w"), func(m *nats.Msg) { _ = m.Respond([]byte(tc.sign)) })
				must(t, err)
				t.Cleanup(func() { _ = sub.Unsubscribe() })
			}
			if tc.gone {
				must(t, b.purge(context.Background(), b.tasks(0), b.ready(0, "q", pelton.Low)))
			}
			if swept := sweep(t, b.NewSweeper()); swept.Turns != 0 {
				t.Errorf("a young turn was taken: %+v", swept)
			}
			swept := sweep(t, aged(b))
			if taken := swept.Turns == 1; taken != tc.taken {
				t.Errorf("taken: %v, want %v (%+v)", taken, tc.taken, swept)
			}
			if tc.taken {
				haveKindTurns(t, b)
			} else {
				haveKindTurns(t, b, r[0])
			}
		})
	}
}
