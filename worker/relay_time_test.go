package worker

import (
	"testing"
	"time"
)

// A relay ends after 100 ms, unless the broker took these for fewer than eight tasks.
func TestRelayTime(t *testing.T) {
	t.Parallel()
	const ms = time.Millisecond
	for _, tt := range []struct {
		name         string
		took, worked time.Duration
		ended        int
		inTime       bool
		takes        int
	}{
		{"at once", 0, 0, 1, true, mostRelayed},
		{"1 ms each", ms, 0, 1, true, mostRelayed},
		{"10 ms each", 10 * ms, 10 * ms, 1, true, 9},
		{"10 ms each, five of them", 50 * ms, 50 * ms, 5, true, 5},
		{"2 ms each, near its end", 98 * ms, 0, 49, true, 1},
		{"2 ms each, at its end", 100 * ms, 0, 50, false, 0},
		{"handlers of 60 ms", 60 * ms, 60 * ms, 1, true, 0},
		{"handlers of 120 ms", 120 * ms, 120 * ms, 1, false, 0},
		{"a slow broker", 40 * ms, 0, 1, true, 7},
		{"a slow broker, three tasks", 120 * ms, 0, 3, true, 5},
		{"a slow broker, eight tasks", 320 * ms, 0, 8, false, 0},
		{"a slow broker, and handlers of 20 ms", 120 * ms, 60 * ms, 3, true, 2},
		{"a slow broker, and handlers that took their time", 160 * ms, 100 * ms, 4, false, 0},
		{"a very slow broker", 300 * ms, 0, 1, true, 0},
		{"a broker that takes all time", 400 * ms, 0, 1, false, 0},
	} {
		if got := relayInTime(tt.took, tt.worked, tt.ended); got != tt.inTime {
			t.Errorf("%s: in time: %t", tt.name, got)
		}
		if got := relayTakes(tt.took, tt.worked, tt.ended); got != tt.takes {
			t.Errorf("%s: it takes %d, want %d", tt.name, got, tt.takes)
		}
	}
}
