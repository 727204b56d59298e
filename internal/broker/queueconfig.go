package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/peltonq/pelton"
)

const queueKeyPrefix = "queue."

// QueueConfig is what the configuration bucket holds on a queue, under
// queue.<name>. It is changed by compare-and-swap alone; producers and workers
// watch it, and the queue's consumers follow it (see settle.go).
type QueueConfig struct {
	Name string
	// Lanes are the priorities that were ever used: those that have a consumer.
	Lanes []pelton.Priority
	// Paused are the priorities that hand out nothing, used or not.
	Paused   []pelton.Priority
	Settings pelton.QueueSettings
	// BaseLease is the lease of the queue when its settings name none: that of the
	// process that was the first to use it. It is kept here so that every process
	// knows the same.
	BaseLease time.Duration
	Revision  uint64 // of the entry; 0 before there is one

	turns map[pelton.Priority]turn // of bounded lanes: see bounded.go

	// What a later version wrote is kept as it is.
	rest         map[string]json.RawMessage
	restSettings map[string]json.RawMessage
}

// Lease is how long the queue's lanes wait for a sign of life. Zero means that
// nobody knows, which leaves the lanes as they were created.
func (c *QueueConfig) Lease() time.Duration {
	if c.Settings.Lease > 0 {
		return c.Settings.Lease
	}
	return c.BaseLease
}

// IsPaused reports whether the priority hands out nothing.
func (c *QueueConfig) IsPaused(p pelton.Priority) bool { return slices.Contains(c.Paused, p) }

// MaxCrashes is how many deliveries of a task may die before it is poison.
func (c *QueueConfig) MaxCrashes() int {
	if c.Settings.MaxCrashes > 0 {
		return c.Settings.MaxCrashes
	}
	return pelton.DefaultMaxCrashes
}

// Pause adds priorities to those that hand out nothing, Resume takes them out.
func (c *QueueConfig) Pause(ps ...pelton.Priority) {
	for _, p := range ps {
		if !c.IsPaused(p) {
			c.Paused = append(c.Paused, p)
		}
	}
	slices.SortFunc(c.Paused, func(a, b pelton.Priority) int { return a.Rank() - b.Rank() })
}

// Resume is the opposite of Pause.
func (c *QueueConfig) Resume(ps ...pelton.Priority) {
	c.Paused = slices.DeleteFunc(c.Paused, func(p pelton.Priority) bool { return slices.Contains(ps, p) })
}

// decodeQueue reads an entry. Fields that it does not know are kept for encode.
func decodeQueue(name string, data []byte, revision uint64) (*QueueConfig, error) {
	c := &QueueConfig{Name: name, Revision: revision}
	var form struct {
		Lanes     []pelton.Priority    `json:"lanes"`
		Paused    []pelton.Priority    `json:"paused"`
		Settings  pelton.QueueSettings `json:"settings"`
		BaseLease string               `json:"base_lease"`
	}
	if err := errors.Join(json.Unmarshal(data, &form), json.Unmarshal(data, &c.rest)); err != nil {
		return nil, fmt.Errorf("read queue %s: %w: %w", name, ErrMalformed, err)
	}
	c.Lanes, c.Paused, c.Settings = form.Lanes, form.Paused, form.Settings
	var err error
	if c.turns, err = decodeTurns(c.rest["turns"]); err != nil {
		return nil, fmt.Errorf("read queue %s: %w: %w", name, ErrMalformed, err)
	}
	if form.BaseLease != "" {
		if c.BaseLease, err = pelton.ParseDuration(form.BaseLease); err != nil {
			return nil, fmt.Errorf("read queue %s: %w: %w", name, ErrMalformed, err)
		}
	}
	known, err := membersOf(c.Settings)
	if err != nil {
		return nil, fmt.Errorf("read queue %s: %w", name, err)
	}
	if raw, ok := c.rest["settings"]; ok {
		if err := json.Unmarshal(raw, &c.restSettings); err != nil {
			return nil, fmt.Errorf("read queue %s: %w: %w", name, ErrMalformed, err)
		}
		maps.DeleteFunc(c.restSettings, func(name string, _ json.RawMessage) bool { _, ok := known[name]; return ok })
	}
	return c, nil
}

