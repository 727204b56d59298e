package broker

import (
	"time"

	"github.com/peltonq/pelton"
)

// readMeta reads the line of an envelope as encoding/json does; see codec_encode.go.
// Fields that this version does not know cost the fast way, not the task. The error is
// ErrMalformed or ErrNewer.
func readMeta(line []byte, m *Meta) (err error) {
	c := cursor{line: line}
	if !c.meta(m) {
		*m, err = unmarshalled[Meta](line)
	}
	return err
}

// readRecordMeta is readMeta for a record.
func readRecordMeta(line []byte, m *recordMeta) (err error) {
	c := cursor{line: line}
	if !c.record(m) {
		*m, err = unmarshalled[recordMeta](line)
	}
	return err
}

// unmarshalled has its value apart, so that only here it is on the heap.
func unmarshalled[T any](line []byte) (T, error) {
	var meta T
	err := unmarshalLine(line, &meta)
	return meta, err
}

// meta reads the whole line into m, which is zero. If it is false, m is to be thrown away.
func (c *cursor) meta(m *Meta) bool {
	for more := c.open('{', '}'); more; more = c.more('}') {
		if !c.metaField(c.key(), m) {
			c.foreign = true
		}
	}
	return c.done()
}

// record is meta for a record's line.
func (c *cursor) record(m *recordMeta) bool {
	for more := c.open('{', '}'); more; more = c.more('}') {
		if key := c.key(); !c.metaField(key, &m.Meta) && !c.recordField(key, m) {
			c.foreign = true
		}
	}
	return c.done()
}

// metaField reads the value of a field of Meta; it is false if key is none.
func (c *cursor) metaField(key []byte, m *Meta) bool {
	switch string(key) {
	case "v":
		c.once(0)
		m.Version = c.integer()
	case "id":
		c.once(1)
		c.id(&m.ID)
	case "kind":
		c.once(2)
		m.Kind = c.text()
	case "queue":
		c.once(3)
		m.Queue = c.queue()
	case "priority":
		c.once(4)
		m.Priority = oneOf(c.bytes(), pelton.Priorities())
	case "epoch":
		c.once(5)
		m.Epoch = c.count32()
	case "max_attempts":
		c.once(6)
		m.MaxAttempts = c.integer()
	case "timeout":
		c.once(7)
		m.Timeout = time.Duration(c.integer64())
	case "retention":
		c.once(8)
		m.Retention = time.Duration(c.integer64())
	case "backoff":
		c.once(9)
		m.Backoff = rare[pelton.Backoff](c)
	case "created_at":
		c.once(10)
		m.CreatedAt = c.time()
	case "expires_at":
		c.once(11)
		m.ExpiresAt = c.time()
	case "rate_key":
		c.once(12)
		m.RateKey = c.text()
	case "labels":
		c.once(13)
		m.Labels = c.labels()
	case "concurrency_key":
		c.once(14)
		m.ConcurrencyKey = c.text()
	case "schedule":
		c.once(15)
		m.Schedule = rare[*pelton.TaskSchedule](c)
	case "recorded":
		c.once(44)
		m.Recorded = c.count()
	default:
		return false
	}
	return true
}

// recordField is metaField for what recordMeta has besides Meta.
func (c *cursor) recordField(key []byte, m *recordMeta) bool {
	switch string(key) {
	case "state":
		c.once(16)
		m.State = oneOf(c.bytes(), pelton.States())
	case "payload_len":
		c.once(17)
		m.PayloadLen = c.integer()
	case "result_len":
		c.once(18)
		m.ResultLen = c.integer()
	case "run_at":
		c.once(19)
		m.RunAt = c.time()
	case "started_at":
		c.once(20)
		m.StartedAt = c.time()
	case "finished_at":
		c.once(21)
		m.FinishedAt = c.time()
	case "attempt":
		c.once(22)
		m.Attempt = c.integer()
	case "ended":
		c.once(23)
		m.Ended = c.integer()
	case "crashes":
		c.once(24)
		m.Crashes = c.integer()
	case "owner":
		c.once(25)
		m.Owner = c.text()
	case "carrier":
		c.once(26)
		m.Carrier = c.count()
	case "released":
		c.once(27)
		m.Released = c.isTrue()
	case "letter_dropped":
		c.once(28)
		m.Dropped = c.isTrue()
	case "deferrals":
		c.once(29)
		m.Deferrals = c.integer()
	case "deferred_at":
		c.once(30)
		m.DeferredAt = c.time()
	case "limited":
		c.once(31)
		m.Limited = rare[*Limited](c)
	case "progress":
		c.once(32)
		m.Progress = rare[*pelton.Progress](c)
	case "errors":
		c.once(33)
		m.Errors = rare[[]pelton.Failure](c)
	default:
		return c.lineField(key, m)
	}
	return true
}

// lineField is metaField for what recordMeta says of keys and lines.
func (c *cursor) lineField(key []byte, m *recordMeta) bool {
	switch string(key) {
	case "unique":
		c.once(34)
		m.Unique = rare[*pelton.Unique](c)
	case "key_revision":
		c.once(35)
		m.KeyRevision = c.count()
	case "key_spent":
		c.once(36)
		m.KeySpent = c.isTrue()
	case "replaced":
		c.once(37)
		m.Replaced = c.isTrue()
	case "keep_until":
		c.once(38)
		m.KeepUntil = c.time()
	case "places":
		c.once(39)
		m.Places = c.places()
	case "in_line":
		c.once(40)
		m.InLine = c.isTrue()
	case "former":
		c.once(41)
		m.Former = c.count()
	case "lone":
		c.once(45)
		m.Lone = c.isTrue()
	default:
		return false
	}
	return true
}

func (c *cursor) places() []Place {
	var places []Place
	for more := c.open('[', ']'); more; more = c.more(']') {
		var p Place
		c.again(42, 43)
		for more := c.open('{', '}'); more; more = c.more('}') {
			switch string(c.key()) {
			case "of":
				c.once(42)
				p.Of = oneOf(c.bytes(), []LineOf{OfKey, OfKind})
			case "epoch":
				c.once(43)
				p.Epoch = c.count32()
			default:
				c.foreign = true
			}
		}
		places = append(places, p)
	}
	c.foreign = c.foreign || places == nil // encoding/json tells none from no field
	return places
}
