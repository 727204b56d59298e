package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/peltonq/pelton"
)

func TestEnqueueReadsEveryField(t *testing.T) {
	t.Parallel()
	tasks := newFakeTasks()
	w := call(t, serve(t, tasks, nil), http.MethodPost, "/tasks", `{"kind":"email.send","payload":{"to":"a@b.c"},"queue":"emails",
		"priority":"high","run_at":"2126-12-01T08:00:00+01:00","expires_at":"2126-12-02T08:00:00Z","timeout":"30s","max_attempts":7,
		"retention":"7d","backoff":{"initial":"5s","max":"10m","factor":1.5},"concurrency_key":"a/b é","labels":{"tenant":"acme","empty":""}}`)
	if w.Code != http.StatusAccepted {
		t.Fatalf("status = %d: %s", w.Code, w.Body)
	}
	want := []pelton.Spec{{
		Kind: "email.send", Payload: json.RawMessage(`{"to":"a@b.c"}`), Queue: "emails", Priority: pelton.High,
		RunAt: time.Date(2126, 12, 1, 7, 0, 0, 0, time.UTC), ExpiresAt: time.Date(2126, 12, 2, 8, 0, 0, 0, time.UTC),
		Timeout: 30 * time.Second, MaxAttempts: 7, Retention: 7 * 24 * time.Hour, Backoff: pelton.Backoff{Initial: 5 * time.Second, Max: 10 * time.Minute, Factor: 1.5},
		ConcurrencyKey: "a/b é", Labels: map[string]string{"tenant": "acme", "empty": ""},
	}}
	if diff := cmp.Diff(want, tasks.accepted()); diff != "" {
		t.Errorf("accepted specs (-want +got):\n%s", diff)
	}
	if got := decodeTask(t, w); got.State != pelton.Scheduled || w.Header().Get("Location") != "/tasks/"+got.ID.String() {
		t.Errorf("task %+v at %q", got, w.Header().Get("Location"))
	}
}

func TestEnqueueNeedsOnlyAKind(t *testing.T) {
	t.Parallel()
	tasks := newFakeTasks()
	w := call(t, serve(t, tasks, nil), http.MethodPost, "/tasks", `{"kind":"a","delay":"0s"}`)
	if w.Code != http.StatusAccepted {
		t.Fatalf("status = %d: %s", w.Code, w.Body)
	}
	if diff := cmp.Diff([]pelton.Spec{{Kind: "a"}}, tasks.accepted()); diff != "" {
		t.Errorf("accepted specs (-want +got):\n%s", diff)
	}
}

func TestPayloadIsKeptByteForByte(t *testing.T) {
	t.Parallel()
	for _, payload := range []string{
		`null`, `true`, `0`, `-0.0`, `1e400`, `123456789012345678901234567890.10`, `""`, `"é"`, `"é<>&\/"`, `"\u2028\ud83d\ude00"`,
		`"half \ud800 pair"`, `[]`, `{}`, `[ 1 ,	2 , [ ] ]`, "{ \"b\" : 1,\n  \"a\" : { \"z\":null } }", `{"":{"":""}}`, `"a\u0000b"`, `"#"`,
		strings.Repeat("[", maxDepth-3) + strings.Repeat("]", maxDepth-3), // a batch is three levels by itself
		`"` + strings.Repeat("x", pelton.MaxPayload-2) + `"`,
	} {
		t.Run(clip(payload, 20), func(t *testing.T) {
			t.Parallel()
			tasks := newFakeTasks()
			h := serve(t, tasks, nil)
			w := call(t, h, http.MethodPost, "/tasks", `{"kind":"a","payload":  `+payload+"\n}")
			if w.Code != http.StatusAccepted {
				t.Fatalf("status = %d: %s", w.Code, w.Body)
			}
			if got := string(tasks.accepted()[0].Payload); got != payload {
				t.Errorf("accepted payload %q", got)
			}
			w = call(t, h, http.MethodGet, w.Header().Get("Location"), "")
			if _, after, _ := strings.Cut(w.Body.String(), `"payload":`); after != payload+"}\n" {
				t.Errorf("served payload %q", clip(after, 100))
			}
			w = call(t, h, http.MethodPost, "/tasks/batch", `{"tasks":[{"kind":"a","payload":`+payload+` }]}`)
			if got := string(tasks.accepted()[1].Payload); got != payload || !strings.Contains(w.Body.String(), `"payload":`+payload+`}`) {
				t.Errorf("batch: accepted payload %q, answered %s", got, w.Body)
			}
		})
	}
}

