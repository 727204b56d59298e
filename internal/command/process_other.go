//go:build !unix

package command

import (
	"os"
	"os/exec"
	"syscall"
	"time"
)

// isolate does nothing: there are no process groups here.
func isolate(*exec.Cmd) {}

// signalGroup kills the program alone, whatever the signal.
func signalGroup(leader *os.Process, _ syscall.Signal) error { return leader.Kill() }

// awaitGroup does nothing: there are no process groups here.
func awaitGroup(*os.Process, time.Duration) {}
