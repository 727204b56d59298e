package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/failpoint"
)

// A plain task is started without a look at its record when nobody can have started it
// before: when the broker hands out its first message for the first time. A
// broker that was killed forgets how often it has handed out what (nats-server 2.15,
// file storage), so its word counts only for messages that came after its start:
// those beyond the horizon. The others are looked up.
//
// The server with the broker in it writes the horizon at each of its starts, with the
// broker's id, which is new then. A worker believes a horizon only if it is of
// the broker that it is connected to, so one that was faster than the server looks
// everything up until there is one.
//
// With a broker elsewhere there is none, which is believed at once, and looked at again for ten
// seconds: a server that has just made an installation writes it a moment later. A task that such a
// broker hands out again as if for the first time, after it was killed, is started again. That is a duplicate as
// any after an unclean restart: its outcome is refused, because creating the
// record is.

const horizonKey = "horizon"

// horizon is the entry of the configuration bucket.
type horizon struct {
	Server   string `json:"server"`   // id of the broker that it is about
	Sequence uint64 `json:"sequence"` // the last one of the tasks of the first shard when it started
	// More are those of further shards. Of a shard that came later there is none: what is in it came after the
	// start.
	More []uint64 `json:"more,omitempty"`
	// Always says that the broker syncs every write: see group.go.
	Always bool `json:"sync_always,omitempty"`
	// Pages says that the servers read pages: workers of this version write none for servers of an earlier one. Those
	// do not know the field, and write a horizon without it.
	Pages bool `json:"pages,omitempty"`

	revision uint64 // of the entry; 0: there is none
}

// of is the last sequence of a shard when the broker started.
func (h *horizon) of(shard uint8) uint64 {
	switch {
	case shard == 0:
		return h.Sequence
	case int(shard) <= len(h.More):
		return h.More[shard-1]
	default:
		return 0
	}
}

// fresh reports whether nobody can have started the task of a delivery.
func (b *Broker) fresh(d *Delivery) bool {
	e := d.Envelope
	if e.Epoch != 0 || e.ID.Sequence() != d.Seq {
		return false
	}
	if failpoint.Broken(failpoint.AllFresh) {
		return true
	}
	if d.times != 1 {
		return false
	}
	if failpoint.Broken(failpoint.NoHorizon) {
		return true
	}
	h := b.horizon.Load()
	return h != nil && d.Seq > h.of(d.Lane.Shard) && h.Server == b.conn.nc.ConnectedServerId()
}

// SaveHorizon says that the broker to which this process is connected has started.
// unclean says that the one before was killed, or may have been: then what there is
// may have been handed out. always says that it syncs every write.
func (b *Broker) SaveHorizon(ctx context.Context, unclean, always bool) error {
	h, err := b.loadHorizon(ctx)
	if err != nil {
		return err
	}
	h.Always, h.Pages = always, true
	if h.Server = b.conn.nc.ConnectedServerId(); unclean {
		if err := b.lookForShards(ctx); err != nil { // all that there are
			return err
		}
		h.More = nil
		err := b.eachShard(func(shard uint8) error {
			end, err := b.streamEnd(ctx, b.tasks(shard))
			switch {
			case err != nil:
				return err
			case shard == 0:
				h.Sequence = end - 1
			default:
				h.More = append(h.More, end-1)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return b.writeHorizon(ctx, &h, anyRevision)
}

func (b *Broker) writeHorizon(ctx context.Context, h *horizon, expect uint64) error {
	data, err := json.Marshal(h)
	if err != nil {
		return fmt.Errorf("encode horizon: %w", err)
	}
	if h.revision, err = b.do(ctx, write{subject: b.configKey(horizonKey), data: data, expect: expect}); err != nil {
		return fmt.Errorf("save horizon: %w", err)
	}
	b.keepHorizon(h)
	return nil
}

// SavePages says that the servers read pages, where no server has the broker in it. Workers that are connected follow it
// when they connect again. Errors: pelton.ErrUnavailable.
func (b *Broker) SavePages(ctx context.Context) error {
	for {
		h, err := b.loadHorizon(ctx)
		if err != nil || h.Pages {
			return err
		}
		h.Pages = true
		if err := b.writeHorizon(ctx, &h, h.revision); !errors.Is(err, ErrStale) {
			return err
		}
	}
}

// pages reports whether successes may go into pages.
func (b *Broker) pages() bool {
	h := b.horizon.Load()
	return h != nil && h.Pages
}

// keepHorizon keeps what was read or written, unless a later one of the broker that this process is
// connected to is known: a look that began before SaveHorizon must not undo it.
func (b *Broker) keepHorizon(h *horizon) {
	for {
		known := b.horizon.Load()
		if known != nil && known.revision > h.revision && known.Server == b.conn.nc.ConnectedServerId() {
			return
		}
		if b.horizon.CompareAndSwap(known, h) {
			return
		}
	}
}

// loadHorizon gives an empty one if there is none.
func (b *Broker) loadHorizon(ctx context.Context) (h horizon, err error) {
	msg, err := b.get(ctx, bucketStream(b.names.config()), getRequest{LastFor: b.configKey(horizonKey)}, false)
	switch {
	case errors.Is(err, pelton.ErrNotFound) || err == nil && msg.deleted():
		return horizon{}, nil
	case err != nil:
		return horizon{}, fmt.Errorf("read horizon: %w", err)
	}
	if err := json.Unmarshal(msg.data, &h); err != nil {
		return horizon{}, fmt.Errorf("read horizon: %w: %w", ErrMalformed, err)
	}
	h.revision = msg.seq
	return h, nil
}

const (
	// Between two looks for the horizon of a broker that has just started: 20 ms, twice
	// as long each time, up to 5 s. Then it is over for a broker that has none.
	horizonLook    = 20 * time.Millisecond
	maxHorizonLook = 5 * time.Second
)

// followHorizon keeps the horizon of the broker that this process is connected
// to, and how many copies there are, until ctx ends.
func (b *Broker) followHorizon(ctx context.Context) {
	reconnected, stop := b.conn.reconnected()
	defer stop()
	timer := time.NewTimer(0)
	defer timer.Stop()
	wait := horizonLook
	for {
		select {
		case <-reconnected:
			b.lookForReplicas(ctx)
			wait = horizonLook
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		if found := b.lookForHorizon(ctx); found == horizonRight || found == horizonNone && wait == maxHorizonLook {
			timer.Stop()
			continue
		}
		timer.Reset(wait)
		wait = min(2*wait, maxHorizonLook)
	}
}

// horizonFound is what a look for the horizon found.
type horizonFound int

const (
	horizonOther horizonFound = iota // that of a broker of before, or nothing that could be read
	horizonNone                      // taken for that of a broker elsewhere: everything is beyond it
	horizonRight                     // that of the broker
)

// lookForHorizon keeps the horizon that there is.
func (b *Broker) lookForHorizon(ctx context.Context) horizonFound {
	server := b.conn.nc.ConnectedServerId() // before the read: it must not be of a later one
	h, err := b.loadHorizon(ctx)
	if err != nil {
		b.cfg.Logger.Debug("horizon not read", "error", err)
		return horizonOther
	}
	found := horizonRight
	if h.Server == "" {
		h.Server, found = server, horizonNone
	}
	b.keepHorizon(&h)
	if server == "" || h.Server != server {
		return horizonOther
	}
	return found
}
