package broker

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/peltonq/pelton"
)

// encoding/json is the reference: join, which writes by it alone, and referenceOf.

// referenceOf is the line as encoding/json reads it.
func referenceOf[T any](line []byte) (*T, error) {
	var m T
	if err := unmarshalLine(line, &m); err != nil {
		return nil, err
	}
	return &m, nil
}

// sameRead compares what was read of a line with the reference, and reports whether
// that did without encoding/json. T is what the line is of.
func sameRead[T any](t errorer, line []byte, quick func(*cursor, *T) bool, read func([]byte, *T) error) bool {
	t.Helper()
	want, wantErr := referenceOf[T](line)
	var got T
	c := cursor{line: line}
	done := quick(&c, &got)
	switch {
	case done && wantErr != nil:
		t.Fatalf("%q was read, but encoding/json says %v", line, wantErr)
	case done && !reflect.DeepEqual(&got, want):
		t.Fatalf("%q reads %+v, not %+v", line, got, *want)
	}
	var whole T
	switch err := read(bytes.Clone(line), &whole); {
	case fmt.Sprint(err) != fmt.Sprint(wantErr) || errors.Is(err, ErrNewer) != errors.Is(wantErr, ErrNewer) || errors.Is(err, ErrMalformed) != errors.Is(wantErr, ErrMalformed):
		t.Fatalf("%q reads with error %v, not %v", line, err, wantErr)
	case err == nil && !reflect.DeepEqual(&whole, want):
		t.Fatalf("%q reads %+v, not %+v", line, whole, *want)
	}
	return done
}

type errorer interface {
	Helper()
	Fatalf(format string, args ...any)
}

func sameEnvelopeLine(t errorer, line []byte) bool {
	t.Helper()
	return sameRead(t, line, (*cursor).meta, readMeta)
}

func sameRecordLine(t errorer, line []byte) bool {
	t.Helper()
	return sameRead(t, line, (*cursor).record, readRecordMeta)
}

// sameWritten compares what was written with the reference, which is meta's.
func sameWritten(t errorer, meta any, line []byte, ok bool) {
	t.Helper()
	want, err := join(meta, 0)
	if ok != (err == nil) {
		t.Fatalf("%+v was written: %t, but encoding/json says %v", meta, ok, err)
	}
	if ok && !bytes.Equal(line, want) {
		t.Fatalf("written:\n%s\nencoding/json:\n%s", line, want)
	}
}

// maybe is a value of gen, or zero: absent.
func maybe[T any](t *rapid.T, gen *rapid.Generator[T], name string) T {
	if rapid.Bool().Draw(t, name+"?") {
		return gen.Draw(t, name)
	}
	return *new(T)
}

// texts are what strings may be: easy takes no escapes.
type texts struct{ easy bool }

