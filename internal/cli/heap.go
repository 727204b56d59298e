package cli

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	// heapLook is how soon a server that has something to do again collects as busy ones do.
	heapLook = 250 * time.Millisecond
	// A server is quiet that has allocated less than quietBytes in so many looks, 4 MiB in a second
	// for 5 s, until it allocates busyBytes between two looks, or more than quietBytes in as many again. One
	// that only sweeps allocates 2 to 3 MiB in a second.
	quietLooks = 20
	quietBytes = 20 << 20
	busyBytes  = 8 << 20
	// It is busy for so many looks after one of that.
	busyLooks = 8
	// largeHeap is from how many live bytes on the collector works more often, smallHeap
	// from how many on a quiet server's does, and up to how many a busy server's works less often.
	largeHeap = 96 << 20
	smallHeap = 16 << 20
	// Of the live heap: what may come on top of it before the collector starts. The
	// first is Go's default.
	garbageSmall = 100 // per cent
	garbageLarge = 40
	garbageQuiet = 25
	garbageBusy  = 300
)

// watchHeap keeps a server with many tasks from holding twice the memory that
// they need: most of a large heap is what the broker knows of them, which changes
// little, and going over it more often costs less than the memory. What a collector
// costs goes by what is allocated, so that of a quiet server can be thorough: at 4 MiB
// in a second it takes less than one per cent of a core. One that holds little and is busy would
// collect ten times a second: it may hold three times as much garbage, 48 MiB at most. It ends with ctx.
func watchHeap(ctx context.Context) {
	ticker := time.NewTicker(heapLook)
	defer ticker.Stop()
	w := heapWatch{percent: garbageSmall}
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		was := w.percent
		if w.look(readHeap()); w.percent != was {
			debug.SetGCPercent(w.percent)
		}
	}
}

// heapWatch is what is known of a heap.
type heapWatch struct {
	percent   int    // of garbage that is allowed
	allocated uint64 // bytes so far, at the last look
	quiet     bool
	busy      int    // looks for which it still is
	looks     int    // since it was last said whether it is quiet
	since     uint64 // what was allocated by then
}

// look takes in how many bytes are live and how many were allocated so far.
func (w *heapWatch) look(live, allocated uint64) {
	w.looks++
	w.busy = max(0, w.busy-1)
	switch {
	case allocated-w.allocated >= busyBytes:
		w.quiet, w.busy, w.looks, w.since = false, busyLooks, 0, allocated
	case w.looks == quietLooks:
		w.quiet, w.looks, w.since = allocated-w.since < quietBytes, 0, allocated
	}
	w.allocated = allocated
	w.percent = garbageFor(live, w.quiet, w.busy > 0, w.percent)
}

// garbageFor is the setting for a live heap. Between half of large and large it stays
// as it is, so that it does not go back and forth.
func garbageFor(live uint64, quiet, busy bool, now int) int {
	switch {
	case busy && live < smallHeap:
		return garbageBusy
	case quiet && live >= smallHeap:
		return garbageQuiet
	case live >= largeHeap:
		return garbageLarge
	case live < largeHeap/2 || now == garbageQuiet || now == garbageBusy:
		return garbageSmall
	default:
		return now
	}
}

// readHeap is what the last collection found in use, and what was allocated ever, in bytes.
func readHeap() (live, allocated uint64) {
	sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64(), sample[1].Value.Uint64()
}
