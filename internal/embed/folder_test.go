package embed

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestFolderIsLockedInOneProcess(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	start(t, Config{Dir: dir})
	_, err := Start(testCtx(t), Config{Dir: dir})
	if !errors.Is(err, ErrLocked) {
		t.Fatalf("second start: %v", err)
	}
	want := fmt.Sprintf("data folder %s is in use by another Pelton (pid %d)", dir, os.Getpid())
	if err.Error() != want {
		t.Errorf("error is %q, want %q", err, want)
	}
}

// Another process holds the folder, is killed, and its data is still there.
func TestFolderOfAnotherProcess(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(testCtx(t), self)
	cmd.Env = append(os.Environ(), holdEnv+"="+dir)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = stdin.Close() }()
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil || line != "ready\n" {
		rest, _ := io.ReadAll(stdout)
		t.Fatalf("the other process says %q %v %s", line, err, rest)
	}

	_, err = Start(testCtx(t), Config{Dir: dir})
	if !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), fmt.Sprintf("(pid %d)", cmd.Process.Pid)) {
		t.Errorf("start while another process runs: %v", err)
	}

	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // "signal: killed"
	srv := start(t, Config{Dir: dir})
	if !srv.UncleanStart() {
		t.Error("a killed server was taken for one that was shut down")
	}
	nc := connect(t, srv)
	if diff := cmp.Diff([]string{"from the other process"}, stored(t, nc)); diff != "" {
		t.Error(diff)
	}
	nc.Close()
	stop(t, srv)
	if start(t, Config{Dir: dir}).UncleanStart() {
		t.Error("unclean after a shutdown")
	}
}

func TestFolderIsForItsOwnerAlone(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("no permission bits")
	}
	parent := t.TempDir()
	mixed := filepath.Join(parent, "mixed")
	for _, dir := range []string{filepath.Join(parent, "wide", storeName), mixed} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(mixed, "notes.txt"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]os.FileMode{
		"new":       0o700,
		"not/there": 0o700,
		"wide":      0o700,
		"mixed":     0o755, // other files of the user's are in it
	} {
		dir := filepath.Join(parent, name)
		srv := start(t, Config{Dir: dir})
		if err := store(testCtx(t), connect(t, srv), "one"); err != nil {
			t.Fatal(err)
		}
		if got := mode(t, dir); got != want {
			t.Errorf("%s has mode %o, want %o", name, got, want)
		}
		// What lies below the store is reachable only through it.
		if got := mode(t, filepath.Join(dir, storeName)); got != 0o700 {
			t.Errorf("the store of %s has mode %o", name, got)
		}
		for _, file := range []string{lockName, pidName} {
			if got := mode(t, filepath.Join(dir, file)); got&0o077 != 0 {
				t.Errorf("%s/%s has mode %o", name, file, got)
			}
		}
		stop(t, srv)
	}
}

func mode(t *testing.T, path string) os.FileMode {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Mode().Perm()
}

func TestFolderThatCannotBeUsed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("not a folder"), 0o600); err != nil {
		t.Fatal(err)
	}
	storeIsFile := filepath.Join(dir, "store-is-file")
	if err := os.MkdirAll(storeIsFile, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(storeIsFile, storeName), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{file, filepath.Join(file, "below"), storeIsFile} {
		if srv, err := Start(testCtx(t), Config{Dir: dir}); err == nil || !strings.Contains(err.Error(), dir) {
			t.Errorf("start on %s: %v", dir, err)
			if err == nil {
				stop(t, srv)
			}
		}
	}
}

// The server itself goes on without a stream that it cannot read.
func TestFolderWithDamagedStream(t *testing.T) {
	t.Parallel()
	for name, damage := range map[string]func(path string) error{
		"truncated":  func(path string) error { return os.Truncate(path, 10) },
		"empty":      func(path string) error { return os.Truncate(path, 0) },
		"overwrites": func(path string) error { return os.WriteFile(path, []byte(`{"name":"THINGS"}`), 0o600) },
		"missing":    os.Remove,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			srv := start(t, Config{Dir: dir})
			nc := connect(t, srv)
			if err := store(testCtx(t), nc, "one"); err != nil {
				t.Fatal(err)
			}
			nc.Close()
			stop(t, srv)

			meta := filepath.Join(dir, storeName, "$G", "streams", "THINGS", "meta.inf")
			intact, err := os.ReadFile(meta)
			if err != nil {
				t.Fatal(err)
			}
			if err := damage(meta); err != nil {
				t.Fatal(err)
			}
			_, err = Start(testCtx(t), Config{Dir: dir})
			if err == nil || !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), "THINGS") {
				t.Fatalf("start with a damaged stream: %v", err)
			}

			// Nothing was thrown away: with the file restored all is there.
			if err := os.WriteFile(meta, intact, 0o600); err != nil {
				t.Fatal(err)
			}
			again := start(t, Config{Dir: dir})
			if diff := cmp.Diff([]string{"one"}, stored(t, connect(t, again))); diff != "" {
				t.Error(diff)
			}
		})
	}
}
