package embed

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// handed notes what is handed over.
type handed struct{ parts []string }

func (h *handed) hand(path string, from, size int64) {
	dir := filepath.Dir(filepath.Dir(path))
	h.parts = append(h.parts, fmt.Sprintf("%s/%s %d+%d", filepath.Base(dir), filepath.Base(path), from, size))
}

// What was appended is handed over once, also of blocks that were finished in between, of streams
// that are new, and after the last block was removed or became smaller.
func TestEarlyWriter(t *testing.T) {
	t.Parallel()
	store := t.TempDir()
	write := func(stream, block string, size int) {
		t.Helper()
		dir := filepath.Join(store, "$G", "streams", stream, "msgs")
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, block), make([]byte, size), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var h handed
	e := &earlyWriter{store: store, hand: h.hand}
	clock := time.Unix(1e9, 0)
	step := func(want ...string) {
		t.Helper()
		clock = clock.Add(earlyEvery)
		h.parts = nil
		if grew := e.look(clock); grew != (len(want) > 0) {
			t.Errorf("grew: %t", grew)
		}
		slices.Sort(h.parts)
		if diff := cmp.Diff(want, h.parts); diff != "" {
			t.Errorf("handed over (-want +got):\n%s", diff)
		}
	}
	step()
	clock = clock.Add(earlyList)
	write("A", "3.blk", 100)
	write("A", "4.blk", 10)
	write("A", "index.db", 10)
	write("B", "1.blk", 0)
	step("A/4.blk 0+10")
	step()
	write("A", "4.blk", 30)
	write("A", "5.blk", 7)
	write("A", "6.blk", 8)
	write("B", "1.blk", 1)
	write("C", "9.blk", 5) // not known yet
	step("A/4.blk 10+20", "A/5.blk 0+7", "A/6.blk 0+8", "B/1.blk 0+1")
	clock = clock.Add(earlyList)
	step("C/9.blk 0+5")
	write("C", "9.blk", 2)
	step()
	write("C", "9.blk", 4)
	step("C/9.blk 2+2")
	if err := os.RemoveAll(filepath.Join(store, "$G", "streams", "A", "msgs", "6.blk")); err != nil {
		t.Fatal(err)
	}
	write("A", "8.blk", 3)
	step()
	clock = clock.Add(earlyList)
	step("A/8.blk 0+3")
}

// The store of a server is where it is looked for.
func TestEarlyWriterOfAServer(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	srv := start(t, Config{Dir: dir})
	if err := store(testCtx(t), connect(t, srv), "one"); err != nil {
		t.Fatal(err)
	}
	var h handed
	e := &earlyWriter{store: filepath.Join(dir, storeName), hand: h.hand}
	if e.look(time.Now()); len(h.parts) != 1 || h.parts[0][:len("THINGS/1.blk 0+")] != "THINGS/1.blk 0+" {
		t.Errorf("handed over: %q", h.parts)
	}
}
