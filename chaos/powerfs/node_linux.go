package powerfs

import (
	"context"
	"syscall"

	fusefs "github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// node is a file as the kernel knows it, for one life.
type node struct {
	fusefs.Inode

	disk *Disk
	life *life
	file *file
}

// What the kernel asks of a node.
var _ interface {
	fusefs.NodeLookuper
	fusefs.NodeGetattrer
	fusefs.NodeSetattrer
	fusefs.NodeStatfser
	fusefs.NodeCreater
	fusefs.NodeMkdirer
	fusefs.NodeSymlinker
	fusefs.NodeReadlinker
	fusefs.NodeUnlinker
	fusefs.NodeRmdirer
	fusefs.NodeRenamer
	fusefs.NodeReaddirer
	fusefs.NodeOpener
	fusefs.NodeReader
	fusefs.NodeWriter
	fusefs.NodeFsyncer // of files and of directories
} = (*node)(nil)

// handle is an open file.
type handle struct {
	through bool // O_SYNC or O_DSYNC
}

// within runs do with the disk locked, if this life goes on.
func (n *node) within(do func() syscall.Errno) syscall.Errno {
	if errno := n.disk.enter(n.life); errno != 0 {
		return errno
	}
	defer n.disk.mu.Unlock()
	return do()
}

const (
	blockSize = 4096
	blocks    = 1 << 28 // 1 TiB: this disk never fills up
)

func (n *node) child(ctx context.Context, f *file, out *fuse.EntryOut) *fusefs.Inode {
	describe(f, &out.Attr)
	return n.NewInode(ctx, &node{disk: n.disk, life: n.life, file: f}, fusefs.StableAttr{Mode: kindOf(f), Ino: f.ino})
}

func kindOf(f *file) uint32 {
	switch {
	case f.dir:
		return syscall.S_IFDIR
	case f.link:
		return syscall.S_IFLNK
	default:
		return syscall.S_IFREG
	}
}

func describe(f *file, out *fuse.Attr) {
	out.Ino, out.Size, out.Blksize = f.ino, uint64(len(f.data)), blockSize
	out.Blocks = (out.Size + 511) / 512
	out.Mode = kindOf(f) | f.mode
	if out.Nlink = 1; f.dir {
		out.Nlink = 2
	}
	out.SetTimes(&f.mtime, &f.mtime, &f.mtime)
}

func (n *node) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (child *fusefs.Inode, errno syscall.Errno) {
	errno = n.within(func() syscall.Errno {
		f := n.file.names[name]
		if f == nil {
			return syscall.ENOENT
		}
		child = n.child(ctx, f, out)
		return 0
	})
	return child, errno
}

func (n *node) Getattr(_ context.Context, _ fusefs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	return n.within(func() syscall.Errno {
		describe(n.file, &out.Attr)
		return 0
	})
}

func (n *node) Setattr(_ context.Context, _ fusefs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	return n.within(func() syscall.Errno {
		if size, ok := in.GetSize(); ok {
			n.disk.truncate(n.file, int64(size))
		}
		if mode, ok := in.GetMode(); ok {
			n.file.mode = mode & 0o7777
		}
		if mtime, ok := in.GetMTime(); ok {
			n.file.mtime = mtime
		}
		describe(n.file, &out.Attr)
		return 0
	})
}

func (n *node) Statfs(_ context.Context, out *fuse.StatfsOut) syscall.Errno {
	return n.within(func() syscall.Errno {
		out.Bsize, out.Frsize, out.NameLen = blockSize, blockSize, 255
		out.Blocks, out.Bfree, out.Bavail = blocks, blocks, blocks
		out.Files, out.Ffree = blocks, blocks
		return 0
	})
}

func (n *node) Create(ctx context.Context, name string, flags, mode uint32, out *fuse.EntryOut) (child *fusefs.Inode, fh fusefs.FileHandle, fuseFlags uint32, errno syscall.Errno) {
	errno = n.within(func() syscall.Errno {
		f, errno := n.disk.create(n.file, name, false, mode)
		if errno != 0 {
			return errno
		}
		child = n.child(ctx, f, out)
		return 0
	})
	return child, open(flags), 0, errno
}

func (n *node) Mkdir(ctx context.Context, name string, mode uint32, out *fuse.EntryOut) (child *fusefs.Inode, errno syscall.Errno) {
	errno = n.within(func() syscall.Errno {
		f, errno := n.disk.create(n.file, name, true, mode)
		if errno != 0 {
			return errno
		}
		child = n.child(ctx, f, out)
		return 0
	})
	return child, errno
}

// Symlink makes a link, which is on the disk when the folder that has its name is synced.
func (n *node) Symlink(ctx context.Context, target, name string, out *fuse.EntryOut) (child *fusefs.Inode, errno syscall.Errno) {
	errno = n.within(func() syscall.Errno {
		f, errno := n.disk.create(n.file, name, false, 0o777)
		if errno != 0 {
			return errno
		}
		f.link, f.data = true, []byte(target)
		child = n.child(ctx, f, out)
		return 0
	})
	return child, errno
}

func (n *node) Readlink(context.Context) (target []byte, errno syscall.Errno) {
	errno = n.within(func() syscall.Errno {
		target = n.file.data
		return 0
	})
	return target, errno
}

func (n *node) Unlink(_ context.Context, name string) syscall.Errno {
	return n.within(func() syscall.Errno { return n.disk.remove(n.file, name, false) })
}

func (n *node) Rmdir(_ context.Context, name string) syscall.Errno {
	return n.within(func() syscall.Errno { return n.disk.remove(n.file, name, true) })
}

func (n *node) Rename(_ context.Context, name string, newParent fusefs.InodeEmbedder, newName string, flags uint32) syscall.Errno {
	to, ok := newParent.(*node)
	if !ok || flags != 0 {
		return syscall.EINVAL // nobody here exchanges names
	}
	return n.within(func() syscall.Errno { return n.disk.rename(n.file, name, to.file, newName) })
}

func (n *node) Readdir(context.Context) (stream fusefs.DirStream, errno syscall.Errno) {
	errno = n.within(func() syscall.Errno {
		var entries []fuse.DirEntry
		for _, name := range n.file.list() {
			f := n.file.names[name]
			entries = append(entries, fuse.DirEntry{Name: name, Ino: f.ino, Mode: kindOf(f)})
		}
		stream = fusefs.NewListDirStream(entries)
		return 0
	})
	return stream, errno
}

func (n *node) Open(_ context.Context, flags uint32) (fusefs.FileHandle, uint32, syscall.Errno) {
	errno := n.within(func() syscall.Errno {
		if flags&syscall.O_TRUNC != 0 {
			n.disk.truncate(n.file, 0)
		}
		return 0
	})
	return open(flags), 0, errno
}

// O_SYNC has the bit of O_DSYNC.
func open(flags uint32) *handle { return &handle{through: flags&syscall.O_DSYNC != 0} }

func (n *node) Read(_ context.Context, _ fusefs.FileHandle, dest []byte, off int64) (result fuse.ReadResult, errno syscall.Errno) {
	errno = n.within(func() syscall.Errno {
		result = fuse.ReadResultData(dest[:n.disk.read(n.file, dest, off)])
		return 0
	})
	return result, errno
}

func (n *node) Write(_ context.Context, fh fusefs.FileHandle, data []byte, off int64) (uint32, syscall.Errno) {
	errno := n.within(func() syscall.Errno {
		n.disk.write(n.file, data, off)
		if h, ok := fh.(*handle); ok && h.through {
			n.disk.sync(n.file)
		}
		return 0
	})
	if errno != 0 {
		return 0, errno
	}
	return uint32(len(data)), 0
}

func (n *node) Fsync(context.Context, fusefs.FileHandle, uint32) syscall.Errno {
	return n.within(func() syscall.Errno {
		n.disk.sync(n.file)
		return 0
	})
}
