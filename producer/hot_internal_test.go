package producer

import (
	"testing"
	"time"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/broker"
)

// A read that was under way when the task became hot, and one for somebody who waits, may be
// newer than what is kept. Nobody is shown the older one after that.
func TestHotTaskIsNotOlderThanWhatSomebodySaw(t *testing.T) {
	t.Parallel()
	id := pelton.NewID(time.Now(), 0)
	revision := func(n uint64) *broker.Record { return &broker.Record{Meta: broker.Meta{ID: id}, Revision: n} }
	task := &hotTask{asked: time.Now()}
	h := &hotTasks{kept: map[pelton.ID]*hotTask{id: task}}
	shown := func() uint64 {
		if r, _ := h.get(id, time.Now()); r != nil {
			return r.Revision
		}
		return 0
	}
	h.keep(task, revision(5))
	h.saw(revision(4))
	if got := shown(); got != 5 {
		t.Errorf("revision %d after a read of an older one, want 5", got)
	}
	h.saw(revision(9))
	if got := shown(); got != 0 {
		t.Errorf("revision %d is still kept after a read of 9", got)
	}
	h.keep(task, revision(7)) // read before the 9 was
	if got := shown(); got != 0 {
		t.Errorf("revision %d is kept after a read of 9", got)
	}
	h.keep(task, revision(9))
	if got := shown(); got != 9 {
		t.Errorf("revision %d is kept, want 9", got)
	}
	h.saw(&broker.Record{Meta: broker.Meta{ID: pelton.NewID(time.Now(), 0)}, Revision: 20}) // of a task that is not kept
	if got := shown(); got != 9 {
		t.Errorf("revision %d after a read of another task, want 9", got)
	}
}
