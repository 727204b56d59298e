package powerfs

import (
	"fmt"
	"io"
	"os/exec"
	"syscall"
)

// Guard sees to it that what is mounted at dir goes away with this process, also
// when a panic or a signal ends it before its own cleaning up. release ends that,
// once dir is unmounted.
func Guard(dir string) (release func() error, err error) {
	// The shell reads a word when all is well, and the end of the pipe when its
	// writer is dead.
	cmd := exec.Command("sh", "-c", `read -r word || umount -l "$0"`, dir) //nolint:gosec,noctx // it outlives any ctx by intent
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}                   // a signal to our group is not for it
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("guard the mount at %s: %w", dir, err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("guard the mount at %s: %w", dir, err)
	}
	return func() error {
		if _, err := io.WriteString(in, "released\n"); err != nil {
			return fmt.Errorf("release the guard of %s: %w", dir, err)
		}
		return cmd.Wait()
	}, nil
}
