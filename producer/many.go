package producer

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/broker"
)

// keyedAtOnce is how many items with unique or idempotency keys of a batch are on
// their way at a time. Each takes three to five round trips to the broker.
const keyedAtOnce = 32

// EnqueueMany enqueues each spec as Submit does, many times faster than one by one:
// those without unique and idempotency keys in a pipeline, also if they have
// concurrency keys, and 32 of the others at a time. It is not atomic. The answer has
// one item for each spec, in order; the error is for a call that could not be tried
// at all, or for more than pelton.MaxBatch specs.
//
// An item comes after those before it with the same idempotency key, unique key or
// concurrency key: it finds what they did, and stands behind them in the line. Items
// that share none may come in any order if one of them has a unique or idempotency key, or
// they are of different queues.
func (c *Client) EnqueueMany(ctx context.Context, specs []pelton.Spec) ([]pelton.Enqueued, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	if len(specs) > pelton.MaxBatch {
		return nil, &pelton.ValidationError{Fields: []pelton.FieldError{{
			Field: "tasks", Message: fmt.Sprintf("has %d items, more than %d", len(specs), pelton.MaxBatch),
		}}}
	}
	items := make([]pelton.Enqueued, len(specs))
	order := make([]int, len(specs)) // in which they are enqueued
	for i := range order {
		order[i] = i
	}
	from := 0
	if !slices.ContainsFunc(specs, special) {
		groupByQueue(specs, order)
		from = c.enqueuePlain(ctx, specs, order, items)
		slices.Sort(order[from:])
	}
	// Items of a sort that follow each other go together; between the sorts all waits.
	plain := plainRun{c: c, items: items}
	keyed := keyedRun{c: c, items: items, last: map[string]chan struct{}{}, atOnce: make(chan struct{}, keyedAtOnce)}
	for _, i := range order[from:] {
		spec := specs[i]
		if spec.IdempotencyKey != "" || spec.Unique != nil {
			plain.flush(ctx)
			keyed.start(ctx, i, spec)
			continue
		}
		keyed.wait()
		var land func()
		req, err := c.prepare(ctx, spec)
		if err == nil {
			land, err = c.queues.admit(ctx, req.record)
		}
		if err != nil {
			items[i].Err = err
			continue
		}
		plain.add(i, req.record, land)
	}
	plain.flush(ctx)
	keyed.wait()
	return items, nil
}

// special reports whether a spec is surely of a task that needs a record.
func special(spec pelton.Spec) bool {
	return spec.Delay != 0 || !spec.RunAt.IsZero() || spec.Unique != nil || spec.IdempotencyKey != "" || spec.ConcurrencyKey != ""
}

// groupByQueue puts those of a queue one after the other. Within a queue order is left as it is, as tasks of a
// lane start in it. Neighbours in a stream are worked off at about the same time if they are of one lane, and
// those that succeed together are written together: see broker.segment.
func groupByQueue(specs []pelton.Spec, order []int) {
	name := func(i int) string { return cmp.Or(specs[i].Queue, pelton.DefaultQueue) }
	if slices.ContainsFunc(order, func(i int) bool { return name(i) != name(0) }) {
		slices.SortStableFunc(order, func(a, b int) int { return strings.Compare(name(a), name(b)) })
	}
}

// enqueuePlain enqueues plain tasks in the given order, each of which is on its way while the next one is checked. It
// ends at the first that turns out to need a record, because of what its queue's settings say,
// and returns how many it has dealt with.
func (c *Client) enqueuePlain(ctx context.Context, specs []pelton.Spec, order []int, items []pelton.Enqueued) (done int) {
	batch, err := c.b.NewPlainBatch(ctx, len(specs))
	if err != nil {
		return 0 // each will be told
	}
	var (
		places = placer{q: c.queues}
		record broker.Record // of one after the other
		lands  []func()      // see queues.admit
	)
	for ; done < len(order); done++ {
		n := order[done]
		now := c.now()
		spec := specs[n]
		c.queues.fill(&spec)
		if spec, err = spec.Normalized(now); err != nil {
			items[n].Err = err
			continue
		}
		record.Begin(pelton.NewID(now, places.place(&spec)), &spec, now)
		land, err := c.queues.admit(ctx, &record)
		if err != nil {
			items[n].Err = err
			continue
		}
		plain, err := batch.Add(n, &record)
		if !plain {
			land()
			break
		}
		if lands = append(lands, land); err != nil {
			items[n].Err = err
			continue
		}
		items[n].Task = record.Task(now)
	}
	batch.Land(func(i int, seq uint64, err error) {
		task := items[i].Task
		if task.ID = task.ID.At(seq); err != nil {
			items[i] = pelton.Enqueued{Err: fmt.Errorf("enqueue task %s: %w", task.ID.Seed(), err)}
		}
	})
	for _, land := range lands {
		land()
	}
	return done
}

// keyedRun enqueues items with unique or idempotency keys, several at a time.
type keyedRun struct {
	c      *Client
	items  []pelton.Enqueued
	last   map[string]chan struct{} // by key: closed when its last item so far is done
	atOnce chan struct{}
	going  sync.WaitGroup
}

// start waits for a place and enqueues the item when those before it with one of its
// keys are done. They began earlier, so that they have places.
func (k *keyedRun) start(ctx context.Context, i int, spec pelton.Spec) {
	var before []chan struct{}
	done := make(chan struct{})
	for _, key := range orderKeys(&spec) {
		if last := k.last[key]; last != nil {
			before = append(before, last)
		}
		k.last[key] = done
	}
	k.atOnce <- struct{}{} // its holder ends with ctx, or the deadlines of its calls
	k.going.Go(func() {
		defer func() { <-k.atOnce }()
		defer close(done)
		for _, other := range before {
			<-other
		}
		req, err := k.c.prepare(ctx, spec)
		if err == nil {
			k.items[i], err = k.c.submit(ctx, req)
		}
		if err != nil {
			k.items[i] = pelton.Enqueued{Err: err}
		}
	})
}

// wait returns when all that were started are done.
func (k *keyedRun) wait() { k.going.Wait() }

// orderKeys are the keys of a spec whose items keep their order.
func orderKeys(spec *pelton.Spec) []string {
	var keys []string
	if spec.IdempotencyKey != "" {
		keys = append(keys, "idempotency\n"+spec.IdempotencyScope+"\n"+spec.IdempotencyKey)
	}
	if spec.Unique != nil {
		keys = append(keys, "unique\n"+spec.Kind+"\n"+spec.Unique.Key)
	}
	if spec.ConcurrencyKey != "" {
		keys = append(keys, "concurrency\n"+spec.ConcurrencyKey)
	}
	return keys
}

// plainRun collects tasks that are enqueued together.
type plainRun struct {
	c        *Client
	items    []pelton.Enqueued
	records  []*broker.Record
	position []int
	lands    []func() // see queues.admit
}

func (p *plainRun) add(i int, r *broker.Record, land func()) {
	p.records, p.position, p.lands = append(p.records, r), append(p.position, i), append(p.lands, land)
}

func (p *plainRun) flush(ctx context.Context) {
	if len(p.records) == 0 {
		return
	}
	for j, err := range p.c.b.EnqueueMany(ctx, p.records) {
		if err != nil {
			p.items[p.position[j]].Err = err
		} else {
			p.items[p.position[j]].Task = p.records[j].Task(p.c.now())
		}
	}
	for _, land := range p.lands {
		land()
	}
	p.records, p.position, p.lands = nil, nil, nil
}
