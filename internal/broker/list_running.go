package broker

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/peltonq/pelton"
)

// EachRunning calls visit for the tasks that workers said last that they run, by their
// ids, the newest first, from after on (zero is the beginning), until it returns false
// (that task counts as not visited), after 1,000 tasks, or when there are no more, which
// over says. next is where to go on. A task is in no worker's word for a few seconds after its
// start, and one that has ended since is not shown: the record decides. Errors:
// pelton.ErrUnavailable.
//
// It reads the words of all workers, and one record for each task.
func (b *Broker) EachRunning(ctx context.Context, after pelton.ID, visit func(*Record) bool) (next pelton.ID, over bool, err error) {
	workers, err := b.Presences(ctx)
	if err != nil {
		return after, false, err
	}
	var ids []pelton.ID
	for _, w := range workers {
		ids = append(ids, w.Running...)
	}
	newest := func(x, y pelton.ID) int { return cmp.Compare(y.String(), x.String()) }
	slices.SortFunc(ids, newest)
	ids = slices.Compact(ids)
	if !after.IsZero() {
		from, found := slices.BinarySearchFunc(ids, after, newest)
		if found {
			from++
		}
		ids = ids[from:]
	}
	more := len(ids) > listLooks
	for chunk := range slices.Chunk(ids[:min(len(ids), listLooks)], resolveAtOnce) {
		records, err := b.readAtOnce(ctx, len(chunk), func(i int) pelton.ID { return chunk[i] })
		if err != nil {
			return after, false, fmt.Errorf("list running tasks: %w", err)
		}
		for i, r := range records {
			if r != nil && r.State == pelton.Running && !visit(r) {
				return after, false, nil
			}
			after = chunk[i]
		}
	}
	return after, !more, nil
}
