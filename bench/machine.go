package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// cpu is a reading of the whole machine's and this program's CPU time.
type cpu struct{ busy, total, own float64 }

func readCPU() (cpu, error) {
	stat, err := os.ReadFile("/proc/stat")
	if err != nil {
		return cpu{}, err
	}
	var c cpu
	for i, field := range strings.Fields(strings.SplitN(string(stat), "\n", 2)[0])[1:9] {
		n, err := strconv.ParseFloat(field, 64)
		if err != nil {
			return c, err
		}
		c.total += n
		if i != 3 && i != 4 { // idle, iowait
			c.busy += n
		}
	}
	c.own, err = ownTicks()
	return c, err
}

// ownTicks is the CPU time of this process, of its children and theirs, whether they
// live or have been waited for.
func ownTicks() (float64, error) {
	processes, err := tree([]int{os.Getpid()})
	if err != nil {
		return 0, err
	}
	sum := 0.0
	for _, p := range processes {
		sum += p.ticks
	}
	return sum, nil
}

// others is the share of the machine that other processes took since the reading.
func (c cpu) others() (float64, error) {
	now, err := readCPU()
	if err != nil || now.total <= c.total {
		return 0, err
	}
	return max(0, (now.busy-c.busy)-(now.own-c.own)) / (now.total - c.total), nil
}

// process is what proc(5) tells of one.
type process struct {
	pid, parent int
	ticks       float64 // CPU time in ticks of 10 ms, of the children that it waited for as well
}

// tree is what lives of these processes, their children, and so on.
func tree(roots []int) ([]process, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	children := map[int][]process{}
	var found []process
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue // not a process
		}
		stat, err := os.ReadFile("/proc/" + e.Name() + "/stat")
		if err != nil {
			continue // it has ended since
		}
		// After the command's name, which ends with the last parenthesis, come the
		// state, the parent, and from field 14 on utime, stime, cutime, cstime.
		fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+2:]))
		p := process{pid: pid}
		if p.parent, err = strconv.Atoi(fields[1]); err != nil {
			return nil, err
		}
		for _, field := range fields[11:15] {
			n, err := strconv.ParseFloat(field, 64)
			if err != nil {
				return nil, err
			}
			p.ticks += n
		}
		children[p.parent] = append(children[p.parent], p)
		if slices.Contains(roots, pid) {
			found = append(found, p)
		}
	}
	for i := 0; i < len(found); i++ {
		found = append(found, children[found[i].pid]...)
	}
	return found, nil
}

// memoryOf is the resident memory of processes and their children in bytes; what
// several share counts once.
func memoryOf(pids []int) (float64, error) {
	if len(pids) == 0 {
		return 0, nil
	}
	processes, err := tree(pids)
	if err != nil {
		return 0, err
	}
	sum := 0.0
	for _, p := range processes {
		rollup, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", p.pid))
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
			continue // it has ended since
		}
		if err != nil {
			return 0, err
		}
		for line := range strings.Lines(string(rollup)) {
			if value, found := strings.CutPrefix(line, "Pss:"); found {
				kib, err := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 64)
				if err != nil {
					return 0, err
				}
				sum += 1024 * kib
			}
		}
	}
	return sum, nil
}

// diskOf is what the files below a folder take on disk, in bytes.
func diskOf(folder string) (float64, error) {
	sum := 0.0
	err := filepath.WalkDir(folder, func(_ string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // a broker deletes files
		}
		if err != nil {
			return err
		}
		info, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil {
			sum += 512 * float64(info.Sys().(*syscall.Stat_t).Blocks)
		}
		return err
	})
	return sum, err
}

// residentMiB is what proc(5) calls VmRSS.
func residentMiB(pid int) (float64, error) { return statusMiB(pid, "VmRSS:") }

// statusMiB is a field of proc(5)'s status of a process that is an amount of memory.
func statusMiB(pid int, field string) (float64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(status)) {
		if value, found := strings.CutPrefix(line, field); found {
			kib, err := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 64)
			return kib / 1024, err
		}
	}
	return 0, fmt.Errorf("process %d has no %s", pid, strings.TrimSuffix(field, ":"))
}