func TestDeepestPayload(t *testing.T) {
	t.Parallel()
	tasks := newFakeTasks()
	payload := strings.Repeat("[", maxDepth-1) + strings.Repeat("]", maxDepth-1)
	w := call(t, serve(t, tasks, nil), http.MethodPost, "/tasks", `{"kind":"a","payload":`+payload+`}`)
	if w.Code != http.StatusAccepted || len(tasks.accepted()) != 1 {
		t.Errorf("status = %d: %s", w.Code, w.Body)
	}
}

func TestBadRequestsEnqueueNothing(t *testing.T) {
	t.Parallel()
	deep := strings.Repeat("[", maxDepth) + strings.Repeat("]", maxDepth) // one level more, with the task around it
	for _, tc := range []struct {
		name, body string
		status     int
		kind       kind
		location   string // of the first error; empty: there are none
		message    string // part of it, or of the detail
	}{
		{"empty", ``, 400, kindMalformed, "", "empty"},
		{"spaces", " \n", 400, kindMalformed, "", "empty"},
		{"no value", `{"kind":`, 400, kindMalformed, "body", "line 1, column 9: the JSON ends too early"},
		{"second line", "{\n\t\"kind\": é}", 400, kindMalformed, "body", "line 2, column 10: invalid character 'é'"},
		{"trailing", `{"kind":"a"} {}`, 400, kindMalformed, "body", "line 1, column 14: there is more"},
		{"trailing comma", `{"kind":"a",}`, 400, kindMalformed, "body", "invalid character '}'"},
		{"duplicate", `{"kind":"a","kind":"b"}`, 400, kindMalformed, "body", `column 13: the name "kind" stands twice`},
		{"duplicate in disguise", `{"kind":"a","payload":[{"x":1,"\u0078":2}]}`, 400, kindMalformed, "body", `the name "x" stands twice`},
		{"invalid utf-8", "{\"kind\":\"a\",\"payload\":\"\xff\"}", 400, kindMalformed, "body", "column 24: is not valid UTF-8"},
		{"byte order mark", "\ufeff{}", 400, kindMalformed, "body", "column 1"},
		{"too deep", `{"kind":"a","payload":` + deep + `}`, 400, kindMalformed, "body", "deeper than 64"},
		{"far too deep", strings.Repeat("[", 20_000), 400, kindMalformed, "body", "depth"},
		{"not an object", `["a"]`, 422, kindInvalid, "body", "must be an object, not an array"},
		{"null", `null`, 422, kindInvalid, "body", "not null"},
		{"no kind", `{}`, 422, kindInvalid, "body.kind", "is required"},
		{"unknown field", `{"kind":"a","Queue":"x"}`, 422, kindInvalid, "body.Queue", "not a known field"},
		{"idempotency key of a batch", `{"kind":"a","idempotency_key":"x"}`, 422, kindInvalid, "body.idempotency_key", "not a known field"},
		{"kind of another type", `{"kind":1}`, 422, kindInvalid, "body.kind", "must be a string, not a number"},
		{"bad kind", `{"kind":"a b"}`, 422, kindInvalid, "body.kind", "must match"},
		{"half a pair", `{"kind":"\ud800"}`, 422, kindInvalid, "body.kind", "surrogate"},
		{"null queue", `{"kind":"a","queue":null}`, 422, kindInvalid, "body.queue", "not null"},
		{"empty queue", `{"kind":"a","queue":""}`, 422, kindInvalid, "body.queue", "must not be empty"},
		{"bad queue", `{"kind":"a","queue":"A"}`, 422, kindInvalid, "body.queue", "must match"},
		{"wildcard queue", `{"kind":"a","queue":"a.>"}`, 422, kindInvalid, "body.queue", "must match"},
		{"bad priority", `{"kind":"a","priority":"urgent"}`, 422, kindInvalid, "body.priority", "none of critical"},
		{"priority in capitals", `{"kind":"a","priority":"High"}`, 422, kindInvalid, "body.priority", "none of critical"},
		{"delay as number", `{"kind":"a","delay":90}`, 422, kindInvalid, "body.delay", "must be a string, not a number"},
		{"bad delay", `{"kind":"a","delay":"soon"}`, 422, kindInvalid, "body.delay", "not a duration"},
		{"negative delay", `{"kind":"a","delay":"-1s"}`, 422, kindInvalid, "body.delay", "negative"},
		{"delay and run_at", `{"kind":"a","delay":"0s","run_at":"2126-01-01T00:00:00Z"}`, 422, kindInvalid, "body.delay", "excludes run_at"},
		{"bad run_at", `{"kind":"a","run_at":"2026-13-01T00:00:00Z"}`, 422, kindInvalid, "body.run_at", "RFC 3339"},
		{"run_at without zone", `{"kind":"a","run_at":"2026-12-01T00:00:00"}`, 422, kindInvalid, "body.run_at", "RFC 3339"},
		{"run_at as number", `{"kind":"a","run_at":1}`, 422, kindInvalid, "body.run_at", "not a number"},
		{"expired", `{"kind":"a","expires_at":"2020-01-01T00:00:00Z"}`, 422, kindInvalid, "body.expires_at", "has passed"},
		{"expired at zero", `{"kind":"a","expires_at":"0001-01-01T00:00:00Z"}`, 422, kindInvalid, "body.expires_at", "has passed"},
		{"zero timeout", `{"kind":"a","timeout":"0s"}`, 422, kindInvalid, "body.timeout", "more than zero"},
		{"long timeout", `{"kind":"a","timeout":"100d"}`, 422, kindInvalid, "body.timeout", "not between"},
		{"backoff of another type", `{"kind":"a","backoff":"5s"}`, 422, kindInvalid, "body.backoff", "must be an object, not a string"},
		{"unknown part of a backoff", `{"kind":"a","backoff":{"min":"5s"}}`, 422, kindInvalid, "body.backoff.min", "is not a known field"},
		{"zero backoff", `{"kind":"a","backoff":{"initial":"0s"}}`, 422, kindInvalid, "body.backoff.initial", "more than zero"},
		{"zero factor", `{"kind":"a","backoff":{"factor":0}}`, 422, kindInvalid, "body.backoff.factor", "0 is not a number from 1 to 10"},
		{"large factor", `{"kind":"a","backoff":{"factor":11}}`, 422, kindInvalid, "body.backoff.factor", "11 is not between 1 and 10"},
		{"zero retention", `{"kind":"a","retention":"0s"}`, 422, kindInvalid, "body.retention", "more than zero"},
		{"huge number", `{"kind":"a","max_attempts":1e400}`, 422, kindInvalid, "body.max_attempts", "1e400 is not a whole number"},
		{"fraction", `{"kind":"a","max_attempts":1.5}`, 422, kindInvalid, "body.max_attempts", "1.5 is not a whole number"},
		{"overflow", `{"kind":"a","max_attempts":99999999999999999999}`, 422, kindInvalid, "body.max_attempts", "not a whole number in range"},
		{"no attempts", `{"kind":"a","max_attempts":0}`, 422, kindInvalid, "body.max_attempts", "at least 1"},
		{"negative attempts", `{"kind":"a","max_attempts":-1}`, 422, kindInvalid, "body.max_attempts", "at least 1"},
		{"many attempts", `{"kind":"a","max_attempts":100000}`, 422, kindInvalid, "body.max_attempts", "not between"},
		{"attempts as string", `{"kind":"a","max_attempts":"5"}`, 422, kindInvalid, "body.max_attempts", "must be a number, not a string"},
		{"labels as array", `{"kind":"a","labels":[]}`, 422, kindInvalid, "body.labels", "must be an object of strings, not an array"},
		{"label as number", `{"kind":"a","labels":{"x":1}}`, 422, kindInvalid, "body.labels.x", "must be a string"},
		{"label with control", `{"kind":"a","labels":{"x":"\u0007"}}`, 422, kindInvalid, "body.labels.x", "control character U+0007"},
		{"unique text", `{"kind":"a","unique":"k"}`, 422, kindInvalid, "body.unique", "must be an object"},
		{"unique null", `{"kind":"a","unique":null}`, 422, kindInvalid, "body.unique", "must be an object, not null"},
		{"unique without key", `{"kind":"a","unique":{}}`, 422, kindInvalid, "body.unique.key", "is required"},
		{"unique empty key", `{"kind":"a","unique":{"key":""}}`, 422, kindInvalid, "body.unique.key", "must not be empty"},
		{"unique number", `{"kind":"a","unique":{"key":7}}`, 422, kindInvalid, "body.unique.key", "must be a string, not a number"},
		{"unique control", `{"kind":"a","unique":{"key":"a\u0001"}}`, 422, kindInvalid, "body.unique.key", "control character"},
		{"unique until", `{"kind":"a","unique":{"key":"k","until":"later"}}`, 422, kindInvalid, "body.unique.until", "none of finished, started"},
		{"unique until empty", `{"kind":"a","unique":{"key":"k","until":""}}`, 422, kindInvalid, "body.unique.until", "must not be empty"},
		{"unique on_conflict", `{"kind":"a","unique":{"key":"k","on_conflict":"Reject"}}`, 422, kindInvalid, "body.unique.on_conflict", "none of reject, existing, replace"},
		{"unique window", `{"kind":"a","unique":{"key":"k","window":"1ms"}}`, 422, kindInvalid, "body.unique.window", "is not between"},
		{"unique no window", `{"kind":"a","unique":{"key":"k","window":"0s"}}`, 422, kindInvalid, "body.unique.window", "more than zero"},
		{"unique unknown", `{"kind":"a","unique":{"key":"k","scope":"x"}}`, 422, kindInvalid, "body.unique.scope", "not a known field"},
		{"empty concurrency_key", `{"kind":"a","concurrency_key":""}`, 422, kindInvalid, "body.concurrency_key", "must not be empty"},
		{"concurrency_key as number", `{"kind":"a","concurrency_key":7}`, 422, kindInvalid, "body.concurrency_key", "must be a string, not a number"},
		{"concurrency_key with control", `{"kind":"a","concurrency_key":"a\n"}`, 422, kindInvalid, "body.concurrency_key", "control character U+000A"},
		{"long concurrency_key", `{"kind":"a","concurrency_key":"` + strings.Repeat("k", 257) + `"}`, 422, kindInvalid, "body.concurrency_key", "257 bytes, more than 256"},
		{"rate_key", `{"kind":"a","rate_key":"a\tb"}`, 422, kindInvalid, "body.rate_key", "control character"},
		{"empty rate_key", `{"kind":"a","rate_key":""}`, 422, kindInvalid, "body.rate_key", "must not be empty"},
		{"large payload", `{"kind":"a","payload":"` + strings.Repeat("x", pelton.MaxPayload-1) + `"}`, 413, kindTooLarge, "body.payload", "262145 bytes"},
		{"large body", `{"kind":"a"` + strings.Repeat(" ", maxTaskBody) + `}`, 413, kindTooLarge, "", "larger than"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			tasks := newFakeTasks()
			p := wantProblem(t, call(t, serve(t, tasks, nil), http.MethodPost, "/tasks", tc.body), tc.status, tc.kind)
			text := p.Detail
			if tc.location != "" {
				if len(p.Errors) == 0 || p.Errors[0].Location != tc.location {
					t.Fatalf("errors = %+v, want one at %s", p.Errors, tc.location)
				}
				text = p.Errors[0].Message
			}
			if !strings.Contains(text, tc.message) {
				t.Errorf("message %q does not say %q", text, tc.message)
			}
			if got := tasks.accepted(); len(got) > 0 {
				t.Errorf("enqueued %+v", got)
			}
		})
	}
}

