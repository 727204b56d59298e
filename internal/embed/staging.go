package embed

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Before an atomic batch is committed, nats-server 2.15 gathers it in a store of its own, in
// the folder batches of its stream: a folder, two files and their syncs for each batch, with
// the stream locked, which takes ten times as long as the sync of what it is about. That
// store is there to complete a batch whose commit was cut off. Who groups writes that have
// nothing to do with each other, to share a sync, does not need that: each of them was not
// confirmed. So with Sync.Always the folder can be a link to memory.
//
// Crash windows: a process that dies in a commit leaves the first writes of the batch
// and not the others, as it would have with writes that go one by one; the server says in its log
// that it cannot restore the rest. The links are removed before the next server reads the streams,
// and what they led to with them, so that nothing is taken from a folder in memory that
// another user might have made meanwhile.

const (
	batchesName   = "batches" // nats-server's batchesDir
	stagingPrefix = "pelton-batches-"
	// minStaging is what must be free in memory. A batch for which there is no room is refused,
	// and its writes go in halves, at last alone.
	minStaging = 32 << 20
)

// StageBatches has the atomic batches of streams gathered in memory until they are
// committed, if every write is synced and the system has a file system in memory. Only for streams whose
// batches need not be whole after a crash. Call it when the streams have been created; calling it
// again adds streams.
func (s *Server) StageBatches(streams ...string) error {
	if !s.cfg.Sync.Always {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, name := range streams {
		if !slices.Contains(s.staged, name) {
			s.staged = append(s.staged, name)
		}
	}
	return s.stage()
}

// stage links what is to be staged. Call it with mu held.
func (s *Server) stage() error {
	if s.nats == nil || len(s.staged) == 0 {
		return nil
	}
	if s.memory == "" {
		s.logger.Info("batches are gathered on the disk: no file system in memory has room", slog.String("data", s.folder.dir))
		return nil
	}
	if err := s.folder.stage(s.memory, s.staged); err != nil {
		return fmt.Errorf("gather batches of data folder %s in memory: %w", s.folder.dir, err)
	}
	return nil
}

// stage links the folders for batches of streams to one in memory. One that the server
// has made already stays until its next start.
func (f *folder) stage(memory string, streams []string) error {
	var dir string
	for _, name := range streams {
		homes, err := fs.Glob(os.DirFS(filepath.Join(f.dir, storeName)), "*/streams/"+name)
		if err != nil {
			return err
		}
		for _, home := range homes {
			link := filepath.Join(f.dir, storeName, home, batchesName)
			if _, err := os.Lstat(link); !errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if dir == "" {
				if dir, err = os.MkdirTemp(memory, stagingPrefix); err != nil {
					return err
				}
			}
			target := filepath.Join(dir, name)
			if err := os.Mkdir(target, folderMode); err != nil {
				return err
			}
			if err := os.Symlink(target, link); err != nil && !errors.Is(err, fs.ErrExist) {
				return err
			}
		}
	}
	return nil
}

// unstage removes all links of stage, and what they lead to. Call it while no server runs.
func (f *folder) unstage() error {
	links, err := fs.Glob(os.DirFS(filepath.Join(f.dir, storeName)), "*/streams/*/"+batchesName)
	if err != nil {
		return fmt.Errorf("list batches in data folder %s: %w", f.dir, err)
	}
	for _, link := range links {
		link = filepath.Join(f.dir, storeName, link)
		target, err := os.Readlink(link)
		dir := filepath.Dir(target)
		if err != nil || !strings.HasPrefix(filepath.Base(dir), stagingPrefix) { // the server's own folder
			continue
		}
		// After a power cut another user may have made it. What is not ours is left.
		_ = os.RemoveAll(dir)
		if err := os.Remove(link); err != nil {
			return fmt.Errorf("remove link to memory in data folder %s: %w", f.dir, err)
		}
	}
	return nil
}