// encode writes the entry: what is known of it, and what is not.
func (c *QueueConfig) encode() ([]byte, error) {
	settings, err := membersOf(c.Settings)
	if err != nil {
		return nil, fmt.Errorf("write queue %s: %w", c.Name, err)
	}
	all := maps.Clone(c.rest)
	if all == nil {
		all = make(map[string]json.RawMessage)
	}
	merged := maps.Clone(c.restSettings)
	if merged == nil {
		merged = make(map[string]json.RawMessage)
	}
	maps.Copy(merged, settings)
	fields := map[string]any{"lanes": c.Lanes, "paused": c.Paused, "settings": merged, "base_lease": pelton.FormatDuration(c.BaseLease), "turns": c.turns}
	if c.Lanes == nil {
		fields["lanes"] = []pelton.Priority{}
	}
	for name, empty := range map[string]bool{"paused": len(c.Paused) == 0, "settings": len(merged) == 0, "base_lease": c.BaseLease == 0, "turns": len(c.turns) == 0} {
		if empty {
			delete(fields, name)
			delete(all, name)
		}
	}
	for name, value := range fields {
		if all[name], err = json.Marshal(value); err != nil {
			return nil, fmt.Errorf("write queue %s: %w", c.Name, err)
		}
	}
	return json.Marshal(all)
}

// membersOf is a value's JSON object, by name.
func membersOf(v any) (map[string]json.RawMessage, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	var members map[string]json.RawMessage
	return members, json.Unmarshal(data, &members)
}

func (b *Broker) queueKey(name string) string {
	return "$KV." + b.names.config() + "." + queueKeyPrefix + name
}

// loadQueue reads a queue's entry from the leader. One that is not there is
// pelton.ErrNotFound; it comes with an empty entry that can be stored.
func (b *Broker) loadQueue(ctx context.Context, name string) (*QueueConfig, error) {
	msg, err := b.get(ctx, bucketStream(b.names.config()), getRequest{LastFor: b.queueKey(name)}, false)
	fresh := &QueueConfig{Name: name, BaseLease: b.cfg.Lease}
	switch {
	case err == nil && msg.deleted():
		fresh.Revision = msg.seq
		return fresh, fmt.Errorf("queue %s: %w", name, pelton.ErrNotFound)
	case errors.Is(err, pelton.ErrNotFound):
		return fresh, fmt.Errorf("queue %s: %w", name, err)
	case err != nil:
		return nil, fmt.Errorf("read queue %s: %w", name, err)
	}
	return decodeQueue(name, msg.data, msg.seq)
}

// changeQueue changes a queue's entry by compare-and-swap and returns it as it is
// then. change may be called several times, each time with what is stored by then.
// create says whether a queue that does not exist is made; one beyond the
// installation's bound is pelton.ErrInvalid.
func (b *Broker) changeQueue(ctx context.Context, name string, create bool, change func(*QueueConfig) error) (*QueueConfig, error) {
	for {
		cfg, err := b.loadQueue(ctx, name)
		absent := errors.Is(err, pelton.ErrNotFound)
		if err != nil && (!absent || !create) {
			return nil, err
		}
		if absent {
			if err := b.checkQueueBound(ctx, name); err != nil {
				return nil, err
			}
		}
		before, err := cfg.encode()
		if err != nil {
			return nil, err
		}
		if err := change(cfg); err != nil {
			return nil, err
		}
		after, err := cfg.encode()
		if err != nil {
			return nil, err
		}
		if !absent && string(before) == string(after) {
			return cfg, nil
		}
		revision, err := b.do(ctx, write{subject: b.queueKey(name), data: after, expect: cfg.Revision})
		switch {
		case err == nil:
			cfg.Revision = revision
			return cfg, nil
		case ctx.Err() != nil, !errors.Is(err, ErrStale) && !errors.Is(err, pelton.ErrUnknownOutcome):
			return nil, fmt.Errorf("change queue %s: %w", name, err)
		}
		// Another process changed it, or nobody knows: read it again. ctx bounds the loop.
	}
}
