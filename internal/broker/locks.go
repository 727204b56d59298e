package broker

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/failpoint"
)

// A named lock of n slots is n keys, lock.<name>.<0 … n-1>, each a permit. A key
// that is there is held. It is written with a TTL, the lease, and renewed before
// that is over, so when a lock is free is decided by the broker's clock alone, and
// a holder that dies leaves nothing behind. docs/locks.md has the reasons.
//
// Every take is a compare-and-swap on all permits of the name at once: it expects
// the last sequence under lock.<name>.*. So two takers cannot get past each other,
// whichever permits they chose and however many slots they believe in. (In a
// cluster, too: takes of one name expect the same subject, of which the server lets
// one be under way. Renewals and releases under way may pass a take; they do not
// change what it relies on, a permit that is free.)
//
// The fencing token is the stream sequence of the take: it grows with every write
// to the bucket.

// Permit is one permit of a named lock, as somebody asks for it or holds it.
type Permit struct {
	permitValue

	Name  string
	Index int
	// Revision is the stream sequence of its last write. Expires is when that goes
	// away, by the broker's clock.
	Revision uint64
	Expires  time.Time
}

// permitValue is what a permit's key holds.
type permitValue struct {
	// Slots is how many permits the holder took the lock to have.
	Slots int `json:"slots"`
	// Grant names the acquisition, in one word that no other has.
	Grant  string    `json:"grant"`
	TaskID pelton.ID `json:"task_id"`
	Kind   string    `json:"kind"`
	Worker string    `json:"worker"`
	Fence  uint64    `json:"fence"`
	// Lease in whole seconds of at least one, the broker's finest TTL.
	Lease int64 `json:"lease_s"`
	// Token is 0 in the write that takes the permit: its sequence is the token.
	Token      uint64    `json:"token,omitempty"`
	AcquiredAt time.Time `json:"acquired_at"`
}

// NewPermit asks for a permit of a lock of that many slots. lease is rounded up to
// whole seconds.
func NewPermit(name string, slots int, lease time.Duration, grant string, holder pelton.LockHolder) *Permit {
	return &Permit{Name: name, permitValue: permitValue{
		Slots: slots, Grant: grant, TaskID: holder.TaskID, Kind: holder.Kind, Worker: holder.Worker, Fence: holder.Fence,
		Lease: int64((lease + time.Second - 1) / time.Second),
	}}
}

// LeaseTime is how long the permit stays held without a renewal.
func (p *Permit) LeaseTime() time.Duration { return time.Duration(p.Lease) * time.Second }

// Holder is who holds the permit.
func (p *Permit) Holder() pelton.LockHolder {
	return pelton.LockHolder{
		TaskID: p.TaskID, Kind: p.Kind, Worker: p.Worker, Fence: p.Fence, Token: p.Token,
		AcquiredAt: p.AcquiredAt, ExpiresAt: p.Expires.UTC().Truncate(time.Millisecond),
	}
}

func (n names) lockKey(name string, index int) string {
	return fmt.Sprintf("$KV.%s.lock.%s.%d", n.locks(), encodeName(name), index)
}

func (n names) lockKeys(name string) string {
	return fmt.Sprintf("$KV.%s.lock.%s.*", n.locks(), encodeName(name))
}
func (n names) allLocks() string { return fmt.Sprintf("$KV.%s.lock.>", n.locks()) }

// encodeName makes any name a token of a subject and of a key.
func encodeName(name string) string { return base64.RawURLEncoding.EncodeToString([]byte(name)) }

// parseLockKey is the inverse of lockKey.
func (n names) parseLockKey(subject string) (name string, index int, ok bool) {
	rest, ok := strings.CutPrefix(subject, strings.TrimSuffix(n.allLocks(), ">"))
	encoded, number, found := strings.Cut(rest, ".")
	decoded, err := base64.RawURLEncoding.DecodeString(encoded)
	index, numErr := strconv.Atoi(number)
	return string(decoded), index, ok && found && err == nil && numErr == nil
}

// LockState is what the broker holds of one lock.
type LockState struct {
	Permits []*Permit // those that are held
	last    uint64    // the last sequence of all its keys, delete markers included
}

// Free is the lowest permit that nobody holds.
func (s *LockState) Free(slots int) (index int, ok bool) {
	for index := range slots {
		if !slices.ContainsFunc(s.Permits, func(p *Permit) bool { return p.Index == index }) {
			return index, true
		}
	}
	return 0, false
}

// Mismatch is a holder that took the lock to have another number of slots, or nil.
func (s *LockState) Mismatch(slots int) *Permit {
	for _, p := range s.Permits {
		if p.Slots != slots && p.Slots > 0 { // 0 is a value that cannot be read
			return p
		}
	}
	return nil
}

// Granted is the permit of that acquisition, or nil.
func (s *LockState) Granted(grant string) *Permit {
	for _, p := range s.Permits {
		if p.Grant == grant {
			return p
		}
	}
	return nil
}

// LockState reads all permits of a lock from the leader, each with one read and
// one more to know that there are no others.
func (b *Broker) LockState(ctx context.Context, name string) (*LockState, error) {
	state := &LockState{}
	permits, last, err := b.scanPermits(ctx, b.lockKeys(name))
	if err != nil {
		return nil, fmt.Errorf("read lock %q: %w", name, err)
	}
	state.Permits, state.last = permits, last
	return state, nil
}

