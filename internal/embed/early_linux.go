package embed

import (
	"os"
	"syscall"
)

// rangeWrite is SYNC_FILE_RANGE_WRITE: start to write what is dirty, and do not wait for it.
const rangeWrite = 2

// startWriting hands a part of a file to the disk.
func startWriting(path string, from, size int64) {
	f, err := os.OpenFile(path, os.O_RDWR, 0) //nolint:gosec // a block of the store
	if err != nil {
		return
	}
	_ = syscall.SyncFileRange(int(f.Fd()), from, size, rangeWrite) // the sync will do it
	_ = f.Close()                                                  // nothing was written by it
}
