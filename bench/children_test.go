package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// What a child started ends with it.
func TestStopEndsTheGroup(t *testing.T) {
	t.Parallel()
	said := make(chan string, 1)
	c, err := program{
		path: "/bin/sh", args: []string{"-c", `sleep 300 & echo $!; wait`}, log: filepath.Join(t.TempDir(), "log"),
		line: func(line string) { said <- line },
	}.start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	grandchild, err := strconv.Atoi(<-said)
	if err != nil {
		t.Fatal(err)
	}
	found, err := tree([]int{os.Getpid()})
	if err != nil || !slices.ContainsFunc(found, func(p process) bool { return p.pid == grandchild }) {
		t.Errorf("%d is not in %v, %v", grandchild, found, err)
	}
	if err := c.stop(); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	pace := time.NewTicker(10 * time.Millisecond)
	defer pace.Stop()
	for alive(grandchild) {
		select {
		case <-pace.C:
		case <-ctx.Done():
			t.Fatalf("%d is still there", grandchild)
		}
	}
}

// alive reports whether a process is there and no zombie.
func alive(pid int) bool {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	return err == nil && !strings.Contains(string(stat), ") Z ")
}

// A child that fails says why.
func TestFailureTellsTheLog(t *testing.T) {
	t.Parallel()
	c, err := program{path: "/bin/sh", args: []string{"-c", "echo no disk >&2; exit 3"}, log: filepath.Join(t.TempDir(), "log")}.start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	err = c.until(t.Context(), func(context.Context) error { return syscall.ECONNREFUSED })
	if err == nil || !strings.Contains(err.Error(), "no disk") || !strings.Contains(err.Error(), "exit status 3") {
		t.Errorf("%v", err)
	}
}

func TestPayloads(t *testing.T) {
	t.Parallel()
	at := time.Now()
	for _, p := range [][]byte{payload, stamped(at)} {
		if len(p) != 128 || !json.Valid(p) {
			t.Errorf("%d bytes: %s", len(p), p)
		}
	}
	spaced := bytes.Replace(stamped(at), []byte(":"), []byte(": "), 1) // as a database may answer
	for _, p := range [][]byte{stamped(at), spaced} {
		if got := sentAt(p); got != at.UnixNano() {
			t.Errorf("%s was sent at %d, want %d", p, got, at.UnixNano())
		}
	}
	if got := sentAt(payload); got != 0 {
		t.Errorf("a payload without a time was sent at %d", got)
	}
}

// A crew sums up what its workers say, who each say all they did so far.
func TestCrew(t *testing.T) {
	t.Parallel()
	c := newCrew()
	c.heard(0, report{Count: 2, First: 50, Last: 60, Latencies: []int64{1e6}})
	c.heard(1, report{Count: 1, First: 40, Last: 40})
	c.heard(0, report{Count: 5, First: 50, Last: 90, Latencies: []int64{3e6}})
	first, last, err := c.await(t.Context(), 6)
	if err != nil || first.UnixNano() != 40 || last.UnixNano() != 90 {
		t.Errorf("from %d to %d, %v", first.UnixNano(), last.UnixNano(), err)
	}
	if got := c.latencies(); !slices.Equal(got, []float64{1, 3}) {
		t.Errorf("latencies %v", got)
	}
}

// A rate is over the tasks that were handled in time, from the first on, and what
// stood still counts.
func TestRate(t *testing.T) {
	t.Parallel()
	began := time.Now()
	done := newCrew()
	done.heard(0, report{Count: 11, First: began.UnixNano(), Last: began.Add(time.Second).UnixNano()})
	if rate, err := done.rate(t.Context(), 11, time.Minute); err != nil || rate != 10 {
		t.Errorf("%v a second, %v, want 10", rate, err)
	}
	stuck := newCrew()
	stuck.heard(0, report{Count: 11, First: began.UnixNano(), Last: began.Add(time.Millisecond).UnixNano()})
	rate, err := stuck.rate(t.Context(), 100, 100*time.Millisecond)
	if err != nil || rate > 10/0.1 || rate <= 0 {
		t.Errorf("%v a second, %v, want at most 100", rate, err)
	}
	broke := errors.New("broke")
	broken := newCrew()
	broken.heard(0, report{Count: 1})
	broken.failed <- broke
	if _, err := broken.rate(t.Context(), 100, time.Minute); !errors.Is(err, broke) {
		t.Errorf("%v, want that it broke", err)
	}
}

func TestTimedTasks(t *testing.T) {
	t.Parallel()
	c := newCrew()
	c.heard(0, report{Count: 50, Latencies: []int64{2e6}})
	c.heard(0, report{Count: 90, Latencies: []int64{4e6}})
	if got, err := c.awaitTimed(t.Context(), 2); err != nil || !slices.Equal(got, []float64{2, 4}) {
		t.Errorf("%v, %v", got, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.awaitTimed(ctx, 3); err == nil {
		t.Error("two of three came with a time")
	}
}

func TestFootprint(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "f"), bytes.Repeat([]byte("x"), 100_000), 0o600); err != nil {
		t.Fatal(err)
	}
	disk, err1 := diskOf(dir)
	memory, err2 := memoryOf([]int{os.Getpid()})
	peak, err3 := statusMiB(os.Getpid(), "VmHWM:")
	if _, err := statusMiB(os.Getpid(), "VmNothing:"); err == nil || err3 != nil || peak < 1 {
		t.Errorf("a peak of %v MiB, %v, and what is not there: %v", peak, err3, err)
	}
	if err1 != nil || err2 != nil || disk < 100_000 || memory < 1<<20 {
		t.Errorf("%v bytes of disk, %v; %v of memory, %v", disk, err1, memory, err2)
	}
}
