package cli

import (
	"runtime"
	"testing"
)

func TestGarbageFor(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		live        uint64
		quiet, busy bool
		now, want   int
	}{
		{0, false, false, garbageSmall, garbageSmall},
		{largeHeap - 1, false, false, garbageSmall, garbageSmall},
		{largeHeap, false, false, garbageSmall, garbageLarge},
		{largeHeap / 2, false, false, garbageLarge, garbageLarge},
		{largeHeap/2 - 1, false, false, garbageLarge, garbageSmall},
		{1 << 40, false, false, garbageLarge, garbageLarge},
		{smallHeap - 1, true, false, garbageSmall, garbageSmall},
		{smallHeap, true, false, garbageSmall, garbageQuiet},
		{1 << 40, true, false, garbageLarge, garbageQuiet},
		{smallHeap - 1, true, false, garbageQuiet, garbageSmall},
		{largeHeap / 2, false, false, garbageQuiet, garbageSmall},
		{largeHeap, false, false, garbageQuiet, garbageLarge},
		{smallHeap - 1, false, true, garbageSmall, garbageBusy},
		{smallHeap, false, true, garbageBusy, garbageSmall},
		{largeHeap - 1, false, false, garbageBusy, garbageSmall},
		{largeHeap, false, true, garbageBusy, garbageLarge},
	} {
		if got := garbageFor(tt.live, tt.quiet, tt.busy, tt.now); got != tt.want {
			t.Errorf("%d bytes after %d %%, quiet %t, busy %t: %d %%, want %d %%", tt.live, tt.now, tt.quiet, tt.busy, got, tt.want)
		}
	}
}

// A server is quiet after a while in which little was allocated, in whichever part of it, and
// busy with the first look at which it was much, or when it goes on with more than little.
func TestHeapWatch(t *testing.T) {
	t.Parallel()
	w := heapWatch{percent: garbageSmall}
	allocated := uint64(100 << 20)
	looks := func(n int, each uint64) (percent int) {
		for range n {
			allocated += each
			w.look(smallHeap, allocated)
		}
		return w.percent
	}
	for _, step := range []struct {
		what  string
		looks int
		each  uint64
		want  int
	}{
		{"it began with much", 1, busyBytes, garbageSmall},
		{"not long enough", quietLooks - 1, 1, garbageSmall},
		{"long enough", 1, busyBytes - 1, garbageQuiet},
		{"much at once", 1, busyBytes, garbageSmall},
		{"more than little", quietLooks, quietBytes / quietLooks, garbageSmall},
		{"little", quietLooks, quietBytes/quietLooks - 1, garbageQuiet},
		{"more again, not for long", quietLooks - 1, busyBytes - 1, garbageQuiet},
		{"more again", 1, busyBytes - 1, garbageSmall},
	} {
		if got := looks(step.looks, step.each); got != step.want {
			t.Errorf("%s: %d %%, want %d %%", step.what, got, step.want)
		}
	}
}

// A server that holds little is busy for a while after a look at which much was allocated.
func TestBusyHeap(t *testing.T) {
	t.Parallel()
	w := heapWatch{percent: garbageSmall}
	if w.look(smallHeap-1, busyBytes); w.percent != garbageBusy {
		t.Fatalf("busy: %d %%", w.percent)
	}
	for n := range busyLooks - 1 {
		if w.look(smallHeap-1, busyBytes); w.percent != garbageBusy {
			t.Fatalf("busy %d looks before: %d %%", n+1, w.percent)
		}
	}
	if w.look(smallHeap-1, busyBytes); w.percent != garbageSmall {
		t.Errorf("no more busy: %d %%", w.percent)
	}
}

func TestReadHeap(t *testing.T) {
	t.Parallel()
	held := make([]byte, 64<<20)
	runtime.GC()
	live, allocated := readHeap()
	if live < 64<<20 || live > 1<<40 {
		t.Errorf("%d bytes are live, 64 MiB at least are", live)
	}
	if allocated < 64<<20 || allocated > 1<<40 {
		t.Errorf("%d bytes were allocated, 64 MiB at least were", allocated)
	}
	runtime.KeepAlive(held)
}