// scanPermits gives the permits under filter that are held, by name and token, and
// the filter's last sequence. It reads forwards in the order of writes: what is
// written meanwhile lies ahead, so the result is the state at its end.
func (b *Broker) scanPermits(ctx context.Context, filter string) (permits []*Permit, last uint64, err error) {
	held := make(map[string]*Permit)
	for {
		msg, err := b.get(ctx, bucketStream(b.locks()), getRequest{Seq: last + 1, NextFor: filter}, false)
		if errors.Is(err, pelton.ErrNotFound) {
			break
		}
		if err != nil {
			return nil, 0, err
		}
		last = msg.seq
		delete(held, msg.subject)
		if p, ok := b.decodePermit(msg); ok {
			held[msg.subject] = p
		}
	}
	permits = slices.SortedFunc(maps.Values(held), func(x, y *Permit) int {
		if c := strings.Compare(x.Name, y.Name); c != 0 || x.Token == y.Token {
			return c
		}
		if x.Token < y.Token {
			return -1
		}
		return 1
	})
	return permits, last, nil
}

// decodePermit is false for delete markers and for keys that are no permits. A
// permit whose value cannot be read is held all the same.
func (b *Broker) decodePermit(msg *stored) (*Permit, bool) {
	p := &Permit{Revision: msg.seq}
	var ok bool
	if p.Name, p.Index, ok = b.parseLockKey(msg.subject); !ok || msg.deleted() {
		return nil, false
	}
	if err := json.Unmarshal(msg.data, &p.permitValue); err != nil {
		b.cfg.Logger.Warn("permit of a lock unreadable", "lock", p.Name, "error", err)
		p.permitValue = permitValue{}
	}
	if p.Token == 0 {
		p.Token = msg.seq
	}
	p.Expires = msg.time.Add(p.LeaseTime())
	return p, true
}

// TakeLock takes the permit p.Index, which is free in state, for p, and sets its
// Token and Revision. ErrStale means that the lock's state has changed since, in
// whichever permit.
func (b *Broker) TakeLock(ctx context.Context, state *LockState, p *Permit) error {
	p.AcquiredAt, p.Token = time.Now().UTC().Truncate(time.Millisecond), 0
	w, err := b.permitWrite(p)
	if err != nil {
		return err
	}
	w.expect, w.expectOn = state.last, b.lockKeys(p.Name)
	seq, err := b.do(ctx, w)
	if err != nil {
		return fmt.Errorf("take lock %q: %w", p.Name, err)
	}
	failpoint.At(failpoint.LockTaken)
	p.Token, p.Revision = seq, seq
	return nil
}

// RenewLock keeps the permit for another lease and sets its Revision. ErrStale
// means that it was written to since p.Revision: see LoadPermit.
func (b *Broker) RenewLock(ctx context.Context, p *Permit) error {
	if failpoint.Broken(failpoint.NoRenewal) {
		return nil
	}
	w, err := b.permitWrite(p)
	if err != nil {
		return err
	}
	w.expect = p.Revision
	seq, err := b.do(ctx, w)
	if err != nil {
		return fmt.Errorf("renew lock %q: %w", p.Name, err)
	}
	failpoint.At(failpoint.LockRenewed)
	p.Revision = seq
	return nil
}

// permitWrite is a plain publish: KeyValue.Update would drop the TTL.
func (b *Broker) permitWrite(p *Permit) (write, error) {
	data, err := json.Marshal(p.permitValue)
	if err != nil {
		return write{}, fmt.Errorf("encode permit of lock %q: %w", p.Name, err)
	}
	return write{subject: b.lockKey(p.Name, p.Index), data: data, ttl: p.LeaseTime()}, nil
}

// LoadPermit reads who holds the permit now. pelton.ErrNotFound means nobody.
func (b *Broker) LoadPermit(ctx context.Context, name string, index int) (*Permit, error) {
	msg, err := b.get(ctx, bucketStream(b.locks()), getRequest{LastFor: b.lockKey(name, index)}, false)
	if err != nil {
		return nil, fmt.Errorf("read lock %q: %w", name, err)
	}
	p, held := b.decodePermit(msg)
	if !held {
		return nil, fmt.Errorf("read lock %q: %w", name, pelton.ErrNotFound)
	}
	return p, nil
}

// releasedTTL is how long the place of a released permit is remembered. Nothing
// depends on it: an empty place refuses old writes as a marker does.
const releasedTTL = 5 * time.Second

// ReleaseLock gives the permit back and tells who waits for it. ErrStale means that
// it was written to since p.Revision.
func (b *Broker) ReleaseLock(ctx context.Context, p *Permit) error {
	// A purge of the key, not a deletion: when that expired, the server would put a
	// marker of its own there, for a minute.
	marker := nats.Header{"KV-Operation": {"PURGE"}}
	w := write{subject: b.lockKey(p.Name, p.Index), expect: p.Revision, ttl: releasedTTL, header: marker}
	if _, err := b.do(ctx, w); err != nil {
		return fmt.Errorf("release lock %q: %w", p.Name, err)
	}
	failpoint.At(failpoint.LockReleased)
	b.hint(b.lockEvent(p.Name), "")
	return nil
}
