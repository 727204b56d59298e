package embed

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// inBatch publishes a message of a batch, the commit of which is answered.
func inBatch(t *testing.T, nc *nats.Conn, batch string, n int, commit bool) {
	t.Helper()
	msg := nats.NewMsg("things")
	msg.Data = fmt.Append(nil, n)
	msg.Header.Set("Nats-Batch-Id", batch)
	msg.Header.Set("Nats-Batch-Sequence", fmt.Sprint(n))
	if !commit {
		// The first one is answered when it is stored.
		if n > 1 {
			if err := nc.PublishMsg(msg); err != nil {
				t.Fatal(err)
			}
			return
		}
	} else {
		msg.Header.Set("Nats-Batch-Commit", "1")
	}
	reply, err := nc.RequestMsgWithContext(testCtx(t), msg)
	if err != nil || strings.Contains(string(reply.Data), "error") {
		t.Fatalf("message %d of batch %s: %v, %s", n, batch, err, reply.Data)
	}
}

// batchable is the stream THINGS, which takes batches.
func batchable(t *testing.T, nc *nats.Conn) {
	t.Helper()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateOrUpdateStream(testCtx(t), jetstream.StreamConfig{Name: "THINGS", Subjects: []string{"things"}, AllowAtomicPublish: true}); err != nil {
		t.Fatal(err)
	}
}

func entries(t *testing.T, dir string) []string {
	t.Helper()
	found, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	names := make([]string, len(found))
	for i, e := range found {
		names[i] = e.Name()
	}
	return names
}

func TestBatchesAreGatheredInMemory(t *testing.T) {
	t.Parallel()
	cfg := Config{Dir: t.TempDir(), Sync: Sync{Always: true}}
	memory := t.TempDir()
	batches := filepath.Join(cfg.Dir, storeName, "$G", "streams", "THINGS", batchesName)
	run := func(batch string) {
		srv := start(t, cfg)
		srv.memory = memory
		nc := connect(t, srv)
		batchable(t, nc)
		if err := srv.StageBatches("THINGS"); err != nil {
			t.Fatal(err)
		}
		inBatch(t, nc, batch, 1, false)
		homes := entries(t, memory)
		if len(homes) != 1 || len(entries(t, filepath.Join(memory, homes[0], "THINGS"))) != 1 {
			t.Errorf("in memory are %v", homes)
		}
		if target, err := os.Readlink(batches); err != nil || !strings.HasPrefix(target, memory) {
			t.Errorf("batches lead to %q, %v", target, err)
		}
		inBatch(t, nc, batch, 2, false)
		inBatch(t, nc, batch, 3, true)
		nc.Close()
		stop(t, srv)
		if left := entries(t, memory); len(left) > 0 {
			t.Errorf("left in memory are %v", left)
		}
		if _, err := os.Lstat(batches); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the link is left: %v", err)
		}
	}
	run("a")
	run("b")
	srv := start(t, cfg)
	if got := stored(t, connect(t, srv)); strings.Join(got, "") != "123123" {
		t.Errorf("stored are %v", got)
	}
}

// After a restart for want of room on the disk, batches are gathered in memory again.
func TestRenewedServerGathersInMemory(t *testing.T) {
	t.Parallel()
	srv := start(t, Config{Sync: Sync{Always: true}})
	srv.memory = t.TempDir()
	nc := connect(t, srv)
	batchable(t, nc)
	if err := srv.StageBatches("THINGS"); err != nil {
		t.Fatal(err)
	}
	before := entries(t, srv.memory)
	nc.Close()
	if err := srv.renew(); err != nil {
		t.Fatal(err)
	}
	after := entries(t, srv.memory)
	if len(before) != 1 || len(after) != 1 || before[0] == after[0] {
		t.Errorf("in memory were %v, and are %v", before, after)
	}
	inBatch(t, connect(t, srv), "a", 1, false)
	if got := entries(t, filepath.Join(srv.memory, after[0], "THINGS")); len(got) != 1 {
		t.Errorf("in memory is %v", got)
	}
}

// Without syncs there is nothing to save, and without memory no place.
func TestBatchesOnTheDisk(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		sync   Sync
		memory string
	}{
		"an interval": {Sync{}, t.TempDir()},
		"no memory":   {Sync{Always: true}, ""},
	} {
		srv := start(t, Config{Sync: c.sync})
		srv.memory = c.memory
		nc := connect(t, srv)
		batchable(t, nc)
		if err := srv.StageBatches("THINGS"); err != nil {
			t.Fatal(err)
		}
		inBatch(t, nc, "a", 1, false)
		home := filepath.Join(srv.folder.dir, storeName, "$G", "streams", "THINGS", batchesName)
		if info, err := os.Lstat(home); err != nil || !info.IsDir() {
			t.Errorf("%s: %v, %v", name, info, err)
		}
		inBatch(t, nc, "a", 2, true)
		if got := stored(t, nc); len(got) != 2 {
			t.Errorf("%s: stored are %v", name, got)
		}
		nc.Close()
	}
}

// What a killed server leaves is removed, and nothing else.
func TestUnstage(t *testing.T) {
	t.Parallel()
	memory := t.TempDir()
	f := &folder{dir: t.TempDir()}
	home := func(stream string) string { return filepath.Join(f.dir, storeName, "$G", "streams", stream) }
	for _, stream := range []string{"A", "B", "OWN", "FOREIGN"} {
		if err := os.MkdirAll(home(stream), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	foreign := filepath.Join(memory, "foreign", "x")
	if err := errors.Join(os.Mkdir(filepath.Join(home("OWN"), batchesName), 0o700), os.MkdirAll(foreign, 0o700),
		os.Symlink(foreign, filepath.Join(home("FOREIGN"), batchesName))); err != nil {
		t.Fatal(err)
	}
	if err := f.stage(memory, []string{"A", "B", "OWN", "FOREIGN", "MISSING"}); err != nil {
		t.Fatal(err)
	}
	if got := entries(t, memory); len(got) != 2 {
		t.Errorf("in memory are %v", got)
	}
	if err := f.unstage(); err != nil {
		t.Fatal(err)
	}
	if got := entries(t, memory); len(got) != 1 || got[0] != "foreign" {
		t.Errorf("left in memory are %v", got)
	}
	for stream, want := range map[string]int{"A": 0, "B": 0, "OWN": 1, "FOREIGN": 1} {
		if got := entries(t, home(stream)); len(got) != want {
			t.Errorf("left in %s are %v", stream, got)
		}
	}
}
