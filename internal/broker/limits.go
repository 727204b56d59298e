package broker

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/peltonq/pelton"
)

const (
	// maxLimits bounds the limits of an installation: every task is held against
	// all of them.
	maxLimits = 1000
	// maxPauses bounds what a worker remembers of pauses; the rest of them is not
	// held.
	maxPauses = 10_000

	limitKeyPrefix = "limit."
	pauseKeyPrefix = "pause."
)

// Pause keeps the tasks of a kind, or those with a rate key, from starting. One of
// the two is set.
type Pause struct {
	Kind    string    `json:"kind,omitempty"`
	RateKey string    `json:"rate_key,omitempty"`
	Until   time.Time `json:"until"`
}

// key is where the pause is kept. A rate key may hold what a bucket's key must not.
func (p Pause) key() string {
	sum := sha256.Sum256([]byte(p.Kind + "\x00" + p.RateKey))
	return pauseKeyPrefix + base64.RawURLEncoding.EncodeToString(sum[:16])
}

// QueueLimit is by what name a task's way through its limits (Limited) has the rate
// of its queue. No limit can be called that.
func QueueLimit(queue string) string { return "queue:" + queue }

// RevisedLimit is a limit and the revision of its form: whatever was counted under
// another revision was counted for another limit.
type RevisedLimit struct {
	pelton.Limit
	Revision uint64
}

// Rules say which tasks may not start now.
type Rules struct {
	Limits []RevisedLimit // sorted by name
	Pauses []Pause        // those that were in force when it was read
}

// SaveLimit creates or replaces a limit, which must be normalized. Saving what is
// there already changes nothing, so that its buckets are kept.
func (b *Broker) SaveLimit(ctx context.Context, l pelton.Limit) error {
	limits, err := b.Limits(ctx)
	if err != nil {
		return err
	}
	switch i := slices.IndexFunc(limits, func(old pelton.Limit) bool { return old.Name == l.Name }); {
	case i >= 0 && limits[i] == l:
		return nil
	case i < 0 && len(limits) >= maxLimits:
		return &pelton.ValidationError{Fields: []pelton.FieldError{{
			Field: "name", Message: fmt.Sprintf("%q would be limit %d, more than the %d that an installation holds", l.Name, len(limits)+1, maxLimits),
		}}}
	}
	data, err := json.Marshal(l)
	if err != nil {
		return fmt.Errorf("save limit %s: %w", l.Name, err)
	}
	if _, err := b.do(ctx, write{subject: b.configKey(limitKeyPrefix + l.Name), data: data, expect: anyRevision}); err != nil {
		return fmt.Errorf("save limit %s: %w", l.Name, err)
	}
	return nil
}

func (n names) configKey(key string) string { return "$KV." + n.config() + "." + key }

// DeleteLimit deletes a limit; pelton.ErrNotFound if there is none.
func (b *Broker) DeleteLimit(ctx context.Context, name string) error {
	subject := b.configKey(limitKeyPrefix + name)
	msg, err := b.get(ctx, bucketStream(b.names.config()), getRequest{LastFor: subject}, false)
	if err == nil && msg.deleted() {
		err = pelton.ErrNotFound
	}
	if err != nil {
		return fmt.Errorf("delete limit %s: %w", name, err)
	}
	if _, err := b.do(ctx, write{subject: subject, expect: anyRevision, ttl: markerTTL, header: deleteMarker()}); err != nil {
		return fmt.Errorf("delete limit %s: %w", name, err)
	}
	return nil
}

// Limits lists all limits, sorted by name.
func (b *Broker) Limits(ctx context.Context) ([]pelton.Limit, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	found, stop, err := b.WatchRules(ctx)
	if err != nil {
		return nil, err
	}
	defer stop()
	select {
	case rules, ok := <-found:
		if !ok {
			return nil, fmt.Errorf("list limits: %w: the listing broke off", pelton.ErrUnavailable)
		}
		limits := make([]pelton.Limit, len(rules.Limits))
		for i, l := range rules.Limits {
			limits[i] = l.Limit
		}
		return limits, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("list limits: %w: %w", pelton.ErrUnavailable, context.Cause(ctx))
	}
}

// SavePause puts a pause into force, unless one of the same tasks ends later. It
// goes away by itself.
func (b *Broker) SavePause(ctx context.Context, p Pause) error {
	data, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("save pause: %w", err)
	}
	subject := b.configKey(p.key())
	for {
		expect := uint64(0)
		msg, err := b.get(ctx, bucketStream(b.names.config()), getRequest{LastFor: subject}, false)
		switch {
		case errors.Is(err, pelton.ErrNotFound):
		case err != nil:
			return fmt.Errorf("save pause: %w", err)
		default:
			var old Pause
			if !msg.deleted() && json.Unmarshal(msg.data, &old) == nil && !old.Until.Before(p.Until) {
				return nil
			}
			expect = msg.seq
		}
		_, err = b.do(ctx, write{subject: subject, data: data, expect: expect, ttl: max(time.Second, time.Until(p.Until))})
		if err == nil {
			return nil
		}
		if !errors.Is(err, ErrStale) {
			return fmt.Errorf("save pause: %w", err)
		}
		// Another worker paused the same: read it again. ctx bounds the loop.
	}
}

// WatchRules sends the limits and pauses as they stand, and again after each
// change; who is slow gets the newest alone. The channel is closed after stop,
// when ctx ends, and when the watch breaks down, as it does with the connection:
// watch again then. What came first then is complete, deletions included.
func (b *Broker) WatchRules(ctx context.Context) (rules <-chan Rules, stop func(), err error) {
	f := newConfigFeed(b, nil)
	stop, err = b.watchConfig(ctx, "limits", []string{limitKeyPrefix + "*", pauseKeyPrefix + "*"}, f.feed)
	return f.rules, stop, err
}

// ruleBook is what a watch has seen so far, by key.
type ruleBook struct {
	limits map[string]RevisedLimit
	pauses map[string]Pause
}

func (k *ruleBook) rules(now time.Time) Rules {
	var r Rules
	for _, key := range slices.Sorted(maps.Keys(k.limits)) {
		r.Limits = append(r.Limits, k.limits[key])
	}
	for key, p := range k.pauses {
		if p.Until.Before(now) {
			delete(k.pauses, key)
			continue
		}
		r.Pauses = append(r.Pauses, p)
	}
	return r
}

// note takes an entry of the configuration in.
func (b *Broker) note(known *ruleBook, entry jetstream.KeyValueEntry) {
	key := entry.Key()
	delete(known.limits, key)
	delete(known.pauses, key)
	if entry.Operation() != jetstream.KeyValuePut {
		return
	}
	if name, ok := strings.CutPrefix(key, limitKeyPrefix); ok {
		l := RevisedLimit{Revision: entry.Revision()}
		err := json.Unmarshal(entry.Value(), &l.Limit)
		if err == nil {
			l.Limit, err = l.Normalized()
		}
		if err != nil || l.Name != name {
			b.cfg.Logger.Error("limit is unreadable and does not hold", "limit", name, "error", err)
			return
		}
		known.limits[key] = l
		return
	}
	var p Pause
	if err := json.Unmarshal(entry.Value(), &p); err != nil || p.Kind == "" && p.RateKey == "" {
		b.cfg.Logger.Error("pause is unreadable and does not hold", "error", err)
		return
	}
	if len(known.pauses) >= maxPauses {
		b.cfg.Logger.Warn("too many pauses, one does not hold", "most", maxPauses)
		return
	}
	known.pauses[key] = p
}
