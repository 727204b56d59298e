package embed

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/gofrs/flock"
)

// What lies in a data folder.
const (
	storeName = "jetstream"   // the server's streams
	lockName  = "pelton.lock" // locked while a server runs; the lock dies with its process
	pidName   = "pelton.pid"  // the process that runs the server; left behind by an unclean stop
)

const folderMode = 0o700

// ErrLocked is a data folder that another server, of this process or another
// one, is using.
var ErrLocked = errors.New("in use by another Pelton")

// folder is a data folder that this process holds.
type folder struct {
	dir     string
	lock    *flock.Flock
	unclean bool // the last server in it did not shut down
}

// openFolder creates dir if need be, closes it to other users and locks it.
func openFolder(dir string) (*folder, error) {
	if err := makeDurable(dir); err != nil {
		return nil, fmt.Errorf("create data folder %s: %w", dir, err)
	}
	lock := flock.New(filepath.Join(dir, lockName))
	locked, err := lock.TryLock()
	if err != nil {
		return nil, fmt.Errorf("lock data folder %s: %w", dir, err)
	}
	f := &folder{dir: dir, lock: lock}
	pid, err := f.readPID()
	if !locked {
		if pid > 0 {
			return nil, fmt.Errorf("data folder %s is %w (pid %d)", dir, ErrLocked, pid)
		}
		return nil, fmt.Errorf("data folder %s is %w", dir, ErrLocked)
	}
	// A pid file that is there and says nothing is an unclean stop, too.
	f.unclean = !errors.Is(err, fs.ErrNotExist)
	if err := f.prepare(); err != nil {
		return nil, errors.Join(err, f.unlock())
	}
	return f, nil
}

// prepare restricts the folder to its owner and writes the pid file.
func (f *folder) prepare() error {
	if err := f.restrict(); err != nil {
		return err
	}
	if err := errors.Join(f.writePID(), syncPath(f.dir)); err != nil {
		return fmt.Errorf("write to data folder %s: %w", f.dir, err)
	}
	return nil
}

// restrict gives the store to its owner alone. The data folder around it may be
// a mount point or hold other files of the user: it is restricted only when all
// that lies in it is ours, and only if the system lets us.
func (f *folder) restrict() error {
	store := filepath.Join(f.dir, storeName)
	if err := os.MkdirAll(store, folderMode); err != nil {
		return fmt.Errorf("create store in data folder %s: %w", f.dir, err)
	}
	if err := os.Chmod(store, folderMode); err != nil {
		return fmt.Errorf("restrict store in data folder %s: %w", f.dir, err)
	}
	entries, err := os.ReadDir(f.dir)
	if err != nil {
		return fmt.Errorf("read data folder %s: %w", f.dir, err)
	}
	foreign := slices.ContainsFunc(entries, func(e os.DirEntry) bool {
		return !slices.Contains([]string{storeName, lockName, pidName}, e.Name())
	})
	if foreign {
		return nil
	}
	if err := os.Chmod(f.dir, folderMode); err != nil && !errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("restrict data folder %s: %w", f.dir, err)
	}
	return nil
}

// readPID is the process named in the pid file, 0 if it names none.
func (f *folder) readPID() (int, error) {
	data, err := os.ReadFile(filepath.Join(f.dir, pidName))
	if err != nil {
		return 0, err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		return 0, fmt.Errorf("read %s: %w", pidName, err)
	}
	return pid, nil
}

// writePID makes the pid file durable, because a power cut is an unclean stop.
func (f *folder) writePID() error {
	file, err := os.OpenFile(filepath.Join(f.dir, pidName), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(file, os.Getpid())
	return errors.Join(err, file.Sync(), file.Close())
}

// close releases the folder. clean says that nothing in it was left half done;
// the next server is told when it was not.
func (f *folder) close(clean bool) error {
	var err error
	if clean {
		err = os.Remove(filepath.Join(f.dir, pidName))
	}
	return errors.Join(err, f.unlock())
}

// unlock leaves the lock file in place: removing it would let two processes
// lock two files of the same name.
func (f *folder) unlock() error {
	if err := f.lock.Unlock(); err != nil {
		return fmt.Errorf("unlock data folder %s: %w", f.dir, err)
	}
	return nil
}

// streams lists the streams that lie in the folder, as account/stream. Names
// with a leading dot are half deleted.
func (f *folder) streams() ([]string, error) {
	paths, err := fs.Glob(os.DirFS(filepath.Join(f.dir, storeName)), "*/streams/[^.]*")
	if err != nil {
		return nil, fmt.Errorf("list streams in data folder %s: %w", f.dir, err)
	}
	names := make([]string, len(paths))
	for i, p := range paths {
		account, stream, _ := strings.Cut(p, "/streams/")
		names[i] = account + "/" + stream
	}
	return names, nil
}
