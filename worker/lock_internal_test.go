package worker

import (
	"testing"
	"time"

	"github.com/peltonq/pelton/internal/broker"
)

func TestNextRenewal(t *testing.T) {
	t.Parallel()
	const lease = 30 * time.Second
	for since, want := range map[time.Duration]time.Duration{
		0:                         10 * time.Second,
		4 * time.Second:           6 * time.Second,
		9 * time.Second:           1500 * time.Millisecond,
		10 * time.Second:          1500 * time.Millisecond,
		15 * time.Second:          1500 * time.Millisecond,
		19 * time.Second:          time.Second, // not a moment after two thirds
		20*time.Second - 1:        1,
		20 * time.Second:          0,
		time.Hour:                 0,
		-500 * time.Millisecond:   10500 * time.Millisecond,
		8500 * time.Millisecond:   1500 * time.Millisecond,
		8500*time.Millisecond - 1: 1500*time.Millisecond + 1,
	} {
		if got := nextRenewal(lease, since); got != want {
			t.Errorf("%s after the last contact: in %s, want %s", since, got, want)
		}
	}
}

func TestNextLook(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for _, test := range []struct {
		left []time.Duration // of the leases of those who hold it
		want time.Duration
	}{
		{nil, time.Second},
		{[]time.Duration{time.Minute}, time.Second},
		{[]time.Duration{990 * time.Millisecond}, time.Second},
		{[]time.Duration{300 * time.Millisecond}, 320 * time.Millisecond},
		{[]time.Duration{time.Minute, 300 * time.Millisecond, time.Hour}, 320 * time.Millisecond},
		{[]time.Duration{0}, 200 * time.Millisecond}, // the broker is late
		{[]time.Duration{-1900 * time.Millisecond}, 200 * time.Millisecond},
		{[]time.Duration{-2 * time.Second}, time.Second}, // clocks differ
		{[]time.Duration{-time.Hour}, time.Second},
	} {
		var held []*broker.Permit
		for _, left := range test.left {
			held = append(held, &broker.Permit{Expires: now.Add(left)})
		}
		if got := nextLook(held, now); got != test.want {
			t.Errorf("%s left: look after %s, want %s", test.left, got, test.want)
		}
	}
}
