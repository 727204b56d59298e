package broker

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/peltonq/pelton"
)

var (
	queueGen    = rapid.StringMatching(`[a-z0-9][a-z0-9_-]{0,63}`)
	kindGen     = rapid.StringMatching(`[A-Za-z0-9][A-Za-z0-9_.:/-]{0,127}`)
	priorityGen = rapid.SampledFrom(pelton.Priorities())
	bodyGen     = rapid.OneOf(rapid.SliceOfN(rapid.Byte(), 0, 200), rapid.SliceOfN(rapid.SampledFrom([]byte("\n\r\x00{}\"a")), 0, 50))
	timeGen     = rapid.Custom(func(t *rapid.T) time.Time {
		return time.Unix(rapid.Int64Range(0, 253402300799).Draw(t, "unix"), rapid.Int64Range(0, 999999999).Draw(t, "nano")).UTC()
	})
	metaGen = rapid.Custom(func(t *rapid.T) Meta {
		m := Meta{
			Version: version, ID: pelton.NewID(timeGen.Draw(t, "id"), rapid.Byte().Draw(t, "shard")),
			Kind: kindGen.Draw(t, "kind"), Queue: queueGen.Draw(t, "queue"), Priority: priorityGen.Draw(t, "priority"),
			Epoch: rapid.Uint32().Draw(t, "epoch"), MaxAttempts: orUsual(rapid.Int(), pelton.DefaultMaxAttempts).Draw(t, "max attempts"),
			Timeout:   time.Duration(orUsual(rapid.Int64(), int64(pelton.DefaultTimeout)).Draw(t, "timeout")),
			Retention: time.Duration(orUsual(rapid.Int64(), int64(pelton.DefaultRetention)).Draw(t, "retention")),
			CreatedAt: timeGen.Draw(t, "created"),
		}
		if rapid.Bool().Draw(t, "at once") {
			m.CreatedAt = m.ID.Time()
		}
		if rapid.Bool().Draw(t, "expires") {
			m.ExpiresAt = timeGen.Draw(t, "expires at")
		}
		if labels := rapid.MapOfN(kindGen, rapid.String(), 0, 4).Draw(t, "labels"); len(labels) > 0 {
			m.Labels = labels
		}
		return m
	})
	failureGen = rapid.Custom(func(t *rapid.T) pelton.Failure {
		return pelton.Failure{
			Message: rapid.String().Draw(t, "message"), Reason: pelton.ReasonPanic, Attempt: rapid.Int().Draw(t, "attempt"),
			At: timeGen.Draw(t, "at"), Stack: rapid.String().Draw(t, "stack"),
		}
	})
)

// orUsual is a value of gen that is not zero, or the one that is left out.
func orUsual[T comparable](gen *rapid.Generator[T], usual T) *rapid.Generator[T] {
	return rapid.OneOf(gen.Filter(func(v T) bool { return v != *new(T) }), rapid.Just(usual))
}

// body is nil where it is empty, as decoding leaves it.
func body(t *rapid.T, what string) []byte {
	if b := bodyGen.Draw(t, what); len(b) > 0 {
		return b
	}
	return nil
}

func TestEnvelopeRoundTrip(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		want := &Envelope{Meta: metaGen.Draw(t, "meta"), Payload: body(t, "payload")}
		data, err := encodeEnvelope(want)
		if err != nil {
			t.Fatal(err)
		}
		got, err := decodeEnvelope(data)
		if err != nil {
			t.Fatalf("decode %q: %v", data, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("(-want +got):\n%s", diff)
		}
	})
}

func TestRecordRoundTrip(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		want := &Record{
			Meta: metaGen.Draw(t, "meta"), State: rapid.SampledFrom(pelton.States()).Draw(t, "state"),
			Payload: body(t, "payload"), Result: body(t, "result"),
			RunAt: timeGen.Draw(t, "run at"), StartedAt: timeGen.Draw(t, "started"), FinishedAt: timeGen.Draw(t, "finished"),
			Attempt: rapid.Int().Draw(t, "attempt"), Ended: rapid.Int().Draw(t, "ended"), Crashes: rapid.Int().Draw(t, "crashes"),
			Owner: rapid.String().Draw(t, "owner"), Carrier: rapid.Uint64().Draw(t, "carrier"), Released: rapid.Bool().Draw(t, "released"),
			Deferrals: rapid.Int().Draw(t, "deferrals"), DeferredAt: timeGen.Draw(t, "deferred"),
			Revision: rapid.Uint64().Draw(t, "revision"),
		}
		if rapid.Bool().Draw(t, "progress") {
			want.Progress = &pelton.Progress{Done: rapid.Int64().Draw(t, "done"), Message: rapid.String().Draw(t, "word")}
		}
		if rapid.Bool().Draw(t, "limited") {
			want.Limited = &Limited{Times: rapid.Int().Draw(t, "times"), Passes: []Pass{{
				Limit: rapid.String().Draw(t, "limit"), Revision: rapid.Uint64().Draw(t, "of"), At: timeGen.Draw(t, "place"),
				Booked: rapid.Bool().Draw(t, "booked"), Looks: rapid.Int().Draw(t, "looks"), Last: rapid.Bool().Draw(t, "last"),
			}}}
		}
		if errs := rapid.SliceOfN(failureGen, 0, 3).Draw(t, "errors"); len(errs) > 0 {
			want.Errors = errs
		}
		data, err := encodeRecord(want)
		if err != nil {
			t.Fatal(err)
		}
		got, err := decodeRecord(data, want.Revision)
		if err != nil {
			t.Fatalf("decode %q: %v", data, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("(-want +got):\n%s", diff)
		}
	})
}