func TestAllMistakesAreNamedAtOnce(t *testing.T) {
	t.Parallel()
	body := `{"max_attempts":1.5,"queue":"A","que":1,"unique":{},"labels":{"x":2,"y":"ok"}}`
	p := wantProblem(t, call(t, serve(t, newFakeTasks(), nil), http.MethodPost, "/tasks", body), 422, kindInvalid)
	var got []string
	for _, e := range p.Errors {
		got = append(got, e.Location)
	}
	want := []string{"body.max_attempts", "body.que", "body.unique.key", "body.labels.x", "body.kind", "body.queue"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("locations (-want +got):\n%s", diff)
	}

	var many strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&many, `"x%d":1,`, i)
	}
	p = wantProblem(t, call(t, serve(t, newFakeTasks(), nil), http.MethodPost, "/tasks", `{`+many.String()+`"kind":"a"}`), 422, kindInvalid)
	if len(p.Errors) != maxFieldErrors {
		t.Errorf("%d errors", len(p.Errors))
	}
}

func TestMediaTypes(t *testing.T) {
	t.Parallel()
	for contentType, status := range map[string]int{
		"application/json":                  202,
		"application/json; charset=UTF-8":   202,
		"Application/JSON;charset=utf-8":    202,
		"application/vnd.acme.task+json":    202,
		"application/json; charset=latin1":  415,
		"application/x-www-form-urlencoded": 415,
		"text/plain":                        415,
		"text/x+json":                       415,
		"application/json, text/plain":      415,
		"":                                  415,
	} {
		tasks := newFakeTasks()
		w := call(t, serve(t, tasks, nil), http.MethodPost, "/tasks", `{"kind":"a"}`, "Content-Type", contentType)
		if w.Code != status || (len(tasks.accepted()) == 1) != (status == 202) {
			t.Errorf("%q: status = %d, enqueued %d", contentType, w.Code, len(tasks.accepted()))
		}
		if status == 415 {
			wantProblem(t, w, 415, kindMediaType)
		}
	}
	w := call(t, serve(t, newFakeTasks(), nil), http.MethodPost, "/tasks", `{"kind":"a"}`, "Content-Encoding", "gzip")
	wantProblem(t, w, 415, kindMediaType)
}

