package pelton_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/peltonq/pelton"
)

const fullSettings = `{"max_running":{"high":8,"low":4},"rate":{"limit":100,"per":"1s","burst":10,"on_error":"open"},` +
	`"max_depth":100000,"lease":"30s","max_attempts":20,"max_crashes":3,"timeout":"5m","retention":"24h"}`

func settings(t *testing.T, text string) pelton.QueueSettings {
	t.Helper()
	var s pelton.QueueSettings
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSettingsJSON(t *testing.T) {
	t.Parallel()
	want := pelton.QueueSettings{
		MaxRunning: map[pelton.Priority]int{pelton.High: 8, pelton.Low: 4},
		Rate:       &pelton.RateLimit{Limit: 100, Per: time.Second, Burst: 10, OnError: "open"},
		MaxDepth:   100_000, Lease: 30 * time.Second, MaxAttempts: 20, MaxCrashes: 3, Timeout: 5 * time.Minute, Retention: 24 * time.Hour,
	}
	if diff := cmp.Diff(want, settings(t, fullSettings)); diff != "" {
		t.Errorf("read (-want +got):\n%s", diff)
	}
	for _, text := range []string{fullSettings, `{}`} {
		if data, err := json.Marshal(settings(t, text)); err != nil || string(data) != text {
			t.Errorf("written %s, %v; want %s", data, err, text)
		}
	}
	if got := settings(t, `{"lease":"1m","new":[1]}`); got.Lease != time.Minute {
		t.Errorf("with a field of a later version: %+v", got)
	}
	var s pelton.QueueSettings
	if err := json.Unmarshal([]byte(`{"lease":"soon"}`), &s); err == nil {
		t.Errorf("a lease that is no duration is %+v", s)
	}
}

func TestMerge(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ name, before, patch, want string }{
		{"nothing", fullSettings, `{}`, fullSettings},
		{"everything", `{}`, fullSettings, fullSettings},
		{"one", `{"lease":"30s"}`, ` {"max_crashes" : 5} `, `{"lease":"30s","max_crashes":5}`},
		{"over another", `{"lease":"30s"}`, `{"lease":"1m30s"}`, `{"lease":"1m30s"}`},
		{"null", `{"lease":"30s","timeout":"1m"}`, `{"lease":null}`, `{"timeout":"1m"}`},
		{"null of nothing", `{}`, `{"lease":null,"rate":null,"max_running":null}`, `{}`},
		{
			"all null", fullSettings,
			`{"max_running":null,"rate":null,"max_depth":null,"lease":null,"max_attempts":null,"max_crashes":null,"timeout":null,"retention":null}`, `{}`,
		},
		{"one priority more", `{"max_running":{"low":4}}`, `{"max_running":{"high":2}}`, `{"max_running":{"high":2,"low":4}}`},
		{"one priority less", `{"max_running":{"high":2,"low":4}}`, `{"max_running":{"high":null}}`, `{"max_running":{"low":4}}`},
		{"the last priority", `{"max_running":{"low":4}}`, `{"max_running":{"low":null}}`, `{}`},
		{"part of the rate", `{"rate":{"limit":5,"per":"1m"}}`, `{"rate":{"burst":2,"per":null}}`, `{"rate":{"limit":5,"burst":2}}`},
		{"days", `{}`, `{"retention":"7d"}`, `{"retention":"168h"}`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			before := settings(t, tc.before)
			got, err := before.Merge([]byte(tc.patch))
			if err != nil {
				t.Fatal(err)
			}
			if data, err := json.Marshal(got); err != nil || string(data) != tc.want {
				t.Errorf("%s, %v; want %s", data, err, tc.want)
			}
			if diff := cmp.Diff(settings(t, tc.before), before); diff != "" {
				t.Errorf("Merge changed what it was called on:\n%s", diff)
			}
		})
	}
}

func TestMergeRefuses(t *testing.T) {
	t.Parallel()
	for patch, want := range map[string]string{
		`{"colour":1}`:                               "colour: is not a known setting",
		`{"max_running":4}`:                          "max_running: must be an object",
		`{"max_running":{"low":0}}`:                  "max_running.low: 0 would stop the priority: pause it instead",
		`{"max_running":{"low":-1}}`:                 "max_running.low: -1 is not between",
		`{"max_running":{"low":"4"}}`:                "max_running.low: must be a whole number",
		`{"max_running":{"low":1.5}}`:                "max_running.low: must be a whole number",
		`{"max_running":{"urgent":1}}`:               "max_running.urgent: is none of critical",
		`{"max_running":{"":1}}`:                     "max_running.: is none of critical",
		`{"max_depth":0}`:                            "max_depth: 0 is not between",
		`{"max_depth":99999999999999999999}`:         "max_depth: must be a whole number",
		`{"lease":30}`:                               "lease: must be a string",
		`{"lease":""}`:                               "lease: must not be empty",
		`{"lease":"soon"}`:                           `lease: "soon" is not a duration`,
		`{"lease":"0s"}`:                             "lease: must be more than zero",
		`{"lease":"900ms"}`:                          "lease: 900ms is not between 1s and 1h",
		`{"lease":"2h"}`:                             "lease: 2h is not between",
		`{"max_attempts":1001}`:                      "max_attempts: 1001 is not between",
		`{"max_crashes":1001}`:                       "max_crashes: 1001 is not between",
		`{"timeout":"1us"}`:                          "timeout: 1µs is not between",
		`{"retention":"367d"}`:                       "retention: 8808h is not between",
		`{"rate":5}`:                                 "rate: must be an object",
		`{"rate":{"burst":5}}`:                       "rate.limit: is required",
		`{"rate":{"limit":5,"on_error":"panic"}}`:    `rate.on_error: "panic" is none of`,
		`{"rate":{"limit":5,"colour":1}}`:            "rate.colour: is not a known setting",
		`{"rate":{"limit":5,"per":"31d"}}`:           "rate.per: 744h is not between",
		`null`:                                       "must be an object",
		`[]`:                                         "must be an object",
		`{"a":1,"lease":3,"max_running":{"low":0}}`:  "invalid a: is not a known setting; lease: must be a string such as 90s, 1h30m or 7d; max_running.low: 0",
		`{"max_running":{"low":4},"max_crashes":-1}`: "max_crashes: -1 is not between",
	} {
		got, err := settings(t, `{}`).Merge([]byte(patch))
		if !errors.Is(err, pelton.ErrInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %+v, %v; want %q", patch, got, err, want)
		}
	}
}

