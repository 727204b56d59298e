package worker

import (
	"testing"
	"time"
)

func TestPresenceTTL(t *testing.T) {
	t.Parallel()
	for lease, want := range map[time.Duration]time.Duration{
		time.Second:             time.Second, // the broker's finest
		3 * time.Second:         time.Second,
		10 * time.Second:        5 * time.Second,
		30 * time.Second:        15 * time.Second,
		time.Hour:               15 * time.Second,
		7500 * time.Millisecond: 3 * time.Second,
	} {
		if got := presenceTTL(lease); got != want {
			t.Errorf("presenceTTL(%s) = %s, want %s", lease, got, want)
		}
	}
}
