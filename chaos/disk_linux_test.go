package chaos_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/chaos/history"
	"github.com/peltonq/pelton/chaos/powerfs"
)

const mib = 1 << 20

// smallDisk is a file system of its own that can fill up.
type smallDisk struct {
	*testing.T
	dir string
}

// newSmallDisk mounts a tmpfs. Where mounting is not permitted the test is skipped,
// aloud.
func newSmallDisk(t *testing.T, mebibytes int) *smallDisk {
	t.Helper()
	d := &smallDisk{T: t, dir: t.TempDir()}
	err := syscall.Mount("pelton-chaos", d.dir, "tmpfs", syscall.MS_NOSUID|syscall.MS_NODEV, fmt.Sprintf("size=%dm,mode=0700", mebibytes))
	switch {
	case errors.Is(err, fs.ErrPermission):
		t.Skipf("mounting a tmpfs: %v", err)
	case err != nil:
		t.Fatal(err)
	}
	release, guardErr := powerfs.Guard(d.dir)
	t.Cleanup(func() {
		if err := syscall.Unmount(d.dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
		if guardErr == nil {
			guardErr = release()
		}
		if guardErr != nil {
			t.Error(guardErr)
		}
	})
	return d
}

// grow gives the file system another size.
func (d *smallDisk) grow(mebibytes int) {
	d.Helper()
	if err := syscall.Mount("", d.dir, "", syscall.MS_REMOUNT|syscall.MS_NOSUID|syscall.MS_NODEV, fmt.Sprintf("size=%dm", mebibytes)); err != nil {
		d.Fatal(err)
	}
}

func (d *smallDisk) free() int64 {
	d.Helper()
	var s syscall.Statfs_t
	if err := syscall.Statfs(d.dir, &s); err != nil {
		d.Fatal(err)
	}
	return int64(s.Bavail) * s.Bsize
}

func (d *smallDisk) ballast() string { return filepath.Join(d.dir, "ballast") }

// fill is another program that takes all of the disk but so much.
func (d *smallDisk) fill(leave int64) {
	d.Helper()
	f, err := os.OpenFile(d.ballast(), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		d.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		d.Fatal(err)
	}
	if more := d.free() - leave; more > 0 { // most of it at once
		if err := syscall.Fallocate(int(f.Fd()), 0, info.Size(), more); err != nil && !errors.Is(err, syscall.ENOSPC) {
			d.Fatal(err)
		}
	}
	chunk := make([]byte, 64<<10)
	for d.free() > leave {
		if _, err := f.Write(chunk); errors.Is(err, syscall.ENOSPC) {
			return
		} else if err != nil {
			d.Fatal(err)
		}
	}
}

// clear is the end of that.
func (d *smallDisk) clear() {
	d.Helper()
	if err := os.Remove(d.ballast()); err != nil {
		d.Fatal(err)
	}
}

// refusal is what a POST is told: a problem that says when to try again, soon.
func (s *suite) refusal() {
	s.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.producer.url("/tasks"), strings.NewReader(`{"kind":"chaos.quick","payload":{}}`))
	if err != nil {
		s.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	began := time.Now()
	resp, err := client.Do(req)
	if err != nil {
		s.Errorf("POST to a full disk: %v", err)
		return
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	var problem struct {
		Type string `json:"type"`
	}
	if took := time.Since(began); err != nil || json.Unmarshal(body, &problem) != nil || took > 2*time.Second ||
		resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" || problem.Type != "unavailable" {
		s.Errorf("POST to a full disk: %d after %s, Retry-After %q, %s, %v", resp.StatusCode, took, resp.Header.Get("Retry-After"), body, err)
	}
}

// readyIs waits until /readyz says so.
func (s *suite) readyIs(want int) {
	s.Helper()
	s.eventually(fmt.Sprintf("/readyz says %d", want), 15*time.Second, func() bool {
		status, _, err := call(s.Context(), http.MethodGet, s.producer.url("/readyz"), "")
		return err == nil && status == want
	})
}

// flooded sends tasks that take room, until ctx ends, and never asks twice.
func (s *suite) flooded(ctx context.Context) {
	places := make(chan struct{}, 8)
	var sending sync.WaitGroup
	for ctx.Err() == nil {
		places <- struct{}{}
		sending.Go(func() {
			defer func() { <-places }()
			if _, ok := s.producer.enqueue(order{kind: "chaos.sleep", ms: 50, pad: 64 << 10}); !ok {
				s.pause(50 * time.Millisecond)
			}
		})
	}
	sending.Wait()
}

// until runs the flood until something is so.
func (s *suite) until(what string, cond func() bool) {
	s.Helper()
	ctx, stop := context.WithCancel(s.Context())
	var flooding sync.WaitGroup
	flooding.Go(func() { s.flooded(ctx) })
	defer flooding.Wait()
	defer stop()
	s.eventually(what, 30*time.Second, cond)
}

func (s *suite) full() bool {
	status, _, err := call(s.Context(), http.MethodGet, s.producer.url("/readyz"), "")
	return err == nil && status == http.StatusServiceUnavailable
}

// The disk fills up with tasks, and then by another program. What was accepted is
// worked off meanwhile; when there is room again everything goes on by itself.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	p := theProfile()
	size := 44
	d := newSmallDisk(t, size)
	p.data = filepath.Join(d.dir, "data")
	s := newSuite(t, p)
	rounds := 1
	if p.long {
		rounds = 5
	}
	for range rounds {
		// Tasks alone: no more are taken, those that were are worked off.
		s.until("the disk is full of tasks", s.full)
		d.fill(13 * mib) // so that it stays so while they end
		s.eventually("tasks are refused", 10*time.Second, func() bool {
			_, ok := s.producer.enqueue(order{kind: "chaos.quick"})
			return !ok
		})
		s.refusal()
		if free := d.free(); free < 8*mib {
			t.Errorf("%d bytes are free: the reserve is gone", free)
		}
		s.producer.finish(s.drain, s.producer.accepted()...)
		t.Logf("%d tasks filled the disk and are over", len(s.producer.accepted()))
		size += 56 // the records of tasks that are over stay for their retention
		d.grow(size)
		s.readyIs(http.StatusOK)
		s.producer.finish(s.drain, s.producer.must(order{kind: "chaos.quick"}))

		// Another program takes all, faster than anybody looks.
		s.fault(history.FaultBegin, "disk-full", history.Everyone)
		ctx, stop := context.WithCancel(t.Context())
		var flooding sync.WaitGroup
		flooding.Go(func() { s.flooded(ctx) })
		s.pause(50 * time.Millisecond)
		d.fill(0)
		s.readyIs(http.StatusServiceUnavailable)
		s.pause(500 * time.Millisecond)
		stop()
		flooding.Wait()
		s.refusal()
		d.clear()
		s.readyIs(http.StatusOK)
		s.fault(history.FaultEnd, "disk-full", history.Everyone)
		var after []pelton.ID
		for range 10 {
			after = append(after, s.producer.must(order{kind: "chaos.quick", delay: 100 * time.Millisecond}))
		}
		s.producer.finish(s.drain, after...)
	}
	s.healed()
	report := s.judge()
	if report.Counts.Refused == 0 {
		t.Errorf("nothing was refused: %s", report.Counts)
	}
	if s.server.life != 1 {
		t.Errorf("the server was started %d times", s.server.life)
	}
	t.Logf("the broker came back in its process: %t", s.server.p.says("embedded broker is started again"))
}
