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
	acked := []string{"0"}
	publish := func(n int) error {
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		text := fmt.Sprint(n)
		_, err := js.Publish(ctx, "things", []byte(text), jetstream.WithRetryAttempts(0))
		if err == nil {
			acked = append(acked, text)
		}
		return err
	}

	ballast, err := os.Create(filepath.Join(dir, "ballast"))
	if err != nil {
		t.Fatal(err)
	}
	defer ballast.Close()
	free, err := freeSpace(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Fallocate(int(ballast.Fd()), 0, 0, int64(free.free)); err != nil {
		t.Fatal(err)
	}
	n := 1
	for publish(n) == nil { // until what is left of a page is written
		n++
	}
	if !srv.Full() {
		eventually(t, "the disk is known to be full", srv.Full)
	}
	if err := os.Remove(ballast.Name()); err != nil {
		t.Fatal(err)
	}
	if err := ballast.Close(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "there is room", func() bool { return !srv.Full() })
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
