package broker

import (
	"bytes"
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/peltonq/pelton"
)

// Metadata is JSON as encoding/json writes and reads it, byte for byte and value for
// value: join and split are the reference. But every enqueue, delivery and finish has
// a line of it, and most of what they took of a processor was reflection. So lineWriter
// and cursor do the usual by hand, and leave to encoding/json all that they are not
// made for: whole values that few tasks have, and whole lines that somebody else wrote.
//
// Against encoding/json, an envelope or record of the usual kind takes a third of the
// time to write, and to read a sixth. go-json-experiment/json, asked for the same form,
// halves the time to read and saves none to write; with code that mailru/easyjson
// generates, writing takes half the time and reading a little more than here, but it
// sorts no map, knows keys by their exact case alone, and would come with every import
// of Pelton.

// What a usual line takes but for its texts, and what a rare value takes, in bytes. A
// line that takes more is written all the same, at the price of a copy.
const (
	roomMeta   = 256
	roomRecord = roomMeta + 224
	roomRare   = 160
)

// lineWriter appends a line of metadata to out. Each method takes the key as it
// is written, with what stands before it. Once failed is set, out is nothing.
type lineWriter struct {
	out    []byte
	failed bool
}

// metaLine is the line of an envelope, in out, which it overwrites, with room for extra bytes. It is
// false where encoding/json has an error to tell.
func metaLine(out []byte, m *Meta, extra int) ([]byte, bool) {
	w := lineWriter{out: withRoom(out, roomMeta+m.room()+extra)}
	w.meta(m)
	w.out = append(w.out, '}', '\n')
	return w.out, !w.failed
}

// recordLine is metaLine for a record.
func recordLine(out []byte, m *recordMeta, extra int) ([]byte, bool) {
	w := lineWriter{out: withRoom(out, roomRecord+m.room()+extra)}
	w.meta(&m.Meta)
	w.record(m)
	w.out = append(w.out, '}', '\n')
	return w.out, !w.failed
}

// withRoom is out without what is in it, or a new slice if it is too small.
func withRoom(out []byte, n int) []byte {
	if cap(out) < n {
		return make([]byte, 0, n)
	}
	return out[:0]
}

// room is what the metadata's texts and rare values take.
func (m *Meta) room() int {
	n := len(m.Kind) + len(m.Queue) + len(m.RateKey) + len(m.ConcurrencyKey)
	for name, value := range m.Labels {
		n += len(name) + len(value) + len(`"":"",`)
	}
	if m.Backoff != (pelton.Backoff{}) {
		n += roomRare
	}
	if m.Schedule != nil {
		n += roomRare + len(m.Schedule.Name)
	}
	return n
}

func (m *recordMeta) room() int {
	n := m.Meta.room() + len(m.Owner) + roomRare/4*len(m.Places)
	for i := range m.Errors {
		n += roomRare + len(m.Errors[i].Message) + len(m.Errors[i].Stack)
	}
	if m.Limited != nil {
		n += roomRare * (1 + len(m.Limited.Passes))
	}
	if m.Progress != nil {
		n += roomRare + len(m.Progress.Message)
	}
	if m.Unique != nil {
		n += roomRare + len(m.Unique.Key)
	}
	return n
}

// meta writes the fields of Meta, in their order.
func (w *lineWriter) meta(m *Meta) {
	w.integer(`{"v":`, int64(m.Version))
	w.id(`,"id":`, m.ID)
	w.text(`,"kind":`, m.Kind)
	w.text(`,"queue":`, m.Queue)
	w.text(`,"priority":`, string(m.Priority))
	w.countUnlessZero(`,"epoch":`, uint64(m.Epoch))
	w.integerUnlessZero(`,"max_attempts":`, int64(m.MaxAttempts))
	w.integerUnlessZero(`,"timeout":`, int64(m.Timeout))
	w.integerUnlessZero(`,"retention":`, int64(m.Retention))
	if m.Backoff != (pelton.Backoff{}) {
		w.rare(`,"backoff":`, m.Backoff)
	}
	w.timeUnlessZero(`,"created_at":`, m.CreatedAt)
	w.timeUnlessZero(`,"expires_at":`, m.ExpiresAt)
	w.textUnlessEmpty(`,"rate_key":`, m.RateKey)
	if len(m.Labels) > 0 {
		w.labels(`,"labels":`, m.Labels)
	}
	w.textUnlessEmpty(`,"concurrency_key":`, m.ConcurrencyKey)
	if m.Schedule != nil {
		w.rare(`,"schedule":`, m.Schedule)
	}
	w.countUnlessZero(`,"recorded":`, m.Recorded)
}

