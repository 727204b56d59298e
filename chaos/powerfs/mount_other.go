//go:build !linux

package powerfs

import (
	"fmt"
	"io/fs"
)

// Mount is one life of a disk.
type Mount struct{}

// Mount needs Linux.
func (d *Disk) Mount(string) (*Mount, error) {
	return nil, fmt.Errorf("%w: %w", ErrNoMount, fs.ErrNotExist)
}

// Close does nothing.
func (m *Mount) Close() error { return nil }
