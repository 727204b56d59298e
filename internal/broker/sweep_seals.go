package broker

import (
	"context"
	"errors"
	"time"

	"github.com/peltonq/pelton"
)

// sealAge is how long a seal is kept at least. Once no message of its segment is in a lane, nobody starts one of its
// tasks without a look any more; those who had a message in their hands before that have their outcome
// written, or are fenced, a lease later.
const sealAge = 24 * time.Hour

// seal deletes a seal that nobody needs any more: no message of its segment is in a lane, or can come to
// one, because what is put back has a new sequence.
func (s *Sweeper) seal(ctx context.Context, seg segment, msg *stored) error {
	if s.now().Sub(msg.time) < sealAge {
		return nil
	}
	next, err := s.b.get(ctx, s.b.tasks(seg.shard), getRequest{Seq: max(seg.from(), 1), NextFor: s.b.readyPrefix(seg.shard) + ">"}, false)
	switch {
	case err == nil && next.seq < seg.to():
		return nil
	case err != nil && !errors.Is(err, pelton.ErrNotFound):
		return err
	}
	_, err = s.b.do(ctx, write{subject: s.b.sealSubject(seg), expect: msg.seq, ttl: markerTTL, header: deleteMarker()})
	if errors.Is(err, ErrStale) {
		return nil // somebody has just sealed it again
	}
	return err
}