// record writes the fields that recordMeta has besides those of Meta, in their order.
func (w *lineWriter) record(m *recordMeta) {
	w.text(`,"state":`, string(m.State))
	w.integerUnlessZero(`,"payload_len":`, int64(m.PayloadLen))
	w.integerUnlessZero(`,"result_len":`, int64(m.ResultLen))
	w.timeUnlessZero(`,"run_at":`, m.RunAt)
	w.timeUnlessZero(`,"started_at":`, m.StartedAt)
	w.timeUnlessZero(`,"finished_at":`, m.FinishedAt)
	w.integerUnlessZero(`,"attempt":`, int64(m.Attempt))
	w.integerUnlessZero(`,"ended":`, int64(m.Ended))
	w.integerUnlessZero(`,"crashes":`, int64(m.Crashes))
	w.textUnlessEmpty(`,"owner":`, m.Owner)
	w.countUnlessZero(`,"carrier":`, m.Carrier)
	w.ifTrue(`,"released":true`, m.Released)
	w.ifTrue(`,"letter_dropped":true`, m.Dropped)
	w.integerUnlessZero(`,"deferrals":`, int64(m.Deferrals))
	w.timeUnlessZero(`,"deferred_at":`, m.DeferredAt)
	if m.Limited != nil {
		w.rare(`,"limited":`, m.Limited)
	}
	if m.Progress != nil {
		w.rare(`,"progress":`, m.Progress)
	}
	if len(m.Errors) > 0 {
		w.rare(`,"errors":`, m.Errors)
	}
	if m.Unique != nil {
		w.rare(`,"unique":`, m.Unique)
	}
	w.countUnlessZero(`,"key_revision":`, m.KeyRevision)
	w.ifTrue(`,"key_spent":true`, m.KeySpent)
	w.ifTrue(`,"replaced":true`, m.Replaced)
	w.timeUnlessZero(`,"keep_until":`, m.KeepUntil)
	if len(m.Places) > 0 {
		w.places(`,"places":`, m.Places)
	}
	w.ifTrue(`,"in_line":true`, m.InLine)
	w.countUnlessZero(`,"former":`, m.Former)
	w.ifTrue(`,"lone":true`, m.Lone)
}

func (w *lineWriter) integer(key string, n int64) {
	w.out = strconv.AppendInt(append(w.out, key...), n, 10)
}

func (w *lineWriter) integerUnlessZero(key string, n int64) {
	if n != 0 {
		w.integer(key, n)
	}
}

func (w *lineWriter) countUnlessZero(key string, n uint64) {
	if n != 0 {
		w.out = strconv.AppendUint(append(w.out, key...), n, 10)
	}
}

func (w *lineWriter) ifTrue(field string, is bool) {
	if is {
		w.out = append(w.out, field...)
	}
}

func (w *lineWriter) id(key string, id pelton.ID) {
	w.out = append(append(w.out, key...), '"')
	w.out, _ = id.AppendText(w.out) // never returns an error
	w.out = append(w.out, '"')
}

func (w *lineWriter) text(key, s string) {
	if !plain(s) {
		w.rare(key, s)
		return
	}
	w.out = append(append(w.out, key...), '"')
	w.out = append(append(w.out, s...), '"')
}

func (w *lineWriter) textUnlessEmpty(key, s string) {
	if s != "" {
		w.text(key, s)
	}
}

// time fails for what RFC 3339 cannot write.
func (w *lineWriter) time(key string, t time.Time) {
	out, err := t.AppendText(append(append(w.out, key...), '"'))
	if err != nil {
		w.failed = true
		return
	}
	w.out = append(out, '"')
}

func (w *lineWriter) timeUnlessZero(key string, t time.Time) {
	if !t.IsZero() {
		w.time(key, t)
	}
}

// labels are sorted by name, so that the same task is the same bytes.
func (w *lineWriter) labels(key string, labels map[string]string) {
	var room [32]string // of as many as a task may have
	names := slices.AppendSeq(room[:0], maps.Keys(labels))
	slices.Sort(names)
	before := "{"
	w.out = append(w.out, key...)
	for _, name := range names {
		w.text(before, name)
		w.text(":", labels[name])
		before = ","
	}
	w.out = append(w.out, '}')
}

func (w *lineWriter) places(key string, places []Place) {
	w.out = append(w.out, key...)
	before := `[{"of":`
	for _, p := range places {
		w.text(before, string(p.Of))
		w.countUnlessZero(`,"epoch":`, uint64(p.Epoch))
		w.out = append(w.out, '}')
		before = `,{"of":`
	}
	w.out = append(w.out, ']')
}

// rare writes what is not worth code of its own.
func (w *lineWriter) rare(key string, value any) {
	out := bytes.NewBuffer(append(w.out, key...))
	if err := newLineEncoder(out).Encode(value); err != nil {
		w.failed = true
		return
	}
	w.out = bytes.TrimSuffix(out.Bytes(), []byte{'\n'})
}

// newLineEncoder writes lines: it never writes a newline within a value, but one
// behind each.
func newLineEncoder(out *bytes.Buffer) *json.Encoder {
	encoder := json.NewEncoder(out)
	encoder.SetEscapeHTML(false) // nobody shows this in a page, and < would take six bytes
	return encoder
}

// plain reports whether s takes no escapes in JSON. It may say no to what takes none.
func plain(s string) bool {
	for i := range len(s) {
		switch c := s[i]; {
		case c >= utf8.RuneSelf:
			return plainRunes(s[i:])
		case c < ' ' || c == '"' || c == '\\':
			return false
		}
	}
	return true
}

func plainRunes(s string) bool {
	for _, r := range s {
		switch {
		case r < ' ', r == '"', r == '\\', r == utf8.RuneError, r == '\u2028', r == '\u2029':
			return false
		}
	}
	return true
}
