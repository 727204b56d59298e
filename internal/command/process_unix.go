//go:build unix

package command

import (
	"errors"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// pollGroup is how often awaitGroup looks; the system has no event for the end
// of a process group.
const pollGroup = 20 * time.Millisecond

// isolate gives the program a process group of its own, whose id is its pid.
func isolate(cmd *exec.Cmd) {
	cmd.SysProcAttr = dieWithParent(&syscall.SysProcAttr{Setpgid: true})
}

// signalGroup signals the group of a program. It is os.ErrProcessDone if no
// process is left in it.
func signalGroup(leader *os.Process, sig syscall.Signal) error {
	err := syscall.Kill(-leader.Pid, sig)
	if errors.Is(err, syscall.ESRCH) {
		return os.ErrProcessDone
	}
	return err
}

// awaitGroup waits until no process is left in the group of a program that has
// ended itself, at most for limit.
func awaitGroup(leader *os.Process, limit time.Duration) {
	over := time.NewTimer(limit)
	defer over.Stop()
	tick := time.NewTicker(pollGroup)
	defer tick.Stop()
	for signalGroup(leader, 0) == nil {
		select {
		case <-tick.C:
		case <-over.C:
			return
		}
	}
}
