package broker

import (
	"errors"
	"testing"
	"time"

	"github.com/peltonq/pelton"
)

// A seal is kept as long as a message of its segment may be in a lane, and for a day.
func TestSweepSeals(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	records := enqueuedPlain(t, b, 2*segmentSize)
	full, single := segmentOf(records[0].ID), segmentOf(records[len(records)-1].ID)
	for _, i := range []int{0, len(records) - 1} {
		if _, err := b.Cancel(t.Context(), records[i].ID); err != nil { // takes its message away
			t.Fatal(err)
		}
	}
	there := func(s segment) bool {
		msg, err := b.get(t.Context(), bucketStream(b.state(0)), getRequest{LastFor: b.sealSubject(s)}, false)
		if err != nil && !errors.Is(err, pelton.ErrNotFound) {
			t.Fatal(err)
		}
		return err == nil && !msg.deleted()
	}
	old := b.NewSweeper()
	old.now = func() time.Time { return time.Now().Add(sealAge + time.Minute) }
	sweep(t, aged(b))
	if !there(full) || !there(single) {
		t.Error("swept a young seal")
	}
	sweep(t, old)
	if !there(full) {
		t.Error("swept a seal while messages of its segment wait")
	}
	if there(single) {
		t.Error("left the seal of a segment without messages")
	}
	for _, r := range records {
		if segmentOf(r.ID) == full {
			must(t, b.DeleteMessage(t.Context(), 0, r.ID.Sequence()))
		}
	}
	sweep(t, old)
	if there(full) {
		t.Error("left a seal when the last message of its segment was gone")
	}
}