const (
	goodID   = "019ac0de-0000-8000-803f-ffffffffffff"
	goodMeta = `"id":"` + goodID + `","kind":"k","queue":"q","priority":"low","max_attempts":1,"timeout":1,"retention":1,"created_at":"2026-01-01T00:00:00Z"`
)

func TestDecodeJudges(t *testing.T) {
	t.Parallel()
	with := func(old, new string) string { return strings.Replace(goodMeta, old, new, 1) }
	for name, test := range map[string]struct {
		envelope string // a record has "state":"queued" in addition
		want     error
	}{
		"good":                           {`{"v":1,` + goodMeta + "}\n", nil},
		"unknown fields":                 {`{"v":1,"colour":{"a":[1]},` + goodMeta + ",\"x\":null}\n", nil},
		"newer":                          {`{"v":2,` + goodMeta + "}\n", ErrNewer},
		"newer, other types":             {`{"v":2,` + with(`"timeout":1`, `"timeout":"1s"`) + "}\n", ErrNewer},
		"newer, other names":             {`{"v":3,` + with(`"queue":"q"`, `"line":"q"`) + "}\n", ErrNewer},
		"no version":                     {`{` + goodMeta + "}\n", ErrMalformed},
		"negative version":               {`{"v":-1,` + goodMeta + "}\n", ErrMalformed},
		"version of another type":        {`{"v":"2",` + goodMeta + "}\n", ErrMalformed},
		"empty":                          {"", ErrMalformed},
		"no line":                        {`{"v":1,` + goodMeta + "}", ErrMalformed},
		"no JSON":                        {"hello\nworld", ErrMalformed},
		"cut":                            {`{"v":1,` + goodMeta[:40] + "\n", ErrMalformed},
		"null":                           {"null\n", ErrMalformed},
		"array":                          {"[]\n", ErrMalformed},
		"queue that would be a subject":  {`{"v":1,` + with(`"queue":"q"`, `"queue":"a.>"`) + "}\n", ErrMalformed},
		"kind with a space":              {`{"v":1,` + with(`"kind":"k"`, `"kind":"k k"`) + "}\n", ErrMalformed},
		"no priority":                    {`{"v":1,` + with(`"priority":"low"`, `"p":"low"`) + "}\n", ErrMalformed},
		"unknown priority":               {`{"v":1,` + with(`"low"`, `"urgent"`) + "}\n", ErrMalformed},
		"no id":                          {`{"v":1,` + with(`"id"`, `"di"`) + "}\n", ErrMalformed},
		"id of another version":          {`{"v":1,` + with("-8000-", "-4000-") + "}\n", ErrMalformed},
		"epoch below zero":               {`{"v":1,"epoch":-1,` + goodMeta + "}\n", ErrMalformed},
		"larger than anything of Pelton": {`{"v":1,` + goodMeta + "}\n" + strings.Repeat("x", maxBody), ErrMalformed},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, err := decodeEnvelope([]byte(test.envelope)); !errors.Is(err, test.want) {
				t.Errorf("envelope: %v, want %v", err, test.want)
			}
			record := strings.Replace(test.envelope, `{"v"`, `{"state":"queued","v"`, 1)
			if _, err := decodeRecord([]byte(record), 1); !errors.Is(err, test.want) {
				t.Errorf("record: %v, want %v", err, test.want)
			}
		})
	}
}

