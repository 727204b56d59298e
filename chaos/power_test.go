package chaos_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/chaos/history"
	"github.com/peltonq/pelton/chaos/powerfs"
)

// powered is a disk with a server's data, mounted.
type powered struct {
	t     *testing.T
	disk  *powerfs.Disk
	dir   string
	mount *powerfs.Mount
}

// newPowered mounts an empty disk. Without FUSE the test is skipped, aloud; where
// the device is there and cannot be used, CI fails.
func newPowered(t *testing.T) *powered {
	t.Helper()
	d := &powered{t: t, disk: powerfs.NewDisk(), dir: t.TempDir()}
	d.boot()
	t.Cleanup(func() {
		if err := d.mount.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

func (d *powered) boot() {
	d.t.Helper()
	mount, err := d.disk.Mount(d.dir)
	switch {
	case errors.Is(err, powerfs.ErrNoMount) && (errors.Is(err, fs.ErrNotExist) || os.Getenv("PELTON_TEST_REQUIRE") != "1"):
		d.t.Skip(err)
	case err != nil:
		d.t.Fatal(err)
	}
	d.mount = mount
}

// data is a folder that the server has to make.
func (d *powered) data() string { return filepath.Join(d.dir, "var", "data") }

// losePower takes the power from the server and its disk, in one instant: whoever
// waits for the disk then never hears from it. It gives the power back after a
// while.
func (s *suite) losePower(d *powered, away time.Duration) {
	s.Helper()
	s.fault(history.FaultBegin, "power-cut", history.Everyone)
	lost := d.disk.Cut()
	p := s.server.strike(syscall.SIGKILL)
	if err := d.mount.Close(); err != nil {
		s.Fatal(err)
	}
	<-p.done
	s.pause(away)
	d.boot()
	s.server.start()
	s.fault(history.FaultEnd, "power-cut", history.Everyone)
	s.Logf("the cut took what %d files and folders had not synced", lost)
}

// The power goes away several times, in the middle of everything. What was
// accepted is on the disk.
func TestPowerLoss(t *testing.T) {
	t.Parallel()
	p := theProfile()
	d := newPowered(t)
	p.data, p.serve = d.data(), []string{"--sync", "always"}
	p.lease = 5 * time.Second // a broker that syncs every write is slow, and no lease is to end for that
	if raceEnabled {
		// So is the disk, which is this process.
		p.lease, p.tasks = 3*p.lease, p.tasks/3
	}
	cuts := 3
	if p.long {
		cuts = 20
	}
	s := newSuite(t, p)
	s.while(p.tasks, 5*time.Millisecond, func() {
		for range cuts {
			s.burst(p.tasks/6, s.anyone())
			s.losePower(d, s.between(0, 500*time.Millisecond))
		}
	})
	// A lane that is new when the power goes away has nobody to open it again.
	id := s.producer.must(order{kind: "chaos.quick", priority: pelton.Low, delay: time.Second})
	s.losePower(d, 0)
	s.healed()
	s.producer.finish(p.drain, id)
	report := s.judge()
	if report.Counts.Succeeded < p.tasks {
		t.Errorf("%d tasks at least were enqueued: %s", p.tasks, report.Counts)
	}
}

// With an interval, what is older than it is on the disk. An interval that never
// comes loses every task, and the checker says so: the disk forgets, and nothing
// else keeps the tasks.
func TestPowerLossWithInterval(t *testing.T) {
	t.Parallel()
	const tasks = 30
	for sync, want := range map[string]int{"100ms": 0, "1h": tasks} {
		t.Run(sync, func(t *testing.T) {
			t.Parallel()
			p := theProfile()
			d := newPowered(t)
			p.data, p.serve, p.workers = d.data(), []string{"--sync", sync}, 1
			delay := 3 * time.Second
			if want > 0 {
				// None of them runs before the cut, and then nothing is left to wait for.
				delay, p.drain = time.Minute, time.Second
			}
			s := newSuite(t, p)
			for range tasks {
				s.producer.must(order{kind: "chaos.quick", delay: delay})
			}
			s.pause(500 * time.Millisecond)
			s.losePower(d, 0)
			s.healed()
			lost := 0
			for _, v := range s.examine().Violations {
				if v.Rule == "lost" {
					lost++
				}
			}
			if lost != want {
				t.Errorf("%d of %d tasks were lost, want %d", lost, tasks, want)
			}
		})
	}
}
