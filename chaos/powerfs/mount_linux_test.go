package powerfs

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"
)

// machine is a disk and a place where it is mounted.
type machine struct {
	*testing.T
	disk  *Disk
	dir   string
	mount *Mount
}

func boot(t *testing.T) *machine {
	t.Helper()
	m := &machine{T: t, disk: NewDisk(), dir: t.TempDir()}
	m.up()
	t.Cleanup(m.down)
	return m
}

func (m *machine) up() {
	m.Helper()
	mount, err := m.disk.Mount(m.dir)
	switch {
	case errors.Is(err, ErrNoMount) && (errors.Is(err, fs.ErrNotExist) || os.Getenv("PELTON_TEST_REQUIRE") != "1"):
		m.Skip(err)
	case err != nil:
		m.Fatal(err)
	}
	m.mount = mount
}

func (m *machine) down() {
	m.Helper()
	if err := m.mount.Close(); err != nil {
		m.Error(err)
	}
}

// lose cuts the power and boots again.
func (m *machine) lose() {
	m.Helper()
	m.disk.Cut()
	m.down()
	m.up()
}

func (m *machine) path(name string) string { return filepath.Join(m.dir, name) }

func (m *machine) ok(err error) {
	m.Helper()
	if err != nil {
		m.Fatal(err)
	}
}

func (m *machine) write(name, text string, flags int, sync bool) {
	m.Helper()
	f, err := os.OpenFile(m.path(name), os.O_WRONLY|os.O_CREATE|flags, 0o600)
	m.ok(err)
	_, err = f.WriteString(text)
	m.ok(err)
	if sync {
		m.ok(f.Sync())
	}
	m.ok(f.Close())
}

func (m *machine) sync(name string) {
	m.Helper()
	f, err := os.Open(m.path(name))
	m.ok(err)
	m.ok(f.Sync())
	m.ok(f.Close())
}

// has checks what a file says; "-" is one that is not there.
func (m *machine) has(name, want string) {
	m.Helper()
	got, err := os.ReadFile(m.path(name))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		got = []byte("-")
	case err != nil:
		m.Error(err)
		return
	}
	if string(got) != want {
		m.Errorf("%s says %q, want %q", name, got, want)
	}
}

func TestOnlyWhatWasSyncedIsKept(t *testing.T) {
	t.Parallel()
	m := boot(t)
	m.write("both", "kept", 0, true)
	m.write("content", "lost", 0, false)
	m.sync(".")
	m.write("name", "synced without its name", 0, true)
	m.write("through", "kept", os.O_SYNC, false)
	m.write("both", "later", os.O_TRUNC, false)
	for name, want := range map[string]string{"both": "later", "content": "lost", "name": "synced without its name", "through": "kept"} {
		m.has(name, want) // nothing was cut yet
	}
	m.lose()
	for name, want := range map[string]string{"both": "kept", "content": "", "name": "-", "through": "-"} {
		m.has(name, want)
	}
	m.write("through", "again", os.O_SYNC, false)
	m.sync(".")
	m.lose()
	m.has("through", "again")
	m.has("both", "kept")
}

func TestOverwritesAndLengths(t *testing.T) {
	t.Parallel()
	m := boot(t)
	for _, name := range []string{"append", "shrink", "grow", "middle", "synced"} {
		m.write(name, "0123456789", 0, true)
	}
	m.sync(".")
	m.write("append", "abc", os.O_APPEND, false)
	m.ok(os.Truncate(m.path("shrink"), 3))
	m.write("shrink", "xyz", os.O_APPEND, false)
	m.has("shrink", "012xyz")
	m.ok(os.Truncate(m.path("grow"), 12))
	m.has("grow", "0123456789\x00\x00")
	for _, name := range []string{"middle", "synced"} {
		f, err := os.OpenFile(m.path(name), os.O_RDWR, 0)
		m.ok(err)
		_, err = f.WriteAt([]byte("...."), 8)
		m.ok(err)
		if name == "synced" {
			m.ok(f.Sync())
		}
		m.ok(f.Close())
	}
	m.lose()
	for _, name := range []string{"append", "shrink", "grow", "middle"} {
		m.has(name, "0123456789")
	}
	m.has("synced", "01234567....")
}

