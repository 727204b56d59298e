package broker

import (
	"testing"
	"time"
)

// As many wait for a turn as get one in twice turnPace.
func TestTurnQueue(t *testing.T) {
	t.Parallel()
	var q turnQueue
	now := time.Unix(1000, 0)
	joins := func(n int) (joined int) {
		for range n {
			if q.join(now) {
				joined++
			}
		}
		return joined
	}
	want := func(what string, got, want int) {
		t.Helper()
		if got != want {
			t.Errorf("%s: %d may wait, want %d", what, got, want)
		}
	}
	want("at first", joins(100), 2*firstPace)
	if !q.stay(now.Add(turnPace - 1)) {
		t.Error("nobody stays for a turnPace")
	}
	now = now.Add(turnPace)
	if q.stay(now) {
		t.Error("all stay where nobody gets a turn")
	}
	for range 2 * firstPace {
		q.leave()
	}
	want("where nobody gets a turn", joins(10), 1)
	q.leave()
	want("at once after that", joins(10), 0)
	now = now.Add(turnTry)
	want("a while after it", joins(10), 1)

	for range 10 {
		q.took(now)
	}
	want("beside one, when ten had a turn", joins(100), 19)
	if !q.stay(now) {
		t.Error("nobody stays where ten had a turn")
	}
	for range turnPaces { // 10 in 50 ms
		now = now.Add(turnPace)
		if !q.stay(now) {
			t.Fatal("a process that stood still for a moment takes its runs for slow ones")
		}
	}
	now = now.Add(turnPace)
	if q.stay(now) {
		t.Error("a pace is remembered for longer than turnPaces")
	}
	now = now.Add(turnPace)
	q.took(now)
	now = now.Add(10 * turnPace) // one in 500 ms is none in 50
	if q.stay(now) {
		t.Error("20 stay where one had a turn")
	}
}
