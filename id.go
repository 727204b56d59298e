package pelton

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/google/uuid"
)

// ID names a task. It is a UUID of version 8 (RFC 9562, section 5.8) that sorts
// by creation time, to the millisecond:
//
//	48 bits  unix time in milliseconds, big endian
//	 4 bits  version (8)
//	12 bits  random
//	 2 bits  variant (binary 10)
//	 8 bits  shard
//	 1 bit   1: minted, 0: located
//	53 bits  minted: random; located: the task's stream sequence
//
// A minted id is known before anything is written. A located one is complete when
// the broker has stored the task: it says where, so that the task can be found
// without a record. The shard is part of every
// id, so a lookup knows its bucket whatever the number of shards becomes. An id
// is an address, not a secret.
type ID uuid.UUID

const (
	idMintedBit  = 1 << 53
	idTailMask   = idMintedBit - 1
	idVersion    = 8
	idMaxUnixMil = 1<<48 - 1
	idTextLen    = 36
)

// NewID mints an id for a task created at t that lives on shard. Times outside
// the years 1970 to 10889 are clamped to that range. It panics only where
// crypto/rand does: when the operating system has no randomness.
func NewID(t time.Time, shard uint8) ID {
	var random [9]byte
	rand.Read(random[:]) // never returns an error
	return mintID(t, shard, random)
}

func mintID(t time.Time, shard uint8, random [9]byte) ID {
	ms := min(max(t.UnixMilli(), 0), idMaxUnixMil)

	var id ID
	binary.BigEndian.PutUint64(id[:8], uint64(ms)<<16|idVersion<<12|uint64(random[0]&0x0f)<<8|uint64(random[1]))
	tail := binary.BigEndian.Uint64(random[1:]) & idTailMask
	binary.BigEndian.PutUint64(id[8:], 0b10<<62|uint64(shard)<<54|idMintedBit|tail)
	return id
}

// TickID is the id of the task of a schedule's tick: minted, but not drawn. Its time
// is the tick's nominal time, to the millisecond, and its random bits are taken from a hash of the other
// three, so that everybody who enqueues the task of a tick does so under one id.
// Incarnation tells a schedule from those that had its name before it.
func TickID(schedule, incarnation string, tick time.Time, shard uint8) ID {
	name := fmt.Sprintf("%d:%s%d:%s%d", len(schedule), schedule, len(incarnation), incarnation, tick.UnixMilli())
	sum := sha256.Sum256([]byte(name))
	return mintID(tick, shard, [9]byte(sum[:9]))
}

// ParseID reads the 36-character form of an id. Anything else, and any UUID
// that is not of version 8 and the RFC 9562 variant, is ErrInvalid.
func ParseID(s string) (ID, error) {
	if len(s) != idTextLen {
		return ID{}, fmt.Errorf("%w: id %q is not a 36-character UUID", ErrInvalid, clip(s, 64))
	}
	u, err := uuid.Parse(s)
	if err != nil {
		return ID{}, fmt.Errorf("%w: id %q is not a UUID", ErrInvalid, clip(s, 64))
	}
	if !isID(u) {
		return ID{}, fmt.Errorf("%w: id %q is not a UUID of version 8", ErrInvalid, s)
	}
	return ID(u), nil
}

func isID(u uuid.UUID) bool { return u.Version() == idVersion && u.Variant() == uuid.RFC4122 }

// String is the lower-case 36-character form.
func (id ID) String() string { return uuid.UUID(id).String() }

// IsZero reports whether id was never set.
func (id ID) IsZero() bool { return id == ID{} }

// Time is when the task was created, to the millisecond.
func (id ID) Time() time.Time {
	return time.UnixMilli(int64(binary.BigEndian.Uint64(id[:8]) >> 16)).UTC()
}

// Shard is the shard that holds the task.
func (id ID) Shard() uint8 {
	return uint8(binary.BigEndian.Uint64(id[8:]) >> 54) // the conversion cuts off the variant
}

// Minted reports whether the id was drawn before anything was written.
func (id ID) Minted() bool {
	return binary.BigEndian.Uint64(id[8:])&idMintedBit != 0
}

// Seed is what is known of a located id before the task is stored: all but the
// sequence, which is 0.
func (id ID) Seed() ID {
	binary.BigEndian.PutUint64(id[8:], binary.BigEndian.Uint64(id[8:])&^uint64(idMintedBit|idTailMask))
	return id
}

// At is the located id of a task with this seed that was stored under a stream
// sequence, of at most 53 bits.
func (id ID) At(seq uint64) ID {
	id = id.Seed()
	binary.BigEndian.PutUint64(id[8:], binary.BigEndian.Uint64(id[8:])|seq&idTailMask)
	return id
}

// Sequence is the stream sequence under which the task was stored; 0 for minted
// ids and for seeds.
func (id ID) Sequence() uint64 {
	if id.Minted() {
		return 0
	}
	return binary.BigEndian.Uint64(id[8:]) & idTailMask
}

// MarshalText is the 36-character form.
func (id ID) MarshalText() ([]byte, error) { return id.AppendText(make([]byte, 0, idTextLen)) }

// AppendText appends the 36-character form to b. It never returns an error.
func (id ID) AppendText(b []byte) ([]byte, error) {
	b = append(hex.AppendEncode(b, id[:4]), '-')
	b = append(hex.AppendEncode(b, id[4:6]), '-')
	b = append(hex.AppendEncode(b, id[6:8]), '-')
	b = append(hex.AppendEncode(b, id[8:10]), '-')
	return hex.AppendEncode(b, id[10:]), nil
}

// UnmarshalText is ParseID.
func (id *ID) UnmarshalText(text []byte) error {
	if len(text) == idTextLen {
		if u, err := uuid.ParseBytes(text); err == nil && isID(u) {
			*id = ID(u)
			return nil
		}
	}
	parsed, err := ParseID(string(text)) // says what is wrong
	if err != nil {
		return err
	}
	*id = parsed
	return nil
}