func TestDecodeRecordJudgesStateAndLengths(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		fields, body string
		want         error
	}{
		"payload and result": {`"state":"succeeded","payload_len":3,"result_len":2`, "1\n2\n3", nil},
		"nothing":            {`"state":"queued"`, "", nil},
		"no state":           {`"payload_len":0`, "", ErrMalformed},
		"unknown state":      {`"state":"stuck"`, "", ErrMalformed},
		"body too short":     {`"state":"queued","payload_len":3`, "12", ErrMalformed},
		"body too long":      {`"state":"queued","payload_len":3`, "1234", ErrMalformed},
		"negative payload":   {`"state":"queued","payload_len":-1,"result_len":3`, "12", ErrMalformed},
		"negative result":    {`"state":"queued","payload_len":3,"result_len":-1`, "12", ErrMalformed},
		"overflow":           {`"state":"queued","payload_len":9223372036854775807,"result_len":9223372036854775807`, "12", ErrMalformed},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, err := decodeRecord([]byte(`{"v":1,`+test.fields+`,`+goodMeta+"}\n"+test.body), 7)
			if !errors.Is(err, test.want) {
				t.Fatalf("%v, want %v", err, test.want)
			}
			if err == nil && string(r.Payload)+string(r.Result) != test.body {
				t.Errorf("payload %q and result %q of %q", r.Payload, r.Result, test.body)
			}
		})
	}
}

func FuzzDecodeEnvelope(f *testing.F) {
	f.Add([]byte(`{"v":1,` + goodMeta + "}\n[1,\n2]"))
	f.Add([]byte(`{"v":2}` + "\n"))
	f.Add([]byte("\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		e, err := decodeEnvelope(data)
		if err != nil {
			judged(t, err)
			return
		}
		again, err := encodeEnvelope(e)
		if err != nil {
			t.Fatal(err)
		}
		twice, err := decodeEnvelope(again)
		if err != nil {
			t.Fatalf("decode what was encoded: %v", err)
		}
		if diff := cmp.Diff(e, twice); diff != "" {
			t.Fatalf("(-first +second):\n%s", diff)
		}
	})
}

func FuzzDecodeRecord(f *testing.F) {
	f.Add([]byte(`{"v":1,"state":"succeeded","payload_len":1,"result_len":2,` + goodMeta + "}\n1\n2"))
	f.Add([]byte(`{"v":1,"state":"failed","errors":[{"message":"<m>","reason":"panic","attempt":1,"at":"2026-01-01T00:00:00Z"}],` + goodMeta + "}\n"))
	f.Add([]byte(`{"v":1,"state":"queued","payload_len":-1,` + goodMeta + "}\n"))
	f.Add([]byte(`{"v":9}` + "\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := decodeRecord(data, 1)
		if err != nil {
			judged(t, err)
			return
		}
		again, err := encodeRecord(r)
		if err != nil {
			t.Fatal(err)
		}
		twice, err := decodeRecord(again, 1)
		if err != nil {
			t.Fatalf("decode what was encoded: %v", err)
		}
		equalBytes(t, "payload", twice.Payload, r.Payload)
		equalBytes(t, "result", twice.Result, r.Result)
	})
}

func judged(t *testing.T, err error) {
	t.Helper()
	if !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrNewer) {
		t.Fatalf("%v is neither malformed nor newer", err)
	}
}

func TestFailKeepsItsBounds(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var r Record
		n := rapid.IntRange(1, 15).Draw(t, "failures")
		hostile := rapid.OneOf(rapid.StringN(0, 5000, -1), rapid.Custom(func(t *rapid.T) string {
			return strings.Repeat(rapid.SampledFrom([]string{"a\xff", "é", "€", "\x00", "\U0001F680"}).Draw(t, "unit"), rapid.IntRange(0, 9000).Draw(t, "times"))
		}))
		for i := range n {
			r.Fail(pelton.Failure{Message: hostile.Draw(t, "message"), Stack: hostile.Draw(t, "stack"), Attempt: i + 1})
		}
		if len(r.Errors) != min(n, pelton.MaxErrors) {
			t.Fatalf("%d errors of %d", len(r.Errors), n)
		}
		for i, f := range r.Errors {
			if want := n - len(r.Errors) + i + 1; f.Attempt != want {
				t.Fatalf("error %d is of attempt %d, want %d", i, f.Attempt, want)
			}
			if len(f.Message) > maxMessage || len(f.Stack) > maxStack || !utf8.ValidString(f.Message+f.Stack) {
				t.Fatalf("message of %d and stack of %d bytes, or not UTF-8", len(f.Message), len(f.Stack))
			}
			if i < len(r.Errors)-1 && f.Stack != "" {
				t.Fatal("an old stack is kept")
			}
		}
	})
}

func TestTruncate(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		in   string
		n    int
		want string
	}{
		{"", 8, ""},
		{"12345678", 8, "12345678"},
		{"123456789", 8, "12345…"},
		{"1234éééé", 8, "1234…"},
		{"12345é78", 9, "12345é78"},
		{"a\xffb", 8, "a\uFFFDb"},
		{"\xff1\xff2\xff3", 8, "\uFFFD1…"},
	} {
		if got := truncate(test.in, test.n); got != test.want {
			t.Errorf("truncate(%q, %d) = %q, want %q", test.in, test.n, got, test.want)
		}
	}
}

