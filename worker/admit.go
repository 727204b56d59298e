package worker

import (
	"time"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/broker"
)

// admission is what the record says about a delivery.
type admission int

const (
	admitStart     admission = iota + 1 // run it
	admitTakeover                       // run it in place of an owner that went silent
	admitAdopt                          // it runs here: go on under the new delivery
	admitDrop                           // it is over, or another message carries it: ack
	admitRepublish                      // it was put back: make sure it was, then ack
	admitBury                           // it failed: make sure there is a dead letter, then ack
	admitExpire                         // its time is over
	admitDefer                          // not for this worker: later
	admitUnknown                        // not for any worker, for too long: fail
	admitLine                           // it must wait for its turn among those of its kind
	admitAlone                          // another worker runs it and has its turn
)

// unknownKindFor is how long a task waits for a worker that knows its kind.
const unknownKindFor = 24 * time.Hour

// admit decides about a delivery from the record, which alone knows: the broker
// hands out duplicates, and accepts acknowledgements from anybody.
//
//	r        the record, read from the leader
//	epoch    of the delivered envelope
//	carrier  stream sequence of the delivered message
//	self     this worker's id; here: it runs the task now, unfenced
//	known    the mux has a handler for the kind
func admit(r *broker.Record, epoch uint32, carrier uint64, self string, here, known bool, now time.Time) admission {
	switch {
	case here && r.Revision == 0 && r.State == pelton.Queued:
		return admitAdopt // it runs here, and its record was not written yet
	case r.State == pelton.Failed:
		return admitBury
	case r.State.Terminal():
		return admitDrop
	case r.Epoch > epoch && r.State == pelton.Running:
		return admitDrop // the successor was published: somebody runs it
	case r.Epoch > epoch:
		return admitRepublish
	case r.State == pelton.Running && r.Epoch == epoch:
		switch {
		case r.Carrier != carrier:
			return admitDrop
		case r.Owner == self && here:
			return admitAdopt
		case known:
			return admitTakeover
		default:
			return admitDefer
		}
	case !r.ExpiresAt.IsZero() && !r.ExpiresAt.After(now):
		return admitExpire
	case known:
		return admitStart
	case r.Deferrals > 0 && now.Sub(r.DeferredAt) >= unknownKindFor:
		return admitUnknown
	default:
		return admitDefer
	}
}

// deferral is how long a task of an unknown kind is put off for the n-th time in
// a row, n from 0: 1 s, doubling to 1 min.
func deferral(n int) time.Duration {
	if n >= 6 {
		return time.Minute
	}
	return time.Second << max(n, 0)
}
