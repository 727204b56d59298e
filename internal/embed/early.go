package embed

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

const (
	// earlyEvery is how often what was written is handed to the disk ahead of the sync,
	// and earlyIdle how often it is looked at when there was nothing.
	earlyEvery = 50 * time.Millisecond
	earlyIdle  = 500 * time.Millisecond
	// earlyList is how often new streams are looked for.
	earlyList = 2 * time.Second
	// earlyMost is the longest sync interval with which it is done: with longer ones whoever
	// chose them wants little to be written.
	earlyMost = 10 * time.Second
)

// earlyWriter hands what the server has written to the disk before the server syncs it. The
// server holds the lock of a stream while it syncs, so that nobody can store or read a task
// meanwhile: after a second of full load those are some 20 MB and 50 ms, and more on a slow disk. What
// is on its way to the disk by then need not be waited for. It promises nothing, and what it cannot do
// is not done: the sync does it all.
type earlyWriter struct {
	store  string
	hand   func(path string, from, size int64) // hands a part of a file to the disk
	listed time.Time
	blocks map[string]*lastBlock // by folder
}

// lastBlock is the file that a stream is appended to.
type lastBlock struct {
	number int
	handed int64 // bytes that are on their way
}

func (b lastBlock) path(dir string) string {
	return filepath.Join(dir, strconv.Itoa(b.number)+".blk")
}

// run works until ctx ends.
func (e *earlyWriter) run(ctx context.Context) {
	timer := time.NewTimer(earlyIdle)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-timer.C:
			next := earlyIdle
			if e.look(now) {
				next = earlyEvery
			}
			timer.Reset(next)
		}
	}
}

// look hands over what was appended since the last time, and reports whether that was anything.
func (e *earlyWriter) look(now time.Time) (grew bool) {
	if now.Sub(e.listed) > earlyList {
		e.listed = now
		e.list()
	}
	for dir, b := range e.blocks {
		for more := true; more; {
			info, err := os.Stat(b.path(dir))
			if err == nil && info.Size() > b.handed {
				e.hand(b.path(dir), b.handed, info.Size()-b.handed)
				grew = true
			}
			if err == nil { // also when it became smaller
				b.handed = info.Size()
			}
			next := lastBlock{number: b.number + 1}
			_, err = os.Stat(next.path(dir))
			if more = err == nil; more {
				*b = next
			}
		}
	}
	return grew
}

// list finds the last block of each stream. What is known of those that are still there stays.
func (e *earlyWriter) list() {
	dirs, _ := filepath.Glob(filepath.Join(e.store, "*", "streams", "*", "msgs")) // the pattern is good
	found := make(map[string]*lastBlock, len(dirs))
	for _, dir := range dirs {
		if b := e.blocks[dir]; b != nil {
			if _, err := os.Stat(b.path(dir)); err == nil {
				found[dir] = b
				continue
			}
		}
		entries, err := os.ReadDir(dir)
		if err != nil {
			continue // gone by now
		}
		last := &lastBlock{}
		for _, entry := range entries {
			if n, err := strconv.Atoi(strings.TrimSuffix(entry.Name(), ".blk")); err == nil {
				last.number = max(last.number, n)
			}
		}
		if last.number > 0 {
			found[dir] = last
		}
	}
	e.blocks = found
}
