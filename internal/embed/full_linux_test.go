package embed

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// A write that met a full disk ends all writes to its stream. With room again the
// server comes back inside the process, on the same port, and has everything that it
// acknowledged.
func TestComesBackFromFullDisk(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	err := syscall.Mount("pelton-embed", dir, "tmpfs", syscall.MS_NOSUID|syscall.MS_NODEV, "size=64m,mode=0700")
	if errors.Is(err, fs.ErrPermission) {
		t.Skipf("mounting a tmpfs: %v", err)
	} else if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	var log logBuffer
	srv := start(t, Config{Dir: filepath.Join(dir, "data"), Listen: "127.0.0.1:0", Logger: log.logger(slog.LevelInfo)})
	url := srv.ClientURL()
	nc, err := nats.Connect(url, nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if err := store(testCtx(t), nc, "0"); err != nil {
		t.Fatal(err)
	}
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	n, acked := 0, []string{"0"}
	publish := func(n int) error {
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		text := fmt.Sprintf("%d%8192s", n, "") // more than what is left of a page
		_, err := js.Publish(ctx, "things", []byte(text), jetstream.WithRetryAttempts(0))
		if err == nil {
			acked = append(acked, text)
		}
		return err
	}

	// The server is to meet the full disk before anybody looks: if the limit was
	// faster, once more.
	for tries := 0; ; tries++ {
		release := fill(t, dir)
		var err error
		for err == nil {
			n++
			err = publish(n)
		}
		eventually(t, "the disk is known to be full", srv.Full)
		release()
		eventually(t, "there is room", func() bool { return !srv.Full() })
		if errors.Is(err, context.DeadlineExceeded) {
			break // a wedged stream does not answer
		}
		if tries == 10 {
			t.Fatalf("the limit is always faster: %v", err)
		}
	}
	eventually(t, "writes are taken", func() bool { n++; return publish(n) == nil })
	if got := srv.ClientURL(); got != url {
		t.Errorf("listens on %s, then on %s", url, got)
	}
	if !strings.Contains(log.String(), "embedded broker is started again") {
		t.Errorf("the server was not started again:\n%s", log.String())
	}
	have := make(map[string]bool)
	for _, text := range stored(t, nc) {
		have[text] = true
	}
	for _, text := range acked {
		if !have[text] {
			t.Errorf("message %s was acknowledged and is gone", text)
		}
	}
}

// fill takes all of the disk at once, until release.
func fill(t *testing.T, dir string) (release func()) {
	t.Helper()
	ballast, err := os.Create(filepath.Join(dir, "ballast"))
	if err != nil {
		t.Fatal(err)
	}
	free, err := freeSpace(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Fallocate(int(ballast.Fd()), 0, 0, int64(free.free)); err != nil {
		t.Fatal(err)
	}
	return func() {
		t.Helper()
		if err := errors.Join(os.Remove(ballast.Name()), ballast.Close()); err != nil {
			t.Fatal(err)
		}
	}
}

func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	deadline := time.After(15 * time.Second)
	again := time.NewTicker(5 * time.Millisecond)
	defer again.Stop()
	for !cond() {
		select {
		case <-again.C:
		case <-deadline:
			t.Fatalf("never: %s", what)
		}
	}
}
