package embed

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// FolderState is what a data folder is like, seen from outside.
type FolderState struct {
	// PID is the process that runs the server in it, or did when Alive is false and it
	// did not shut down; zero if there is none.
	PID   int
	Alive bool
	// OpenToOthers is a store that other users of the machine can read.
	OpenToOthers bool
	// Free and Total are bytes of the file system; zero where the system does not tell.
	Free, Total uint64
	// Low means that new tasks are refused for want of space, and Full that nothing is
	// written any more.
	Low, Full bool
	// Reserve is how much must be free for new tasks.
	Reserve uint64
}

// InspectFolder looks at a data folder, and whether a file can be made in it, which
// it removes again. It takes no lock: a server may start meanwhile. The errors are the
// file system's: fs.ErrNotExist, fs.ErrPermission.
func InspectFolder(dir string) (FolderState, error) {
	var s FolderState
	entry, err := os.Stat(dir)
	if err != nil {
		return s, err
	}
	if !entry.IsDir() {
		return s, fmt.Errorf("%s is not a folder", dir)
	}
	probe, err := os.CreateTemp(dir, ".pelton-doctor-*")
	if err != nil {
		return s, err
	}
	if err := errors.Join(probe.Close(), os.Remove(probe.Name())); err != nil {
		return s, err
	}
	if store, err := os.Stat(filepath.Join(dir, storeName)); err == nil {
		s.OpenToOthers = store.Mode().Perm()&0o077 != 0 && entry.Mode().Perm()&0o077 != 0
	}
	s.PID, err = (&folder{dir: dir}).readPID()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return s, err
	}
	if s.PID > 0 {
		if p, err := os.FindProcess(s.PID); err == nil {
			err = p.Signal(syscall.Signal(0))
			s.Alive = err == nil || errors.Is(err, fs.ErrPermission)
		}
	}
	has, err := freeSpace(dir)
	if errors.Is(err, errors.ErrUnsupported) {
		return s, nil
	}
	if err != nil {
		return s, err
	}
	s.Free, s.Total, s.Reserve = has.free, has.total, has.lastReserve()+has.taskReserve()
	now := has.next(roomy)
	s.Low, s.Full = now >= low, now == full
	return s, nil
}
