package history

import (
	"time"

	"golang.org/x/sys/unix"
)

// Now is the time since the machine started, in nanoseconds. All processes of the
// host share it, and nobody sets it.
func Now() int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return time.Now().UnixNano() // not on any kernel that Go runs on
	}
	return ts.Nano()
}
