package cli

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	heapLook = 5 * time.Second
	// largeHeap is from how many live bytes on the collector works more often.
	largeHeap = 96 << 20
	// Of the live heap: what may come on top of it before the collector starts. The
	// first is Go's default.
	garbageSmall = 100 // per cent
	garbageLarge = 40
)

// watchHeap keeps a server with many waiting tasks from holding twice the memory that
// they need: most of a large heap is what the broker knows of them, which changes
// little, and going over it more often costs less than the memory. It ends with ctx.
func watchHeap(ctx context.Context) {
	ticker := time.NewTicker(heapLook)
	defer ticker.Stop()
	now := garbageSmall
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if want := garbageFor(liveHeap(), now); want != now {
			debug.SetGCPercent(want)
			now = want
		}
	}
}

// garbageFor is the setting for a live heap. Between half of large and large it stays
// as it is, so that it does not go back and forth.
func garbageFor(live uint64, now int) int {
	switch {
	case live >= largeHeap:
		return garbageLarge
	case live < largeHeap/2:
		return garbageSmall
	default:
		return now
	}
}

// liveHeap is what the last collection found in use, in bytes.
func liveHeap() uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}
