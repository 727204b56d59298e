package pelton_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/peltonq/pelton"
)

func TestQueueJSON(t *testing.T) {
	t.Parallel()
	queue := pelton.Queue{
		Name: "default",
		Priorities: map[pelton.Priority]pelton.Depth{
			pelton.High: {Ready: 2, Running: 1, Deliveries: 9, OldestReady: 2*time.Second + 345678*time.Microsecond},
			pelton.Low:  {Paused: true},
		},
		Ready: 2, Running: 1, Scheduled: 4, Waiting: 3, Dead: 5,
	}
	data, err := json.Marshal(queue)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"name":"default","paused":false,"settings":{},"priorities":{` +
		`"high":{"ready":2,"running":1,"oldest_ready":"2.346s","paused":false,"deliveries":9},` +
		`"low":{"ready":0,"running":0,"paused":true}},"ready":2,"running":1,"scheduled":4,"waiting":3,"dead":5}`
	if diff := cmp.Diff(want, string(data)); diff != "" {
		t.Error(diff)
	}
}

func TestDepthRoundTrip(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		want := pelton.Depth{
			Ready:       rapid.Uint64().Draw(t, "ready"),
			Running:     rapid.Uint64().Draw(t, "running"),
			OldestReady: time.Duration(rapid.Int64Range(0, 1<<40).Draw(t, "ms")) * time.Millisecond,
			Paused:      rapid.Bool().Draw(t, "paused"),
			Deliveries:  rapid.Uint64().Draw(t, "deliveries"),
		}
		data, err := json.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		var got pelton.Depth
		if err := json.Unmarshal(data, &got); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	})
	for _, bad := range []string{`{"oldest_ready":"soon"}`, `{"ready":-1}`, `[]`} {
		var d pelton.Depth
		if err := json.Unmarshal([]byte(bad), &d); err == nil {
			t.Errorf("%s is %+v", bad, d)
		}
	}
}