// A record must fit into the NATS server's default max_payload of 1 MiB with
// room for its headers, and the bound that Open checks must cover it.
func TestWorstRecordFits(t *testing.T) {
	t.Parallel()
	r := worstRecord()
	data, err := encodeRecord(r)
	must(t, err)
	w := write{subject: names{"n23456789012345678901234567890ab"}.record(r.ID), data: data, expect: 1<<63 - 1, ttl: 366 * 24 * time.Hour}
	if size := w.msg().Size(); size > minMessageSize || minMessageSize > 1<<20 {
		t.Errorf("the worst record takes %d bytes, more than %d or than 1 MiB", size, minMessageSize)
	} else {
		t.Logf("the worst record takes %d of %d bytes", size, minMessageSize)
	}
	got, err := decodeRecord(data, r.Revision)
	must(t, err)
	equalBytes(t, "payload", got.Payload, r.Payload)
	equalBytes(t, "result", got.Result, r.Result)
}

// worstRecord is as large as the vocabulary's limits let a record become.
func worstRecord() *Record {
	const control = "\x01" // six bytes in JSON
	r := &Record{
		Meta: aMeta(strings.Repeat("q", 64), pelton.Critical), State: pelton.Succeeded,
		Payload: bytes.Repeat([]byte("p"), pelton.MaxPayload), Result: bytes.Repeat([]byte("\n"), pelton.MaxPayload),
		RunAt: time.Now(), StartedAt: time.Now(), FinishedAt: time.Now(), Attempt: 1000, Ended: 1000, Crashes: 3,
		Owner: strings.Repeat("w", 128), Carrier: 1<<64 - 1, Deferrals: 1 << 30, DeferredAt: time.Now(),
		Progress: &pelton.Progress{Done: -1 << 63, Total: -1 << 63, Message: strings.Repeat(control, pelton.MaxPayload)},
	}
	r.Kind, r.Epoch, r.ExpiresAt = strings.Repeat("k", 128), 1<<32-1, time.Now()
	r.RateKey = strings.Repeat(`"`, 256)
	r.Limited = &Limited{Times: 1 << 30}
	for range 32 {
		r.Limited.Passes = append(r.Limited.Passes, Pass{Limit: strings.Repeat("l", 64), Revision: 1<<64 - 1, At: time.Now(), Booked: true, Looks: 1 << 30, Last: true})
	}
	r.Labels = map[string]string{}
	for i := range 32 {
		r.Labels[fmt.Sprintf("%0128d", i)] = strings.Repeat(`"`, 256)
	}
	for i := range 2 * pelton.MaxErrors {
		r.Fail(pelton.Failure{Message: strings.Repeat(control, 1<<20), Stack: strings.Repeat(control, 1<<20), Reason: pelton.ReasonUnknownKind, Attempt: i, At: time.Now()})
	}
	return r
}

func TestRecordAsTask(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, test := range []struct {
		state pelton.State
		runAt time.Time
		want  pelton.State
	}{
		{pelton.Scheduled, now.Add(time.Nanosecond), pelton.Scheduled},
		{pelton.Scheduled, now, pelton.Queued},
		{pelton.Retrying, now.Add(time.Hour), pelton.Retrying},
		{pelton.Retrying, now.Add(-time.Hour), pelton.Queued},
		{pelton.Running, now.Add(-time.Hour), pelton.Running},
		{pelton.Queued, time.Time{}, pelton.Queued},
		{pelton.Succeeded, now.Add(time.Hour), pelton.Succeeded},
		{pelton.Cancelled, now.Add(-time.Hour), pelton.Cancelled},
	} {
		r := Record{Meta: aMeta("q", pelton.Low), State: test.state, RunAt: test.runAt}
		if got := r.Task(now).State; got != test.want {
			t.Errorf("%s with run_at %s reads %s, want %s", test.state, test.runAt, got, test.want)
		}
	}

	r := aRecord("q", pelton.Low)
	r.Owner, r.Attempt, r.Ended, r.Revision = "w1", 2, 1, 9
	r.Fail(pelton.Failure{Message: "first", Attempt: 1})
	want := &pelton.Task{
		ID: r.ID, Kind: r.Kind, Queue: "q", Priority: pelton.Low, State: pelton.Queued, Payload: r.Payload,
		Attempt: 2, MaxAttempts: 3, Timeout: time.Minute, Retention: time.Hour, Revision: 9, CreatedAt: r.CreatedAt,
		Worker: "w1", Error: &r.Errors[0], Errors: r.Errors,
	}
	if diff := cmp.Diff(want, r.Task(now)); diff != "" {
		t.Errorf("task (-want +got):\n%s", diff)
	}
	r.State = pelton.Succeeded
	if got := r.Task(now); got.Error != nil || len(got.Errors) != 1 {
		t.Errorf("a task that succeeded has error %v and %d errors, want none and its history", got.Error, len(got.Errors))
	}
}
