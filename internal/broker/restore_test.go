package broker

import (
	"testing"

	"github.com/peltonq/pelton"
)

// A lane whose consumer is gone has it again, with what its stream holds; one that
// has its consumer keeps it.
func TestRestoreLanes(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	ctx := t.Context()
	for _, p := range []pelton.Priority{pelton.Low, pelton.High} {
		if err := b.EnsureLane(ctx, Lane{Queue: "default", Priority: p}); err != nil {
			t.Fatal(err)
		}
	}
	lost, kept := laneConsumer("default", pelton.Low), laneConsumer("default", pelton.High)
	before, err := b.consumer(ctx, b.tasks(0), kept)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.js.DeleteConsumer(ctx, b.tasks(0), lost); err != nil {
		t.Fatal(err)
	}
	if err := b.RestoreLanes(ctx); err != nil {
		t.Fatal(err)
	}
	if info, err := b.consumer(ctx, b.tasks(0), lost); err != nil || info == nil {
		t.Errorf("the lost consumer: %v, %v", info, err)
	}
	after, err := b.consumer(ctx, b.tasks(0), kept)
	if err != nil || !after.Created.Equal(before.Created) {
		t.Errorf("the kept consumer was created at %v, then at %v: %v", before.Created, after, err)
	}
}