func TestNames(t *testing.T) {
	t.Parallel()
	m := boot(t)
	m.ok(os.MkdirAll(m.path("a/b"), 0o700))
	m.ok(os.Mkdir(m.path("z"), 0o700))
	m.write("a/b/moved", "1", 0, true)
	m.write("a/b/replaced", "2", 0, true)
	m.write("a/b/gone", "3", 0, true)
	m.write("a/b/across", "4", 0, true)
	for _, dir := range []string{".", "a", "a/b", "z"} {
		m.sync(dir)
	}
	change := func() {
		m.ok(os.Rename(m.path("a/b/moved"), m.path("a/b/replaced")))
		m.ok(os.Remove(m.path("a/b/gone")))
		m.ok(os.Rename(m.path("a/b/across"), m.path("z/across")))
		m.ok(os.Mkdir(m.path("a/new"), 0o700))
	}
	change()
	m.has("a/b/replaced", "1")
	m.lose()
	for name, want := range map[string]string{"a/b/moved": "1", "a/b/replaced": "2", "a/b/gone": "3", "a/b/across": "4", "z/across": "-"} {
		m.has(name, want)
	}
	change()
	m.sync("z") // and with it the other end of the rename
	m.lose()
	for name, want := range map[string]string{"a/b/moved": "-", "a/b/replaced": "1", "a/b/gone": "-", "a/b/across": "-", "z/across": "4"} {
		m.has(name, want)
	}
	if _, err := os.Stat(m.path("a/new")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a directory whose name was not synced: %v", err)
	}
	m.ok(os.RemoveAll(m.path("a")))
	m.lose()
	m.has("a/b/replaced", "1")
	m.ok(os.RemoveAll(m.path("a")))
	m.sync(".")
	m.lose()
	m.has("a/b/replaced", "-")
	entries, err := os.ReadDir(m.dir)
	if err != nil || len(entries) != 1 || entries[0].Name() != "z" {
		t.Errorf("left are %v, %v", entries, err)
	}
}

func TestLinks(t *testing.T) {
	t.Parallel()
	m := boot(t)
	elsewhere := t.TempDir()
	link := func() {
		m.ok(os.Symlink(elsewhere, m.path("away")))
		m.ok(os.WriteFile(m.path("away/file"), []byte("1"), 0o600))
	}
	link()
	if data, err := os.ReadFile(filepath.Join(elsewhere, "file")); err != nil || string(data) != "1" {
		t.Errorf("behind the link is %q, %v", data, err)
	}
	m.lose()
	if _, err := os.Lstat(m.path("away")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a link whose name was not synced: %v", err)
	}
	link()
	m.sync(".")
	m.lose()
	if target, err := os.Readlink(m.path("away")); err != nil || target != elsewhere {
		t.Errorf("the link leads to %q, %v", target, err)
	}
	m.ok(os.Remove(m.path("away")))
	if _, err := os.Stat(elsewhere); err != nil {
		t.Error(err)
	}
}

// A directory that was synced before its own name is lost with it.
func TestNamesFromTheTop(t *testing.T) {
	t.Parallel()
	m := boot(t)
	m.ok(os.MkdirAll(m.path("a/b"), 0o700))
	m.write("a/b/c", "1", 0, true)
	m.sync("a/b")
	m.sync(".")
	m.lose()
	m.has("a/b/c", "-")
	if _, err := os.Stat(m.path("a")); err != nil {
		t.Error(err)
	}
}

// What is asked after the cut changes nothing, and is not answered before the
// mount goes away.
func TestNothingIsWrittenAfterTheCut(t *testing.T) {
	t.Parallel()
	m := boot(t)
	m.write("file", "before", 0, true)
	m.sync(".")
	f, err := os.OpenFile(m.path("file"), os.O_WRONLY, 0)
	m.ok(err)
	defer func() { _ = f.Close() }() // its mount is gone
	if lost := m.disk.Cut(); lost != 0 {
		t.Errorf("%d files lost something", lost)
	}
	answered := make(chan error, 1)
	go func() {
		_, err := f.WriteAt([]byte("after!"), 0)
		answered <- errors.Join(err, f.Sync())
	}()
	blocked := make(chan struct{})
	go func() {
		defer close(blocked)
		_, _ = os.ReadFile(m.path("file")) // comes to the disk after the write did, or before: it hangs either way
	}()
	select {
	case err := <-answered:
		t.Fatalf("answered before the mount went away: %v", err)
	case <-blocked:
		t.Fatal("read after the cut")
	case <-time.After(50 * time.Millisecond):
	}
	m.ok(m.mount.Close())
	if err := <-answered; !errors.Is(err, syscall.EIO) && !errors.Is(err, syscall.ENOTCONN) && !errors.Is(err, syscall.ECONNABORTED) {
		t.Errorf("answered %v", err)
	}
	<-blocked
	m.up()
	m.has("file", "before")
}

// Files without any name stay readable, and are gone with the power.
func TestUnlinkedFile(t *testing.T) {
	t.Parallel()
	m := boot(t)
	f, err := os.CreateTemp(m.dir, "x")
	m.ok(err)
	m.ok(os.Remove(f.Name()))
	_, err = f.WriteString("still here")
	m.ok(err)
	got := make([]byte, 10)
	if _, err := f.ReadAt(got, 0); err != nil || string(got) != "still here" {
		t.Errorf("%q, %v", got, err)
	}
	m.ok(f.Close())
	m.sync(".")
	m.lose()
	if names := m.disk.root.list(); !slices.Equal(names, nil) {
		t.Errorf("left are %v", names)
	}
}
