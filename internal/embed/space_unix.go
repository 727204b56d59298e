//go:build linux || darwin

package embed

import "syscall"

// freeSpace asks the file system of a folder.
func freeSpace(dir string) (space, error) {
	var fs syscall.Statfs_t
	if err := syscall.Statfs(dir, &fs); err != nil {
		return space{}, err
	}
	size := uint64(fs.Bsize)
	return space{free: fs.Bavail * size, total: fs.Blocks * size}, nil
}
