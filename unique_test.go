package pelton_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/peltonq/pelton"
)

func TestUniqueJSON(t *testing.T) {
	t.Parallel()
	for text, u := range map[string]pelton.Unique{
		`{"key":"k"}`: {Key: "k"},
		`{"key":"k","until":"started","window":"1h30m","on_conflict":"replace"}`: {
			Key: "k", Until: pelton.UntilStarted, Window: 90 * time.Minute, OnConflict: pelton.ConflictReplace,
		},
	} {
		got, err := json.Marshal(u)
		if err != nil || string(got) != text {
			t.Errorf("Marshal(%+v) = %s, %v", u, got, err)
		}
		var back pelton.Unique
		if err := json.Unmarshal([]byte(text), &back); err != nil || back != u {
			t.Errorf("Unmarshal(%s) = %+v, %v", text, back, err)
		}
		task := pelton.Task{ID: pelton.NewID(now, 0), Unique: &u}
		whole, err := json.Marshal(task)
		if err != nil || !strings.Contains(string(whole), `"unique":`+text) {
			t.Errorf("task = %s, %v", whole, err)
		}
		var again pelton.Task
		if err := json.Unmarshal(whole, &again); err != nil || !cmp.Equal(again.Unique, &u) {
			t.Errorf("task read back = %+v, %v", again.Unique, err)
		}
	}
	var u pelton.Unique
	for _, bad := range []string{`{"key":1}`, `{"key":"k","window":"soon"}`, `[]`} {
		if err := json.Unmarshal([]byte(bad), &u); err == nil {
			t.Errorf("Unmarshal(%s) = %+v", bad, u)
		}
	}
}

func TestUniqueIsNormalized(t *testing.T) {
	t.Parallel()
	given := pelton.Unique{Key: "k"}
	spec := pelton.Spec{Kind: "a"}
	spec.Apply(pelton.WithUnique(given), pelton.WithIdempotencyKey("i"))
	asked := spec.Unique
	got, err := spec.Normalized(now)
	want := pelton.Unique{Key: "k", Until: pelton.UntilFinished, OnConflict: pelton.ConflictReject}
	if err != nil || *got.Unique != want || got.IdempotencyKey != "i" {
		t.Errorf("Normalized = %+v, %v", got, err)
	}
	if *asked != given {
		t.Errorf("the caller's Unique became %+v", asked)
	}

	long := strings.Repeat("x", 257)
	for _, tc := range []struct {
		unique *pelton.Unique
		key    string
		fields []string
	}{
		{&pelton.Unique{}, "", []string{"unique.key"}},
		{&pelton.Unique{Key: long}, "", []string{"unique.key"}},
		{&pelton.Unique{Key: "a\nb"}, "", []string{"unique.key"}},
		{&pelton.Unique{Key: "k", Until: "Started", OnConflict: "skip", Window: -1}, "", []string{"unique.until", "unique.on_conflict", "unique.window"}},
		{&pelton.Unique{Key: "k", Window: time.Millisecond}, "", []string{"unique.window"}},
		{&pelton.Unique{Key: "k", Window: 367 * 24 * time.Hour}, "", []string{"unique.window"}},
		{nil, long, []string{"idempotency_key"}},
		{nil, "\xff", []string{"idempotency_key"}},
	} {
		_, err := pelton.Spec{Kind: "a", Unique: tc.unique, IdempotencyKey: tc.key}.Normalized(now)
		var invalid *pelton.ValidationError
		if !errors.As(err, &invalid) {
			t.Fatalf("%+v %q: %v", tc.unique, tc.key, err)
		}
		var fields []string
		for _, f := range invalid.Fields {
			fields = append(fields, f.Field)
		}
		if diff := cmp.Diff(tc.fields, fields); diff != "" {
			t.Errorf("%+v %q (-want +got):\n%s", tc.unique, tc.key, diff)
		}
	}
}

func TestUniqueError(t *testing.T) {
	t.Parallel()
	id := pelton.NewID(now, 0)
	for state, want := range map[pelton.State]string{
		pelton.Running:   `conflict: task %s holds the unique key "k" of kind a: it is running`,
		pelton.Succeeded: `conflict: task %s holds the unique key "k" of kind a: it is succeeded, within the key's window`,
		"":               `conflict: task %s holds the unique key "k" of kind a: it is over, within the key's window`,
	} {
		err := error(&pelton.UniqueError{Kind: "a", Key: "k", Holder: id, State: state})
		if got := err.Error(); got != fmt.Sprintf(want, id) || !errors.Is(err, pelton.ErrConflict) {
			t.Errorf("%s: %s", state, got)
		}
	}
}
