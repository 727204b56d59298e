// Package guard cleans up behind a process of the fault suite that dies before it can do so itself: by a panic,
// a signal or the timeout of go test.
package guard

import (
	"fmt"
	"io"
	"os/exec"
	"syscall"
)

// Start runs a line of shell when this process is gone, with args as $0, $1, …. release ends
// that, once there is nothing left to clean up.
func Start(line string, args ...string) (release func() error, err error) {
	// The shell reads a word when all is well, and the end of the pipe when its
	// writer is dead.
	cmd := exec.Command("sh", append([]string{"-c", "read -r word && exit 0; " + line}, args...)...) //nolint:gosec,noctx // the suite's own line; it outlives any ctx by intent
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}                                             // a signal to our group is not for it
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("start a guard: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start a guard: %w", err)
	}
	return func() error {
		if _, err := io.WriteString(in, "released\n"); err != nil {
			return fmt.Errorf("release a guard: %w", err)
		}
		return cmd.Wait()
	}, nil
}
