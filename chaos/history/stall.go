package history

import (
	"context"
	"time"
)

// StopFault is the fault of a process that was stopped.
const StopFault = "stop"

// StallFault is the fault that WatchStalls writes.
const StallFault = "stall"

// WatchStalls looks at the clock until ctx ends and writes a fault on target for
// every time that it was not given the processor for longer than bound: a machine
// that is too busy breaks leases too. It returns the first error of writing.
func WatchStalls(ctx context.Context, log *Log, bound time.Duration, target string) error {
	ticker := time.NewTicker(bound / 10)
	defer ticker.Stop()
	last := Now()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		now := Now()
		if now-last > int64(bound) {
			for at, kind := range map[int64]Kind{last: FaultBegin, now: FaultEnd} {
				if err := log.Write(Event{At: at, Kind: kind, Fault: StallFault, Target: target}); err != nil {
					return err
				}
			}
		}
		last = now
	}
}