func TestCheckSettings(t *testing.T) {
	t.Parallel()
	for field, s := range map[string]pelton.QueueSettings{
		"max_running.low": {MaxRunning: map[pelton.Priority]int{pelton.Low: 0}},
		"max_running.":    {MaxRunning: map[pelton.Priority]int{"": 1}},
		"rate.limit":      {Rate: &pelton.RateLimit{Limit: -1}},
		"rate.per":        {Rate: &pelton.RateLimit{Limit: 1, Per: -1}},
		"rate.burst":      {Rate: &pelton.RateLimit{Limit: 1, Burst: -1}},
		"max_depth":       {MaxDepth: -1},
		"lease":           {Lease: -time.Second},
		"max_attempts":    {MaxAttempts: -1},
		"max_crashes":     {MaxCrashes: -1},
		"timeout":         {Timeout: -1},
		"retention":       {Retention: time.Millisecond},
	} {
		var invalid *pelton.ValidationError
		if err := s.Check(); !errors.As(err, &invalid) || len(invalid.Fields) != 1 || invalid.Fields[0].Field != field {
			t.Errorf("%s: %v", field, err)
		}
	}
	if err := settings(t, fullSettings).Check(); err != nil {
		t.Error(err)
	}
}

func TestFillGoesAfterTheTask(t *testing.T) {
	t.Parallel()
	s := pelton.QueueSettings{MaxAttempts: 3, Timeout: time.Minute, Retention: time.Hour}
	spec := pelton.Spec{Kind: "k", Timeout: time.Second}
	s.Fill(&spec)
	if diff := cmp.Diff(pelton.Spec{Kind: "k", Timeout: time.Second, MaxAttempts: 3, Retention: time.Hour}, spec); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	spec = pelton.Spec{Kind: "k"}
	pelton.QueueSettings{}.Fill(&spec)
	if diff := cmp.Diff(pelton.Spec{Kind: "k"}, spec); diff != "" {
		t.Errorf("without settings (-want +got):\n%s", diff)
	}
}

// Whatever a patch sets, a patch of nulls takes back.
func TestMergeTakesBackWhatItSet(t *testing.T) {
	t.Parallel()
	values := map[string][]string{
		"max_depth": {"1", "5000"}, "lease": {`"1s"`, `"1m"`}, "max_attempts": {"1"}, "max_crashes": {"7"}, "timeout": {`"2s"`}, "retention": {`"3h"`},
		"max_running": {`{"low":1}`, `{"high":2,"low":3}`}, "rate": {`{"limit":1}`},
	}
	rapid.Check(t, func(t *rapid.T) {
		set, unset := map[string]json.RawMessage{}, map[string]json.RawMessage{}
		for name, choices := range values {
			if rapid.Bool().Draw(t, name) {
				set[name] = json.RawMessage(rapid.SampledFrom(choices).Draw(t, "value"))
				unset[name] = json.RawMessage("null")
			}
		}
		there, _ := json.Marshal(set)
		back, _ := json.Marshal(unset)
		with, err := pelton.QueueSettings{}.Merge(there)
		if err != nil {
			t.Fatal(err)
		}
		data, err := json.Marshal(with)
		if err != nil {
			t.Fatal(err)
		}
		var again pelton.QueueSettings
		if err := json.Unmarshal(data, &again); err != nil || cmp.Diff(with, again) != "" {
			t.Fatalf("%s reads as %+v, %v", data, again, err)
		}
		without, err := with.Merge(back)
		if err != nil || cmp.Diff(pelton.QueueSettings{}, without) != "" {
			t.Fatalf("%s then %s is %+v, %v", there, back, without, err)
		}
	})
}

// No patch makes settings that Check would refuse, or panics.
func FuzzMerge(f *testing.F) {
	f.Add(`{}`, fullSettings)
	f.Add(fullSettings, `{"max_running":{"low":null},"rate":null,"lease":"1m"}`)
	f.Add(fullSettings, `{"rate":{"limit":null}}`)
	f.Add(`{}`, `{"max_running":{"low":1e3},"max_depth":-0}`)
	f.Fuzz(func(t *testing.T, before, patch string) {
		var s pelton.QueueSettings
		if json.Unmarshal([]byte(before), &s) != nil || s.Check() != nil {
			return
		}
		merged, err := s.Merge([]byte(patch))
		if err != nil {
			if !errors.Is(err, pelton.ErrInvalid) {
				t.Errorf("%q into %q: %v", patch, before, err)
			}
			return
		}
		if err := merged.Check(); err != nil {
			t.Errorf("%q into %q: %v", patch, before, err)
		}
		data, err := json.Marshal(merged)
		var again pelton.QueueSettings
		if err != nil || json.Unmarshal(data, &again) != nil || cmp.Diff(merged, again) != "" {
			t.Errorf("%q into %q: %+v does not survive its JSON %s", patch, before, merged, data)
		}
	})
}
