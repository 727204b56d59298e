package cli

import (
	"runtime"
	"testing"
)

func TestGarbageFor(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		live      uint64
		now, want int
	}{
		{0, garbageSmall, garbageSmall},
		{largeHeap - 1, garbageSmall, garbageSmall},
		{largeHeap, garbageSmall, garbageLarge},
		{largeHeap / 2, garbageLarge, garbageLarge},
		{largeHeap/2 - 1, garbageLarge, garbageSmall},
		{1 << 40, garbageLarge, garbageLarge},
	} {
		if got := garbageFor(tt.live, tt.now); got != tt.want {
			t.Errorf("%d bytes after %d %%: %d %%, want %d %%", tt.live, tt.now, got, tt.want)
		}
	}
}

func TestLiveHeap(t *testing.T) {
	t.Parallel()
	held := make([]byte, 64<<20)
	runtime.GC()
	if live := liveHeap(); live < 64<<20 || live > 1<<40 {
		t.Errorf("%d bytes are live, 64 MiB at least are", live)
	}
	runtime.KeepAlive(held)
}
