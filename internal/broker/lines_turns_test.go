package broker

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/peltonq/pelton"
)

// The turn of a task that is over belongs to the message it ran from, as long as
// that is there: its handler may not have returned.
func TestTurnIsItsCarriers(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	records := inLineOf(t, b, "k", 2)
	settled(t, b, "k")
	d := wait(t, deliveries(t, b, "q", pelton.Low, 1), "called task")
	first := records[0]
	start(t, b, first, d.Seq)
	first.State = pelton.Cancelled
	must(t, b.SaveRecord(t.Context(), first))
	must(t, b.LeaveLines(t.Context(), first, 0))
	must(t, b.LeaveLines(t.Context(), first, d.Seq+1))
	haveTurns(t, b, "k", first)

	// Nor does a requeue free it: the task waits behind itself.
	again, err := b.Requeue(t.Context(), first.ID)
	must(t, err)
	if !again.InLine || again.Former != d.Seq || len(again.Places) != 1 || again.Places[0].Epoch != 1 {
		t.Errorf("requeued record: %+v", again)
	}
	if err := b.LeaveDropped(t.Context(), again, d.Envelope, d.Seq+1); !errors.Is(err, pelton.ErrUnavailable) {
		t.Errorf("another message dropped beside the task's own = %v, want ErrUnavailable", err)
	}
	haveTurns(t, b, "k", first)
	must(t, b.LeaveDropped(t.Context(), again, d.Envelope, d.Seq))
	haveTurns(t, b, "k", records[1])
	// It went to the end.
	records[1].State = pelton.Succeeded
	must(t, b.SaveRecord(t.Context(), records[1]))
	must(t, b.LeaveLines(t.Context(), records[1], 0))
	haveTurns(t, b, "k", again)
	doc := settled(t, b, "k")
	if doc.Granted[0].Epoch != 1 {
		t.Errorf("turn is of epoch %d", doc.Granted[0].Epoch)
	}
	// A message of a task whose record is gone gives back what it had.
	must(t, b.DropRecord(t.Context(), again))
	must(t, b.LeaveDropped(t.Context(), nil, again.Envelope(), 1))
	haveTurns(t, b, "k")
}

// A deleted record, and a document that others write between, are found out.
func TestSettleMeetsOthers(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	records := inLineOf(t, b, "k", 2)
	must(t, b.DropRecord(t.Context(), records[0]))
	doc := settled(t, b, "k")
	if diff := cmp.Diff(idsOf(records[1]), turns(doc)); diff != "" {
		t.Errorf("turns (-want +got):\n%s", diff)
	}
	newerDoc := write{subject: b.line(Line{Key: "new"}), data: []byte(`{"v":3}`), expect: anyRevision}
	_, err := b.do(t.Context(), newerDoc)
	must(t, err)
	if _, err := b.settleLine(t.Context(), Line{Key: "new"}, lineSettling{}); !errors.Is(err, ErrNewer) {
		t.Errorf("settle a line of a newer version = %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := b.settleLine(ctx, Line{Key: "k"}, lineSettling{}); !errors.Is(err, pelton.ErrUnavailable) || errors.Is(err, ErrStale) {
		t.Errorf("settle with a ctx that is over = %v", err)
	}
}

// Doors let one in at a time, forget lines that nobody is at, and give up with ctx.
func TestDoors(t *testing.T) {
	t.Parallel()
	var d doors
	line := Line{Key: "k"}
	leave, err := d.enter(t.Context(), line)
	must(t, err)
	other, err := d.enter(t.Context(), Line{Key: "other"})
	must(t, err)
	other()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := d.enter(ctx, line); !errors.Is(err, context.Canceled) {
		t.Errorf("enter with a ctx that is over = %v", err)
	}
	inside := make(chan struct{})
	go func() {
		if leave, err := d.enter(context.WithoutCancel(ctx), line); err == nil {
			leave()
		}
		close(inside)
	}()
	select {
	case <-inside:
		t.Error("two are inside")
	case <-time.After(20 * time.Millisecond):
	}
	leave()
	wait(t, inside, "second to have been inside")
	if len(d.open) != 0 {
		t.Errorf("%d doors are left", len(d.open))
	}
}

func TestScanAndIdleKnowLines(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	waits, delayed := inLineOf(t, b, "k", 1)[0], keyed("k")
	delayed.State, delayed.RunAt = pelton.Scheduled, time.Now().Add(time.Hour).UTC()
	must(t, b.Enqueue(t.Context(), delayed))
	seen := map[pelton.ID]bool{}
	must(t, b.Scan(t.Context(), func(e *Envelope) bool { seen[e.ID] = true; return true }))
	if !seen[waits.ID] || !seen[delayed.ID] {
		t.Errorf("scan saw %v", seen)
	}
	if idle, err := b.Idle(t.Context()); err != nil || idle {
		t.Errorf("idle = %t, %v with a task in a line", idle, err)
	}
	delayed.State = pelton.Cancelled
	must(t, b.CancelSchedules(t.Context(), delayed))
	if !gone(t, b, b.keyed(0), b.laterPlace(0, "q", delayed.ID, 0)) {
		t.Error("the schedule of a cancelled task in a line is still there")
	}
}

// A refused place takes its record along, alone and among many.
func TestRefusedPlacesLeaveNoRecord(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	inLineOf(t, b, "k", 1)
	must(t, b.js.DeleteStream(t.Context(), b.keyed(0)))
	alone, many := keyed("k"), []*Record{keyed("k"), aRecord("q", pelton.Low), keyed("l")}
	errs := append(b.EnqueueMany(t.Context(), many), b.Enqueue(t.Context(), alone))
	for i, r := range append(many, alone) {
		refused := r.InLine
		if refused != errors.Is(errs[i], pelton.ErrUnavailable) {
			t.Errorf("task %d: %v", i, errs[i])
		}
		if _, err := b.LoadRecord(t.Context(), r.ID); refused != errors.Is(err, pelton.ErrNotFound) {
			t.Errorf("record of task %d: %v", i, err)
		}
	}
	if _, err := b.settleLine(t.Context(), Line{Key: "k"}, lineSettling{}); err == nil {
		t.Error("a line without its stream was settled")
	}
}
