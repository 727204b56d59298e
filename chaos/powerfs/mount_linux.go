package powerfs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"os"
	"syscall"

	fusefs "github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// Mount is one life of a disk: from a boot to the cut or the unmounting.
type Mount struct {
	dir    string
	life   *life
	server *fuse.Server
	served chan struct{}
	// release ends the guard of the mount.
	release func() error
}

// Mount shows the disk at dir, an empty directory, until Close. There is one mount
// of a disk at a time. The error wraps ErrNoMount where mounting is impossible.
func (d *Disk) Mount(dir string) (*Mount, error) {
	dev, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoMount, err)
	}
	_ = dev.Close()
	m := &Mount{dir: dir, life: d.boot(), served: make(chan struct{})}
	if m.release, err = Guard(dir); err != nil {
		return nil, err
	}
	root := &node{disk: d, life: m.life, file: d.root}
	quiet := log.New(io.Discard, "", 0) // answers that nobody waits for any more are no news
	raw := fusefs.NewNodeFS(root, &fusefs.Options{Logger: quiet})
	m.server, err = fuse.NewServer(raw, dir, &fuse.MountOptions{
		FsName: "powerfs", Name: "powerfs", DirectMountStrict: true, DisableXAttrs: true, Logger: quiet,
	})
	switch {
	case errors.Is(err, fs.ErrPermission):
		return nil, errors.Join(fmt.Errorf("%w: %w", ErrNoMount, err), m.release())
	case err != nil:
		return nil, errors.Join(fmt.Errorf("mount a disk at %s: %w", dir, err), m.release())
	}
	go func() {
		defer close(m.served)
		m.server.Serve()
	}()
	if err := m.server.WaitMount(); err != nil {
		return nil, errors.Join(fmt.Errorf("mount a disk at %s: %w", dir, err), m.Close())
	}
	return m, nil
}

// Close takes the mount away, also from those who still use it, and returns when
// nothing of it is left. What they wait for fails.
func (m *Mount) Close() error {
	m.life.bury()
	// By force, which ends the connection to the kernel, and at once, whoever has
	// files open.
	if err := syscall.Unmount(m.dir, syscall.MNT_FORCE|syscall.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount %s: %w", m.dir, err)
	}
	<-m.served
	return m.release()
}
