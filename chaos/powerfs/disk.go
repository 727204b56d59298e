package powerfs

import (
	"maps"
	"slices"
	"sync"
	"syscall"
	"time"
)

// Disk holds a tree of files and knows what of it is durable. It is safe for
// concurrent use.
type Disk struct {
	mu    sync.Mutex
	root  *file
	last  uint64 // inode number that was given last
	life  *life  // of whoever may use the disk now
	dirty map[*file]struct{}
	cuts  int
}

// file is a file or a directory.
type file struct {
	ino   uint64
	dir   bool
	link  bool   // its data is where it leads
	mode  uint32 // permissions
	mtime time.Time
	data  []byte
	names map[string]*file
	// undo takes back what was not synced, the last change last.
	undo []func()
	// tied are directories with which this one shares a rename that was not synced.
	tied []*file
}

// life is the time from a boot to the cut that ends it.
type life struct {
	// buried is closed when nobody is left who may be told anything.
	buried chan struct{}
	once   sync.Once
}

func (l *life) bury() { l.once.Do(func() { close(l.buried) }) }

// NewDisk is an empty disk.
func NewDisk() *Disk {
	d := &Disk{dirty: make(map[*file]struct{})}
	d.root = d.newFile(true, 0o755)
	return d
}

func (d *Disk) newFile(dir bool, mode uint32) *file {
	d.last++
	f := &file{ino: d.last, dir: dir, mode: mode & 0o7777, mtime: time.Now()}
	if dir {
		f.names = make(map[string]*file)
	}
	return f
}

// boot begins a life, and ends the one before without taking anything back.
func (d *Disk) boot() *life {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.life != nil {
		d.life.bury()
	}
	d.life = &life{buried: make(chan struct{})}
	return d.life
}

// Cut takes the power away: in one instant everything that was not durable is
// gone. What the mount is asked from then on has no effect and is not answered
// before the mount is closed, so that a process that uses it can be killed without
// having noticed anything. It reports how many files and directories lost
// something.
func (d *Disk) Cut() (lost int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.life = nil
	d.cuts++
	for f := range d.dirty {
		for _, undo := range slices.Backward(f.undo) {
			undo()
		}
		if len(f.undo) > 0 {
			lost++
		}
		f.undo, f.tied = nil, nil
	}
	clear(d.dirty)
	return lost
}

// enter locks the disk for an operation of a life. Once that is over the answer
// waits until it cannot be heard any more.
func (d *Disk) enter(l *life) syscall.Errno {
	d.mu.Lock()
	if d.life == l {
		return 0
	}
	d.mu.Unlock()
	<-l.buried
	return syscall.EIO
}

// changed remembers how to take a change of f back.
func (d *Disk) changed(f *file, undo func()) {
	f.mtime = time.Now()
	f.undo = append(f.undo, undo)
	d.dirty[f] = struct{}{}
}

// sync makes f durable: its content, or its names.
func (d *Disk) sync(f *file) {
	todo := []*file{f}
	for len(todo) > 0 {
		f, todo = todo[0], todo[1:]
		if _, dirty := d.dirty[f]; !dirty {
			continue
		}
		delete(d.dirty, f)
		todo = append(todo, f.tied...)
		f.undo, f.tied = nil, nil
	}
}

// write puts p at off. What lies between the end and off becomes zeros.
func (d *Disk) write(f *file, p []byte, off int64) {
	size := int64(len(f.data))
	end := off + int64(len(p))
	var old []byte
	if off < size {
		old = slices.Clone(f.data[off:min(end, size)])
	}
	if end > size {
		f.data = append(f.data, make([]byte, end-size)...)
	}
	copy(f.data[off:], p)
	d.changed(f, func() {
		f.data = f.data[:size]
		if off < size {
			copy(f.data[off:], old)
		}
	})
}

// truncate makes f size bytes long.
func (d *Disk) truncate(f *file, size int64) {
	old := int64(len(f.data))
	switch {
	case size < old:
		gone := slices.Clone(f.data[size:])
		f.data = f.data[:size]
		d.changed(f, func() { f.data = append(f.data[:size], gone...) })
	case size > old:
		f.data = append(f.data, make([]byte, size-old)...)
		d.changed(f, func() { f.data = f.data[:old] })
	}
}

// read copies what lies at off into p.
func (d *Disk) read(f *file, p []byte, off int64) int {
	if off >= int64(len(f.data)) {
		return 0
	}
	return copy(p, f.data[off:])
}

// name lets a name in dir stand for f; nil removes it.
func (d *Disk) name(dir *file, name string, f *file) {
	old := dir.names[name]
	set := func(f *file) {
		if f == nil {
			delete(dir.names, name)
		} else {
			dir.names[name] = f
		}
	}
	set(f)
	d.changed(dir, func() { set(old) })
}

// create makes a new file or directory under a name that is free.
func (d *Disk) create(parent *file, name string, dir bool, mode uint32) (*file, syscall.Errno) {
	if _, taken := parent.names[name]; taken {
		return nil, syscall.EEXIST
	}
	if len(name) > 255 {
		return nil, syscall.ENAMETOOLONG
	}
	f := d.newFile(dir, mode)
	d.name(parent, name, f)
	return f, 0
}

// remove takes a name away; that of a directory only if it is empty.
func (d *Disk) remove(parent *file, name string, dir bool) syscall.Errno {
	f, found := parent.names[name]
	switch {
	case !found:
		return syscall.ENOENT
	case dir && !f.dir:
		return syscall.ENOTDIR
	case !dir && f.dir:
		return syscall.EISDIR
	case len(f.names) > 0:
		return syscall.ENOTEMPTY
	}
	d.name(parent, name, nil)
	return 0
}

// rename moves a name, over another one if that is there. The kernel has made
// sure that a directory does not move below itself.
func (d *Disk) rename(from *file, name string, to *file, newName string) syscall.Errno {
	f, found := from.names[name]
	if !found {
		return syscall.ENOENT
	}
	if over := to.names[newName]; over != nil {
		switch {
		case over == f:
			return 0
		case over.dir && !f.dir:
			return syscall.EISDIR
		case !over.dir && f.dir:
			return syscall.ENOTDIR
		case len(over.names) > 0:
			return syscall.ENOTEMPTY
		}
	}
	d.name(from, name, nil)
	d.name(to, newName, f)
	if from != to {
		from.tied = append(from.tied, to)
		to.tied = append(to.tied, from)
	}
	return 0
}

// list gives the names in dir, sorted.
func (f *file) list() []string { return slices.Sorted(maps.Keys(f.names)) }
