package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/peltonq/pelton"
)

const (
	// PresenceTTL is the longest time for which a worker is taken for alive after
	// its last sign.
	PresenceTTL = 15 * time.Second
	probeTTL    = time.Minute
	probeKey    = "_probe" // in every bucket; no worker, queue or task is called that
)

// Presence is what a worker says of itself every few seconds.
type Presence struct {
	ID          string      `json:"id"`
	Host        string      `json:"host"`
	PID         int         `json:"pid"`
	Version     string      `json:"version"`
	Kinds       []string    `json:"kinds"`
	Queues      []string    `json:"queues"`
	Concurrency int         `json:"concurrency"`
	Running     []pelton.ID `json:"running"`
	Leaked      int         `json:"leaked"`
	StartedAt   time.Time   `json:"started_at"`
	SeenAt      time.Time   `json:"seen_at"`
}

func (b *Broker) presenceKey(id string) string { return "$KV." + b.workers() + "." + id }

// ShowPresence keeps the worker visible for another ttl, whole seconds of at least
// one.
func (b *Broker) ShowPresence(ctx context.Context, p Presence, ttl time.Duration) error {
	data, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("show worker %s: %w", p.ID, err)
	}
	// A plain publish: KeyValue.Update would drop the TTL.
	if _, err := b.do(ctx, write{subject: b.presenceKey(p.ID), data: data, expect: anyRevision, ttl: ttl}); err != nil {
		return fmt.Errorf("show worker %s: %w", p.ID, err)
	}
	return nil
}

// HidePresence takes the worker off the list at once.
func (b *Broker) HidePresence(ctx context.Context, id string) error {
	w := write{subject: b.presenceKey(id), expect: anyRevision, ttl: markerTTL, header: deleteMarker()}
	if _, err := b.do(ctx, w); err != nil {
		return fmt.Errorf("hide worker %s: %w", id, err)
	}
	return nil
}

// Sign is what a worker answers to whoever asks whether it lives and runs a task.
type Sign string

// The signs.
const (
	SignNone Sign = ""     // no answer
	SignHere Sign = "here" // it lives, and does not run the task
	SignRuns Sign = "runs" // it runs the task and holds its lease
)

// ServePresence answers whoever asks whether the worker lives and runs a task,
// until stop. runs must not block.
func (b *Broker) ServePresence(id string, runs func(pelton.ID) bool) (stop func(), err error) {
	sub, err := b.conn.nc.Subscribe(b.workerSignal(id), func(msg *nats.Msg) {
		sign := SignHere
		if task, err := pelton.ParseID(string(msg.Data)); err == nil && runs(task) {
			sign = SignRuns
		}
		if err := msg.Respond([]byte(sign)); err != nil {
			b.cfg.Logger.Debug("sign of life not sent", "worker", id, "error", err)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("serve signs of life: %w: %w", pelton.ErrUnavailable, err)
	}
	return func() { _ = sub.Unsubscribe() }, nil // fails only where the connection is gone
}

// AskPresence asks the worker itself whether it lives and runs the task, and waits
// for its answer until ctx ends. Nobody there is SignNone at once. A worker of
// another version, which answers otherwise, is SignHere.
func (b *Broker) AskPresence(ctx context.Context, id string, task pelton.ID) (Sign, error) {
	reply, err := b.conn.call(ctx, &nats.Msg{Subject: b.workerSignal(id), Data: []byte(task.String())})
	switch {
	case err == nil && Sign(reply.Data) == SignRuns:
		return SignRuns, nil
	case err == nil:
		return SignHere, nil
	case errors.Is(err, errNoResponder), errors.Is(err, errSent) && ctx.Err() != nil:
		return SignNone, nil //nolint:nilerr // nobody there, or nobody who answers in time, is the answer
	default:
		return SignNone, fmt.Errorf("ask worker %s: %w", id, readError(err))
	}
}

// Present reports whether the worker gave a sign of life in the last time that it promised one for.
func (b *Broker) Present(ctx context.Context, id string) (bool, error) {
	msg, err := b.get(ctx, bucketStream(b.workers()), getRequest{LastFor: b.presenceKey(id)}, false)
	if errors.Is(err, pelton.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for worker %s: %w", id, err)
	}
	return !msg.deleted(), nil
}

// Probe writes to every stream at once: a stream's info can look healthy while
// its writes are stuck, so health is a write. The error names every stream that
// did not take it within 5 s. What is written goes away by itself. A disk that is
// too full for new tasks is an error, too.
func (b *Broker) Probe(ctx context.Context) error {
	if err := b.room.check(); err != nil {
		return fmt.Errorf("probe: %w", err)
	}
	probes := []write{
		{subject: b.deadProbe(), expect: anyRevision},
		{subject: b.keyedProbe(0), expect: anyRevision, ttl: probeTTL},
		{subject: b.tickProbe(), expect: anyRevision, ttl: probeTTL},
		{subject: b.dueProbe(0), expect: anyRevision, ttl: probeTTL},
	}
	buckets := []string{b.names.config(), b.locks(), b.workers(), b.keys()}
	for shard := range b.Shards() {
		probes = append(probes, write{subject: b.taskProbe(uint8(shard)), expect: anyRevision, ttl: probeTTL})
		buckets = append(buckets, b.state(uint8(shard)))
	}
	for _, bucket := range buckets {
		probes = append(probes, write{subject: "$KV." + bucket + "." + probeKey, expect: anyRevision, ttl: probeTTL})
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	var failed []error
	b.pipeline(ctx, len(probes), func(int) bool { return true },
		func(i int) (write, error) { return probes[i], nil },
		func(i int, _ uint64, err error) {
			if err != nil {
				failed = append(failed, fmt.Errorf("probe %s: %w", probes[i].subject, err))
			}
		})
	return errors.Join(failed...)
}
