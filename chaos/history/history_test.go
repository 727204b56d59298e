package history_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/chaos/history"
)

func open(t *testing.T, dir, actor string) *history.Log {
	t.Helper()
	log, err := history.Open(dir, actor)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = log.Close() })
	return log
}

func write(t *testing.T, log *history.Log, e history.Event) {
	t.Helper()
	if err := log.Write(e); err != nil {
		t.Fatal(err)
	}
}

// What one actor writes is read back, in the order of time and not of files.
func TestWriteAndRead(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	a, b := open(t, dir, "a"), open(t, dir, "b")
	id := pelton.NewID(time.Now(), 0)
	full := history.Event{
		At: 7, Began: 5, Kind: history.Observe, Ref: "r", Task: id, Retention: time.Hour,
		Key: "k", Unique: "kind/u", Idempotency: "i", Lock: "l", Slots: 3, Token: 1 << 61,
		Attempt: 2, Fence: 1 << 60, Worker: "w", Run: "w#1", StartedAt: time.Unix(4, 5).UTC(), Outcome: history.OK, Fault: "kill", Target: history.Everyone, Note: "n\n",
		Record: &history.Record{
			State: pelton.Failed, Revision: 9, Stored: true, Previous: 8, Attempt: 2, Crashes: 1, Worker: "w", Reason: pelton.ReasonPanic,
			RunAt: time.Unix(1, 2).UTC(), StartedAt: time.Unix(2, 3).UTC(), FinishedAt: time.Unix(3, 4).UTC(), ResultFence: 6, ResultRun: "w#1",
		},
	}
	write(t, a, full)
	write(t, b, history.Event{At: 3, Kind: history.RunStart, Task: id})
	write(t, a, history.Event{At: 5, Kind: history.Healed})

	got, torn, err := history.ReadDir(dir)
	if err != nil || torn != 0 {
		t.Fatalf("%d torn, %v", torn, err)
	}
	full.Actor = "a"
	want := []history.Event{
		{At: 3, Kind: history.RunStart, Task: id, Actor: "b"},
		{At: 5, Kind: history.Healed, Actor: "a"},
		full,
	}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(history.Event{}, "Wall")); diff != "" {
		t.Error(diff)
	}
	for _, e := range got {
		if time.Since(e.Wall) > time.Minute {
			t.Errorf("wall time %s", e.Wall)
		}
	}
}

// Events without a time get one, and the clock goes on.
func TestStamps(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	log := open(t, dir, "a")
	before := history.Now()
	for range 3 {
		write(t, log, history.Event{Kind: history.RunStart})
	}
	after := history.Now()
	got, _, err := history.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range got {
		if e.At < before || e.At > after {
			t.Errorf("at %d, written between %d and %d", e.At, before, after)
		}
		before = e.At
	}
}

// A process that died in the middle of a write leaves a line without its end.
func TestTornLastLine(t *testing.T) {
	t.Parallel()
	whole := `{"at":1,"wall":"2026-01-01T00:00:00Z","actor":"a","event":"healed"}` + "\n"
	for cut := range len(whole) {
		events, torn, err := history.Parse([]byte(whole + whole[:cut]))
		if err != nil || torn != (cut > 0) || len(events) != 1 {
			t.Errorf("cut after %d bytes: %d events, torn %t, %v", cut, len(events), torn, err)
		}
	}
	if _, _, err := history.Parse([]byte("{\n" + whole)); err == nil || !strings.Contains(err.Error(), "line 1") {
		t.Errorf("a broken line in the middle: %v", err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "dead"+history.Suffix), []byte(whole+whole[:20]), 0o600); err != nil {
		t.Fatal(err)
	}
	if events, torn, err := history.ReadDir(dir); err != nil || torn != 1 || len(events) != 1 {
		t.Errorf("%d events, %d torn, %v", len(events), torn, err)
	}
}

// An actor's file is its own: a second one of that name is refused.
func TestOneFilePerActor(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	open(t, dir, "a")
	if log, err := history.Open(dir, "a"); err == nil {
		_ = log.Close()
		t.Error("two actors of one name")
	}
}

// Lines of concurrent writers stay whole.
func TestConcurrentWrites(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	log := open(t, dir, "a")
	var writers sync.WaitGroup
	for i := range 8 {
		writers.Go(func() {
			for j := range 50 {
				if err := log.Write(history.Event{Kind: history.RunStart, Ref: fmt.Sprint(i, j)}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	writers.Wait()
	events, torn, err := history.ReadDir(dir)
	if err != nil || torn != 0 || len(events) != 400 {
		t.Errorf("%d events, %d torn, %v", len(events), torn, err)
	}
}