// TestDepthCountsContainers holds the byte scan against the decoder.
func TestDepthCountsContainers(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		depth := rapid.IntRange(0, 2*maxDepth).Draw(t, "depth")
		text := rapid.SampledFrom([]string{`1`, `"[{"`, `"\"[["`, `"\\"`, `[[],[],{}]`}).Draw(t, "inside")
		body, objects := text, rapid.Bool().Draw(t, "objects")
		for range depth {
			if objects {
				body = `{"a]":` + body + `,"b":[]}`
			} else {
				body = `["{",` + body + `,{}]`
			}
		}
		want := 0
		for dec := jsontext.NewDecoder(strings.NewReader(body)); ; {
			if _, err := dec.ReadToken(); err != nil {
				break
			}
			want = max(want, dec.StackDepth())
		}
		if _, deep := tooDeep([]byte(body)); deep != (want > maxDepth) {
			t.Fatalf("tooDeep = %v for depth %d: %s", deep, want, body)
		}
	})
}

func FuzzParseTask(f *testing.F) {
	for _, seed := range []string{
		`{"kind":"a"}`, `{"kind":"a","payload": {"x":[1, 2]} }`, `{"kind":"a","max_attempts":1e400}`, `{"labels":{"a":"b"},"delay":"1d"}`,
		`{"kind":"\ud800","unique":null}`, `[`, "\xff", `{"expires_at":"0001-01-01T00:00:00Z"}`, `{"a":1,"a":2}`, `{"kind":"a"}x`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		before := string(body)
		if err := checkJSON(body); err != nil {
			wantStatus(t, err, http.StatusBadRequest)
			return
		}
		if !json.Valid(body) {
			t.Fatal("checkJSON passed what encoding/json refuses")
		}
		spec, err := parseTask(jsontext.Value(body), "body", true)
		if string(body) != before {
			t.Fatal("the body was changed")
		}
		if err != nil {
			wantStatus(t, err, http.StatusUnprocessableEntity, http.StatusRequestEntityTooLarge)
			return
		}
		if len(spec.Payload) > 0 && (!strings.Contains(before, string(spec.Payload)) || !json.Valid(spec.Payload)) {
			t.Fatalf("payload %q is not from the body", spec.Payload)
		}
		if _, err := parseBatch([]byte(`{"tasks":[` + before + `]}`)); err != nil {
			t.Fatalf("a task alone is fine, in a batch: %v", err)
		}
	})
}

func wantStatus(t *testing.T, err error, statuses ...int) {
	t.Helper()
	var p *problem
	if !errors.As(err, &p) {
		t.Fatalf("not a problem: %v", err)
	}
	for _, status := range statuses {
		if p.Status == status {
			return
		}
	}
	t.Fatalf("status %d: %v", p.Status, err)
}
