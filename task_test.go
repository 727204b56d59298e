package pelton_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/peltonq/pelton"
)

// odd is JSON that encoding/json would not write back as it is.
var odd = []string{
	`{}`, `null`, `""`, `0`, `[]`, `false`,
	` { "a" :	1 , "b" : [ ] } `,
	"\r\n[1,\n 2]\n",
	`"<script>&amp;\u003c\u2028\/"`,
	"\"\u2028\u2029\u00e4\U0001f600\"",
	`"\ud83d\ude00 \u00e4 \t"`,
	`123456789012345678901234567890.10`,
	`1E+400`, `-0`, `-0.0e-0`, `1.0`,
	`{"z":1,"a":2,"":3}`,
	`"},\"result\":1"`,
	`{"payload":{"result":null},"id":"x"}`,
}

func TestAppendJSONKeepsBytes(t *testing.T) {
	t.Parallel()
	for _, text := range odd {
		task := pelton.Task{ID: pelton.NewID(now, 0), Kind: "k", Payload: json.RawMessage(text), Result: json.RawMessage(text)}
		requireSpliced(t, &task)
	}
}

func TestAppendJSONKeepsAnyBytes(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		task := drawTask(rt)
		requireSpliced(rt, &task)
	})
}

// requireSpliced checks that payload and result stand in the JSON form byte for
// byte, that the form is JSON, and that it reads back with the same bytes.
func requireSpliced(t rapid.TB, task *pelton.Task) {
	t.Helper()
	const before = "kept"
	got, err := task.AppendJSON([]byte(before))
	if err != nil {
		t.Fatal(err)
	}
	form, ok := bytes.CutPrefix(got, []byte(before))
	if !ok || !json.Valid(form) {
		t.Fatalf("not JSON: %s", got)
	}
	tail := "}"
	if len(task.Result) > 0 {
		tail = `,"result":` + string(task.Result) + tail
	}
	if len(task.Payload) > 0 {
		tail = `,"payload":` + string(task.Payload) + tail
	}
	if !strings.HasSuffix(string(form), tail) {
		t.Errorf("%s does not end in %s", form, tail)
	}
	var back pelton.Task
	if err := json.Unmarshal(form, &back); err != nil {
		t.Fatal(err)
	}
	// Space around a value is not part of it.
	if !bytes.Equal(back.Payload, bytes.TrimSpace(task.Payload)) || !bytes.Equal(back.Result, bytes.TrimSpace(task.Result)) {
		t.Errorf("read back %q and %q, want %q and %q", back.Payload, back.Result, task.Payload, task.Result)
	}
}

func TestTaskRoundTrip(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		want := drawTask(rt)
		want.Payload, want.Result = bytes.TrimSpace(want.Payload), bytes.TrimSpace(want.Result)
		form, err := want.AppendJSON(nil)
		if err != nil {
			rt.Fatal(err)
		}
		var got pelton.Task
		if err := json.Unmarshal(form, &got); err != nil {
			rt.Fatalf("%v in %s", err, form)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			rt.Error(diff)
		}
	})
}

