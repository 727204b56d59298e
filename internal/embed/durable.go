package embed

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// A name is on the disk once the folder it stands in was synced: POSIX promises no
// less and no more.

// makeDurable makes a folder and those above it that are missing, and their names
// durable.
func makeDurable(dir string) error {
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	parent := filepath.Dir(dir)
	if err := makeDurable(parent); err != nil {
		return err
	}
	if err := os.Mkdir(dir, folderMode); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return syncPath(parent)
}

// syncPath waits until the file, or the names in the folder, are on the disk.
func syncPath(path string) error {
	f, err := os.Open(path) //nolint:gosec // a path of the data folder
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// Persist makes durable what the store consists of: the folders of its streams and
// consumers, and their settings. The server syncs messages, at once or after a
// while, and with Sync.Always the settings, but never the names of new folders:
// without Persist a power cut could take a stream with everything in it. Call it
// when the streams have been created.
//
// A consumer that is created later, for a new lane, is not covered. Nothing is lost
// with it: whoever needs it creates it again, and it delivers whatever its stream
// holds.
func (s *Server) Persist() error {
	store := filepath.Join(s.folder.dir, storeName)
	err := filepath.WalkDir(store, func(path string, _ fs.DirEntry, err error) error {
		if err == nil {
			err = syncPath(path)
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil // the server replaces files while it runs
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("sync data folder %s: %w", s.folder.dir, err)
	}
	return nil
}
