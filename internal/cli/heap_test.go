package cli

import (
	"runtime"
	"testing"
)

func TestGarbageFor(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		live      uint64
		quiet     bool
		now, want int
	}{
		{0, false, garbageSmall, garbageSmall},
		{largeHeap - 1, false, garbageSmall, garbageSmall},
		{largeHeap, false, garbageSmall, garbageLarge},
		{largeHeap / 2, false, garbageLarge, garbageLarge},
		{largeHeap/2 - 1, false, garbageLarge, garbageSmall},
		{1 << 40, false, garbageLarge, garbageLarge},
		{smallHeap - 1, true, garbageSmall, garbageSmall},
		{smallHeap, true, garbageSmall, garbageQuiet},
		{1 << 40, true, garbageLarge, garbageQuiet},
		{smallHeap - 1, true, garbageQuiet, garbageSmall},
		{largeHeap / 2, false, garbageQuiet, garbageSmall},
		{largeHeap, false, garbageQuiet, garbageLarge},
	} {
		if got := garbageFor(tt.live, tt.quiet, tt.now); got != tt.want {
			t.Errorf("%d bytes after %d %%, quiet %t: %d %%, want %d %%", tt.live, tt.now, tt.quiet, got, tt.want)
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