func TestTaskJSON(t *testing.T) {
	t.Parallel()
	id := pelton.NewID(now, 0)
	for name, tt := range map[string]struct {
		task pelton.Task
		want string
	}{
		"absent is absent": {
			pelton.Task{ID: id, Kind: "k", Queue: "default", Priority: pelton.Normal, State: pelton.Queued, MaxAttempts: 20},
			`{"id":"` + id.String() + `","kind":"k","queue":"default","priority":"normal","state":"queued","attempt":0,"max_attempts":20,"crashes":0,"revision":0}`,
		},
		"all is there": {
			pelton.Task{
				ID: id, Kind: "k", Queue: "q", Priority: pelton.High, State: pelton.Failed, Attempt: 2, MaxAttempts: 2, Crashes: 1,
				Timeout: 90 * time.Second, Retention: 24 * time.Hour, Revision: 7,
				CreatedAt: now, RunAt: now, ExpiresAt: now, StartedAt: now, FinishedAt: now, Worker: "w1",
				Progress: &pelton.Progress{Done: 3, Total: 9, Message: "third"},
				Error:    &pelton.Failure{Message: "<no>", Reason: pelton.ReasonPanic, Attempt: 2, At: now, Stack: "main.go:1"},
				Errors:   []pelton.Failure{{Message: "first", Reason: pelton.ReasonError, Attempt: 1, At: now}},
				RateKey:  "acme",
				Labels:   map[string]string{"tenant": "acme"},
				Payload:  json.RawMessage(`{"to": "<a@b.c>"}`),
				Result:   json.RawMessage(`1.0`),
			},
			`{"id":"` + id.String() + `","kind":"k","queue":"q","priority":"high","state":"failed","attempt":2,"max_attempts":2,"crashes":1,` +
				`"timeout":"1m30s","retention":"24h","revision":7,` +
				`"created_at":"2026-05-04T03:02:01.123456789Z","run_at":"2026-05-04T03:02:01.123456789Z","expires_at":"2026-05-04T03:02:01.123456789Z",` +
				`"started_at":"2026-05-04T03:02:01.123456789Z","finished_at":"2026-05-04T03:02:01.123456789Z","worker":"w1",` +
				`"progress":{"done":3,"total":9,"message":"third"},` +
				`"error":{"message":"\u003cno\u003e","reason":"panic","attempt":2,"at":"2026-05-04T03:02:01.123456789Z","stack":"main.go:1"},` +
				`"errors":[{"message":"first","reason":"error","attempt":1,"at":"2026-05-04T03:02:01.123456789Z"}],` +
				`"rate_key":"acme","labels":{"tenant":"acme"},"payload":{"to": "<a@b.c>"},"result":1.0}`,
		},
	} {
		got, err := tt.task.AppendJSON(nil)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if diff := cmp.Diff(tt.want, string(got)); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// A Task that is not a pointer must not fall back to its Go field names.
func TestMarshalTaskByValue(t *testing.T) {
	t.Parallel()
	task := pelton.Task{ID: pelton.NewID(now, 0), Kind: "k", Payload: json.RawMessage(`1`)}
	want, err := task.AppendJSON(nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, v := range map[string]any{"value": task, "pointer": &task} {
		if got, err := json.Marshal(v); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %s, %v, want %s", name, got, err, want)
		}
	}
}

func TestUnmarshalTask(t *testing.T) {
	t.Parallel()
	id := pelton.NewID(now, 0)
	var got pelton.Task
	if err := json.Unmarshal([]byte(`{"id":"`+id.String()+`","state":"running","timeout":"1d","of_a_later_version":{"a":1}}`), &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(pelton.Task{ID: id, State: pelton.Running, Timeout: 24 * time.Hour}, got); diff != "" {
		t.Error(diff)
	}
	for name, bad := range map[string]string{
		"id":        `{"id":"nothing"}`,
		"timeout":   `{"timeout":"soon"}`,
		"retention": `{"retention":"-1s"}`,
	} {
		if err := json.Unmarshal([]byte(bad), &got); !errors.Is(err, pelton.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, bad := range []string{`[]`, `{"attempt":"1"}`, `{"created_at":"yesterday"}`, `{`} {
		if err := json.Unmarshal([]byte(bad), &got); err == nil {
			t.Errorf("%s passed", bad)
		}
	}
}

// drawTask draws a task with any of its fields set or absent.
func drawTask(t *rapid.T) pelton.Task {
	text := rapid.StringN(0, 20, -1)
	instant := rapid.Custom(func(t *rapid.T) time.Time {
		if rapid.Bool().Draw(t, "absent") {
			return time.Time{}
		}
		const year9999 = 253402300799
		return time.Unix(rapid.Int64Range(0, year9999).Draw(t, "s"), rapid.Int64Range(0, 999_999_999).Draw(t, "ns")).UTC()
	})
	duration := rapid.Custom(func(t *rapid.T) time.Duration { return time.Duration(rapid.Int64Min(0).Draw(t, "d")) })
	failure := rapid.Custom(func(t *rapid.T) pelton.Failure {
		return pelton.Failure{
			Message: text.Draw(t, "message"), Reason: pelton.Reason(text.Draw(t, "reason")),
			Attempt: rapid.Int().Draw(t, "attempt"), At: instant.Draw(t, "at"), Stack: text.Draw(t, "stack"),
		}
	})
	task := pelton.Task{
		ID:          drawID(t),
		Kind:        text.Draw(t, "kind"),
		Queue:       text.Draw(t, "queue"),
		Priority:    rapid.SampledFrom(pelton.Priorities()).Draw(t, "priority"),
		State:       rapid.SampledFrom(pelton.States()).Draw(t, "state"),
		Payload:     drawJSON(t, "payload"),
		Result:      drawJSON(t, "result"),
		Attempt:     rapid.Int().Draw(t, "attempt"),
		MaxAttempts: rapid.Int().Draw(t, "max_attempts"),
		Crashes:     rapid.Int().Draw(t, "crashes"),
		Timeout:     duration.Draw(t, "timeout"),
		Retention:   duration.Draw(t, "retention"),
		Backoff:     pelton.Backoff{Initial: duration.Draw(t, "initial"), Max: duration.Draw(t, "max"), Factor: float64(rapid.IntRange(0, 10).Draw(t, "factor"))},
		Revision:    rapid.Uint64().Draw(t, "revision"),
		CreatedAt:   instant.Draw(t, "created_at"),
		RunAt:       instant.Draw(t, "run_at"),
		ExpiresAt:   instant.Draw(t, "expires_at"),
		StartedAt:   instant.Draw(t, "started_at"),
		FinishedAt:  instant.Draw(t, "finished_at"),
		Worker:      text.Draw(t, "worker"),

		ConcurrencyKey: text.Draw(t, "concurrency_key"),
	}
	if rapid.Bool().Draw(t, "has progress") {
		task.Progress = &pelton.Progress{Done: rapid.Int64().Draw(t, "done"), Total: rapid.Int64().Draw(t, "total"), Message: text.Draw(t, "progress")}
	}
	if rapid.Bool().Draw(t, "has failed") {
		f := failure.Draw(t, "error")
		task.Error = &f
		task.Errors = rapid.SliceOfN(failure, 1, pelton.MaxErrors).Draw(t, "errors")
	}
	if rapid.Bool().Draw(t, "has a rate key") {
		task.RateKey = text.Draw(t, "rate_key")
	}
	if rapid.Bool().Draw(t, "has labels") {
		task.Labels = rapid.MapOfN(text, text, 1, 4).Draw(t, "labels")
	}
	return task
}

// drawJSON draws JSON with space, escapes and numbers of any form, or nothing.
func drawJSON(t *rapid.T, label string) json.RawMessage {
	if rapid.Bool().Draw(t, label+" absent") {
		return nil
	}
	space := rapid.SampledFrom([]string{"", "", " ", "\n", "\t \r\n"})
	name := rapid.StringMatching(`"([ -!#-\[\]-~ä€]|\\["\\/bfnrt]|\\u[0-9a-fA-F]{4}){0,6}"`)
	scalar := rapid.OneOf(
		name,
		rapid.StringMatching(`-?(0|[1-9][0-9]{0,30})(\.[0-9]{1,20})?([eE][+-]?[0-9]{1,4})?`),
		rapid.SampledFrom(odd),
	)
	var value func(depth int) *rapid.Generator[string]
	value = func(depth int) *rapid.Generator[string] {
		if depth == 0 {
			return scalar
		}
		return rapid.Custom(func(t *rapid.T) string {
			inner := value(depth - 1)
			sp := func() string { return space.Draw(t, "space") }
			switch rapid.IntRange(0, 2).Draw(t, "shape") {
			case 0:
				return sp() + scalar.Draw(t, "scalar") + sp()
			case 1:
				items := rapid.SliceOfN(inner, 0, 3).Draw(t, "items")
				return sp() + "[" + sp() + strings.Join(items, sp()+","+sp()) + "]" + sp()
			default:
				names := rapid.SliceOfNDistinct(name, 0, 3, rapid.ID[string]).Draw(t, "names")
				for i := range names {
					names[i] += sp() + ":" + inner.Draw(t, "value")
				}
				return sp() + "{" + sp() + strings.Join(names, ","+sp()) + "}" + sp()
			}
		})
	}
	return json.RawMessage(value(2).Draw(t, label))
}