func (x texts) gen() *rapid.Generator[string] {
	easy := rapid.OneOf(rapid.StringMatching(`[ !#-Z\x5d-~]{0,20}`), rapid.SampledFrom([]string{"é", "日本", "\U0001F680 <&>", "\x7f"}))
	if x.easy {
		return easy
	}
	odd := []string{`"`, `\`, "\n", "\x00", "\x1f", "<", "\u2028", "\u2029", "\ufffd", "\xff", "\xed\xa0\x80", "é\xc3", "a"}
	return rapid.OneOf(easy, rapid.String(), rapid.Custom(func(t *rapid.T) string {
		return strings.Join(rapid.SliceOfN(rapid.SampledFrom(odd), 0, 5).Draw(t, "odd"), "")
	}))
}

// times that RFC 3339 can write are years 0 to 9999 and offsets below a day.
func (x texts) times() *rapid.Generator[time.Time] {
	zoned := rapid.Custom(func(t *rapid.T) time.Time {
		return timeGen.Draw(t, "time").Add(-24 * time.Hour).In(time.FixedZone("", rapid.IntRange(-86399/60, 86399/60).Draw(t, "minutes")*60))
	})
	if x.easy {
		return rapid.OneOf(timeGen, zoned)
	}
	return rapid.OneOf(timeGen, zoned, rapid.SampledFrom([]time.Time{
		time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(-1, 1, 1, 0, 0, 0, 0, time.UTC),
		time.Date(2026, 1, 1, 0, 0, 0, 0, time.FixedZone("", 25*3600)), time.Date(2026, 1, 1, 0, 0, 0, 0, time.FixedZone("", 61)),
	}))
}

func (x texts) meta(t *rapid.T) Meta {
	text, at := x.gen(), x.times()
	m := metaGen.Draw(t, "meta")
	m.Version = rapid.IntRange(-1, 3).Draw(t, "v")
	m.Kind, m.Queue = text.Draw(t, "kind"), rapid.OneOf(text, rapid.Just(pelton.DefaultQueue)).Draw(t, "queue")
	m.Priority = pelton.Priority(rapid.OneOf(text, rapid.SampledFrom([]string{"critical", "high", "normal", "low"})).Draw(t, "priority"))
	m.Epoch, m.CreatedAt, m.ExpiresAt = maybe(t, rapid.Uint32(), "epoch"), maybe(t, at, "created at"), maybe(t, at, "expires")
	m.Backoff = pelton.Backoff{Initial: time.Duration(maybe(t, rapid.Int64Range(1, 1e15), "initial")), Factor: maybe(t, rapid.Float64(), "factor")}
	m.RateKey, m.ConcurrencyKey = text.Draw(t, "rate key"), text.Draw(t, "concurrency key")
	m.Labels = rapid.MapOfN(text, text, 0, 40).Draw(t, "labels")
	if len(m.Labels) == 0 {
		m.Labels = nil
	}
	if rapid.Bool().Draw(t, "scheduled") {
		m.Schedule = &pelton.TaskSchedule{Name: text.Draw(t, "schedule"), Tick: at.Draw(t, "tick"), Manual: rapid.Bool().Draw(t, "manual")}
	}
	return m
}

func (x texts) record(t *rapid.T) recordMeta {
	text, at, n, count := x.gen(), x.times(), rapid.Int(), rapid.Uint64()
	flag := rapid.Bool()
	m := recordMeta{
		Meta: x.meta(t), State: pelton.State(rapid.OneOf(text, rapid.SampledFrom([]string{"queued", "succeeded"})).Draw(t, "state")),
		PayloadLen: maybe(t, n, "payload"), ResultLen: maybe(t, n, "result"), RunAt: maybe(t, at, "run at"), StartedAt: maybe(t, at, "started"),
		FinishedAt: maybe(t, at, "finished"), Attempt: maybe(t, n, "attempt"), Ended: maybe(t, n, "ended"), Crashes: maybe(t, n, "crashes"),
		Owner: text.Draw(t, "owner"), Carrier: maybe(t, count, "carrier"), Released: flag.Draw(t, "released"), Dropped: flag.Draw(t, "dropped"),
		Deferrals: maybe(t, n, "deferrals"), DeferredAt: maybe(t, at, "deferred"), KeyRevision: maybe(t, count, "key revision"),
		KeySpent: flag.Draw(t, "spent"), Replaced: flag.Draw(t, "replaced"), KeepUntil: maybe(t, at, "keep until"),
		InLine: flag.Draw(t, "in line"), Former: maybe(t, count, "former"), Lone: flag.Draw(t, "lone"),
	}
	if flag.Draw(t, "limited") {
		m.Limited = &Limited{Times: n.Draw(t, "times"), By: text.Draw(t, "by"), Passes: []Pass{{Limit: text.Draw(t, "limit"), At: at.Draw(t, "at"), Last: flag.Draw(t, "last")}}}
	}
	if flag.Draw(t, "progressed") {
		m.Progress = &pelton.Progress{Done: rapid.Int64().Draw(t, "done"), Message: text.Draw(t, "message")}
	}
	for range rapid.IntRange(0, 2).Draw(t, "errors") {
		m.Errors = append(m.Errors, pelton.Failure{Message: text.Draw(t, "error"), Reason: pelton.ReasonError, At: at.Draw(t, "failed"), Stack: text.Draw(t, "stack")})
	}
	if flag.Draw(t, "keyed") {
		m.Unique = &pelton.Unique{Key: text.Draw(t, "key"), Until: pelton.UntilStarted, Window: time.Duration(rapid.Int64Range(0, 1e15).Draw(t, "window"))}
	}
	for range rapid.IntRange(0, 2).Draw(t, "places") {
		of := LineOf(rapid.OneOf(text, rapid.SampledFrom([]string{"key", "kind"})).Draw(t, "of"))
		m.Places = append(m.Places, Place{Of: of, Epoch: maybe(t, rapid.Uint32(), "since")})
	}
	return m
}

func TestLinesAreWrittenAsByEncodingJSON(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m := texts{easy: rapid.Bool().Draw(t, "easy")}.record(t)
		line, ok := recordLine(nil, &m, 3)
		sameWritten(t, m, line, ok)
		line, ok = metaLine(nil, &m.Meta, 0)
		sameWritten(t, m.Meta, line, ok)
	})
}

// What cannot be written is told in encoding/json's words.
func TestEncodeTellsWhatCannotBeWritten(t *testing.T) {
	t.Parallel()
	r := aRecord("q", pelton.Low)
	r.CreatedAt = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)
	_, want := json.Marshal(r.CreatedAt)
	if _, err := encodeRecord(r); err == nil || !strings.Contains(err.Error(), errors.Unwrap(want).Error()) {
		t.Errorf("record: %v, want %v", err, want)
	}
	if _, err := encodeEnvelope(r.Envelope()); err == nil || !strings.Contains(err.Error(), errors.Unwrap(want).Error()) {
		t.Errorf("envelope: %v, want %v", err, want)
	}
}

// Lines of the usual kind do without encoding/json: else the tests of what the
// cursor reads would pass because it reads nothing.
func TestOwnLinesAreReadByHand(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m := texts{easy: true}.record(t)
		m.Carrier, m.KeyRevision, m.Former = m.Carrier>>1, m.KeyRevision>>1, m.Former>>1 // 19 digits at most
		line, ok := metaLine(nil, &m.Meta, 0)
		if !ok || !sameEnvelopeLine(t, bytes.TrimSuffix(line, []byte{'\n'})) {
			t.Fatalf("%s was not read by hand", line)
		}
		line, ok = recordLine(nil, &m, 0)
		if !ok || !sameRecordLine(t, bytes.TrimSuffix(line, []byte{'\n'})) {
			t.Fatalf("%s was not read by hand", line)
		}
	})
}

// A line of Pelton's in which something was changed: fields that moved, are there
// twice, are missing or have another's value, and bytes anywhere.
func TestChangedLinesAreReadAsByEncodingJSON(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m := texts{easy: rapid.Bool().Draw(t, "easy")}.record(t)
		line, err := json.Marshal(m)
		if err != nil {
			t.Skip("no line")
		}
		fields := fieldsOf(t, line)
		for range rapid.IntRange(0, 3).Draw(t, "changes") {
			i, j := rapid.IntRange(0, len(fields)-1).Draw(t, "field"), rapid.IntRange(0, len(fields)-1).Draw(t, "other")
			switch rapid.IntRange(0, 4).Draw(t, "change") {
			case 0:
				fields[i], fields[j] = fields[j], fields[i]
			case 1:
				fields = append(fields, fields[i])
			case 2:
				fields[i].value = fields[j].value
			case 3:
				fields[i].value = rapid.SampledFrom(strings.Fields(oddValues)).Draw(t, "value")
			case 4:
				fields[i].key = rapid.SampledFrom([]string{"KIND", "ſtate", "colour", "", fields[j].key}).Draw(t, "key")
			}
		}
		line = []byte("{")
		for i, f := range fields {
			line = fmt.Appendf(line, "%s%q:%s", strings.Repeat(",", min(i, 1)), f.key, f.value)
		}
		line = append(line, '}')
		for range rapid.IntRange(0, 2).Draw(t, "bytes") {
			i := rapid.IntRange(0, len(line)-1).Draw(t, "at")
			with := rapid.SampledFrom(strings.Split(oddBytes, "|")).Draw(t, "with")
			line = slices.Concat(line[:i], []byte(with), line[i+rapid.IntRange(0, 1).Draw(t, "instead"):])
		}
		sameEnvelopeLine(t, line)
		sameRecordLine(t, line)
	})
}

const (
	oddValues = `null true false 0 -0 -1 01 1.0 1e3 1E400 4294967295 4294967296 9223372036854775807 9223372036854775808 -9223372036854775808
		18446744073709551615 18446744073709551616 99999999999999999999 "" "normal" "\u006cow" "\ud800" "a\/b" {} [] [[]] [{}] [null] {"a":"1","a":"2"}
		{"a":null} {"of":"key"} [{"of":"key","of":"kind"}] [{"of":"key","Of":"kind"}] [{"of":"key"},] [{"of":"key"},{"of":"kind","epoch":3}] {]
		"2026-01-01T00:00:00Z" "2026-01-01T00:00:00,5Z" "2026-01-01T0:00:00Z" "2026-01-01T00:00:00+24:00" "2026-01-01T00:00:00.1234567890123Z"
		"019AC0DE-0000-8000-803F-FFFFFFFFFFFF" {"done":1,"done":2} {"initial":"1s","factor":2} {"initial":1} [1,] -`
	oddBytes = "|\"|\\|{|}|[|]|,|:| |\t|\r|0|-|.|\xff|\xc3|é|\u2028|n|\x00|\x7f"
)

type rawField struct{ key, value string }

// fieldsOf takes an object apart.
func fieldsOf(t errorer, object []byte) []rawField {
	t.Helper()
	decoder := json.NewDecoder(bytes.NewReader(object))
	token := func() json.Token {
		token, err := decoder.Token()
		if err != nil {
			t.Fatalf("%s: %v", object, err)
		}
		return token
	}
	token() // the bracket
	var fields []rawField
	for decoder.More() {
		key, value := fmt.Sprint(token()), json.RawMessage{}
		if err := decoder.Decode(&value); err != nil {
			t.Fatalf("%s: %v", object, err)
		}
		fields = append(fields, rawField{key, string(value)})
	}
	return fields
}

// Each line differs in one thing from one that is read by hand.
func TestForeignLines(t *testing.T) {
	t.Parallel()
	for _, field := range []string{"v", "kind", "priority", "epoch", "timeout", "backoff", "created_at", "labels", "schedule", "id", "state", "carrier", "released", "limited", "errors", "places", "queue", "colour"} {
		for _, value := range append(strings.Fields(oddValues), strings.Repeat("[", 20_000)+strings.Repeat("]", 20_000), `{"passes":`+strings.Repeat("[", 9_999)+strings.Repeat("]", 9_999)+"}") {
			line := []byte(`{"` + field + `":` + value + `,"attempt":1}`)
			sameEnvelopeLine(t, line)
			sameRecordLine(t, line)
		}
	}
	for _, line := range []string{
		``, ` `, `{`, `}`, `{}`, `{},`, `{}{}`, ` {}`, `{} `, `{,}`, `{"v"}`, `{"v":}`, `{"v":1,}`, `{"v":1 }`, `{"v": 1}`, `{"v":1]`, `["v":1}`, `{v:1}`, `{"v":1,"v":2}`,
		`{"v":2,"timeout":"1s"}`, `{"v":2,"timeout":1}`, `{"\u0076":1}`, `{"V":1}`, `{"kind":"a` + "\xff" + `"}`, `{"kind":"a` + "\x01" + `"}`, `{"kind":"a`, `{"kind":"\"}`, `{"kind":"a"`,
		// What encoding/json puts together from both.
		`{"labels":{"a":"1"},"labels":{"b":"2"}}`, `{"limited":{"times":1},"limited":{"by":"x"}}`, `{"progress":{"done":1},"progress":{"total":2}}`,
		`{"places":[{"of":"key","epoch":2}],"places":[{"of":"kind"}]}`, `{"schedule":{"name":"n"},"schedule":{"manual":true}}`,
		`{"errors":[{"message":"]"}]}`, `{"errors":[{"message":"\"]"}]}`, `{"errors":[}`, `{"errors":"`, `{"errors":`, `{"attempt":1,"attempt":null}`, `{"released":tru}`, `{"released":trueish}`,
	} {
		sameEnvelopeLine(t, []byte(line))
		sameRecordLine(t, []byte(line))
	}
}

func FuzzLine(f *testing.F) {
	for _, r := range []*Record{finished(), laden(), worstRecord(), {}} {
		m := r.line()
		if line, ok := recordLine(nil, &m, 0); ok && len(line) < 4<<10 {
			f.Add(bytes.TrimSuffix(line, []byte{'\n'}))
		}
	}
	for _, value := range strings.Fields(oddValues) {
		f.Add([]byte(`{"v":1,"kind":"k","carrier":` + value + `}`))
		f.Add([]byte(`{"v":1,"places":` + value + `,"labels":` + value + `}`))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		sameEnvelopeLine(t, line)
		sameRecordLine(t, line)
		if m, err := referenceOf[recordMeta](line); err == nil {
			again, ok := recordLine(nil, m, 0)
			sameWritten(t, *m, again, ok)
			again, ok = metaLine(nil, &m.Meta, 0)
			sameWritten(t, m.Meta, again, ok)
		}
	})
}

// One piece of memory for what is written, three for what is read: the task and the
// names of its kind and its worker.
func TestCodecAllocates(t *testing.T) {
	r := finished()
	record, err := encodeRecord(r)
	must(t, err)
	for name, test := range map[string]struct {
		do   func() error
		most float64
	}{
		"encode envelope": {func() error { _, err := encodeEnvelope(&Envelope{Meta: r.Meta, Payload: r.Payload}); return err }, 2}, // and the envelope
		"encode record":   {func() error { _, err := encodeRecord(r); return err }, 1},
		"decode record":   {func() error { _, err := decodeRecord(record, 1); return err }, 3},
	} {
		if got := testing.AllocsPerRun(100, func() { must(t, test.do()) }); got > test.most {
			t.Errorf("%s: %v allocations, want at most %v", name, got, test.most)
		}
	}
}
