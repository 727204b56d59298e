package broker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"golang.org/x/sync/singleflight"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/failpoint"
)

// seenSegments bounds the sealed segments that a process remembers, of 100 bytes, and 16 for each task in
// a page.
const seenSegments = 1024

// seals is what a process knows of sealed segments. A segment that it does not know may be sealed, too: then the broker
// refuses its pages.
type seals struct {
	mu      sync.Mutex
	known   *simplelru.LRU[segment, *sealed]
	waiting map[segment][]outcomeWrite // until it is read what is in the pages
	lost    int                        // how often the connection was
	sealing singleflight.Group         // by segment
}

// sealed is a segment to which no more pages come. Without read it was not read which there are.
type sealed struct {
	read  bool
	tasks []pelton.ID // in pages
}

func (s *sealed) has(id pelton.ID) bool {
	return slices.Contains(s.tasks, id) && !failpoint.Broken(failpoint.SealBlind)
}

func (s *seals) open() error {
	known, err := simplelru.NewLRU[segment, *sealed](seenSegments, nil)
	if err != nil {
		return fmt.Errorf("remember segments: %w", err)
	}
	s.known, s.waiting = known, map[segment][]outcomeWrite{}
	return nil
}

// of is what is known of a segment, nil if nothing is.
func (s *seals) of(seg segment) *sealed {
	s.mu.Lock()
	defer s.mu.Unlock()
	found, _ := s.known.Get(seg)
	return found
}

// losses counts the connections that were lost.
func (s *seals) losses() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lost
}

// learn remembers what was found out since so many connections were lost, unless that is one less than now.
func (s *seals) learn(seg segment, what *sealed, lost int) (still bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lost != lost {
		return false
	}
	if old, known := s.known.Get(seg); !known || !old.read {
		s.known.Add(seg, what)
	}
	return true
}

// forget forgets all of them: a broker that lost what it had not synced may have lost a seal.
func (s *seals) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lost++
	s.known.Purge()
}

// allow makes sure that a record may be created of a plain task that has none: its segment is sealed, and it is in no
// page. ErrStale means that it is in one. Errors: pelton.ErrUnavailable, pelton.ErrUnknownOutcome.
func (b *Broker) allow(ctx context.Context, r *Record) error {
	if r.ID.Sequence() == 0 || r.Revision != 0 && !r.Paged || failpoint.Broken(failpoint.NoSeal) {
		return nil
	}
	s, err := b.seal(ctx, segmentOf(r.ID))
	if err != nil {
		return err
	}
	if !r.Paged && s.has(r.ID) {
		return ErrStale
	}
	return nil
}

// saveSealed writes outcomes of a segment's tasks as records, once it is sealed. It does not block.
func (b *Broker) saveSealed(seg segment, outcomes ...outcomeWrite) {
	s := &b.seals
	s.mu.Lock()
	_, others := s.waiting[seg]
	s.waiting[seg] = append(s.waiting[seg], outcomes...)
	s.mu.Unlock()
	if !others {
		go b.sealAndSave(seg)
	}
}

func (b *Broker) sealAndSave(seg segment) {
	ctx := b.groups.ctx // each call ends in time
	sealed, failed := b.seal(ctx, seg)
	b.seals.mu.Lock()
	outcomes := b.seals.waiting[seg]
	delete(b.seals.waiting, seg)
	b.seals.mu.Unlock()
	for _, o := range outcomes {
		err := failed
		if err == nil && sealed.has(o.r.ID) {
			err = ErrStale
		}
		if err == nil {
			err = b.saveAlone(ctx, o.r, o.done)
		}
		if err != nil {
			o.done(err)
		}
	}
}

// seal seals a segment and reads its pages, unless that is known.
func (b *Broker) seal(ctx context.Context, seg segment) (*sealed, error) {
	if s := b.seals.of(seg); s != nil && s.read {
		return s, nil
	}
	key := strconv.Itoa(int(seg.shard)) + "." + strconv.FormatUint(seg.n, 10)
	got, err, _ := b.seals.sealing.Do(key, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout) // others wait for it, too
		defer cancel()
		lost := b.seals.losses()
		if _, err := b.do(ctx, write{subject: b.sealSubject(seg), data: []byte(`{"v":1}`), expect: anyRevision}); err != nil {
			return nil, err
		}
		failpoint.At(failpoint.SegmentSealed)
		s, err := b.readSealed(ctx, seg)
		if err == nil && !b.seals.learn(seg, s, lost) {
			err = fmt.Errorf("%w: the connection was lost meanwhile", pelton.ErrUnavailable)
		}
		return s, err
	})
	if err != nil {
		return nil, fmt.Errorf("seal segment %d: %w", seg.n, err)
	}
	return got.(*sealed), nil //nolint:forcetypeassert // see above
}

// readSealed reads which tasks are in the pages of a segment that is sealed.
func (b *Broker) readSealed(ctx context.Context, seg segment) (*sealed, error) {
	pages, err := b.lastOfEach(ctx, seg, false, b.sealSubject(seg), b.pagesOf(seg))
	if err != nil {
		return nil, err
	}
	s := &sealed{read: true}
	for _, msg := range pages {
		if msg.subject == b.sealSubject(seg) || msg.deleted() {
			continue
		}
		p, err := decodePage(seg, msg)
		for i := 0; err == nil && i < len(p.Tasks); i++ {
			var id pelton.ID
			if id, err = p.id(i); err == nil {
				s.tasks = append(s.tasks, id)
			}
		}
		if err != nil && !errors.Is(err, ErrMalformed) { // that is of no task
			return nil, err
		}
	}
	return s, nil
}
