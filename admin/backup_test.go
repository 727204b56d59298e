package admin_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/admin"
	"github.com/peltonq/pelton/internal/brokertest"
	"github.com/peltonq/pelton/producer"
	"github.com/peltonq/pelton/worker"
)

// furnished is an installation with a task of each sort, and their ids.
func furnished(t *testing.T, nc *nats.Conn) (*admin.Client, map[string]pelton.ID) {
	t.Helper()
	client, producing := open(t, nc)
	ids := map[string]pelton.ID{}
	for name, spec := range map[string]pelton.Spec{
		"failed":  {Kind: "fails", Payload: json.RawMessage(`"f"`), MaxAttempts: 1},
		"success": {Kind: "works", Payload: json.RawMessage(`"s"`)},
	} {
		ids[name] = enqueue(t, producing, spec)
	}
	stop := working(t, nc)
	for name, state := range map[string]pelton.State{"failed": pelton.Failed, "success": pelton.Succeeded} {
		if task, err := producing.Wait(t.Context(), ids[name]); err != nil || task.State != state {
			t.Fatalf("%s: %+v, %v", name, task, err)
		}
	}
	stop()
	for name, spec := range map[string]pelton.Spec{
		"plain":   {Kind: "works", Payload: json.RawMessage(`{"a": 1.50}`)},
		"urgent":  {Kind: "works", Queue: "other", Priority: pelton.Critical},
		"delayed": {Kind: "works", Delay: time.Hour},
		"unique":  {Kind: "works", Unique: &pelton.Unique{Key: "u"}},
		"first":   {Kind: "works", ConcurrencyKey: "k"},
	} {
		ids[name] = enqueue(t, producing, spec)
	}
	if _, err := client.PatchQueue(t.Context(), "other", []byte(`{"max_running":{"low":4}}`)); err != nil {
		t.Fatal(err)
	}
	return client, ids
}

func enqueue(t *testing.T, client *producer.Client, spec pelton.Spec) pelton.ID {
	t.Helper()
	task, err := client.Enqueue(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	return task.ID
}

// working runs a worker until stop is called, which waits for its end.
func working(t *testing.T, nc *nats.Conn) (stop func()) {
	t.Helper()
	mux := worker.NewMux()
	mux.Handle("works", worker.HandlerFunc(func(context.Context, *pelton.Task) (json.RawMessage, error) { return nil, nil }))
	mux.Handle("rests", worker.HandlerFunc(func(ctx context.Context, _ *pelton.Task) (json.RawMessage, error) {
		timer := time.NewTimer(5 * time.Millisecond)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
		return nil, context.Cause(ctx)
	}))
	mux.Handle("fails", worker.HandlerFunc(func(context.Context, *pelton.Task) (json.RawMessage, error) { return nil, errors.New("no") }))
	w, err := worker.New(nc, mux, worker.Config{Queues: []string{"default", "other"}, Concurrency: 8})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	client, _ := open(t, nc)
	eventually(t, "the worker has opened", func() bool { // one that opens meanwhile may end with an error
		shown, err := client.Workers(t.Context(), pelton.WorkerQuery{})
		return err == nil && slices.ContainsFunc(shown.Items, func(at pelton.Worker) bool { return at.ID == w.ID() })
	})
	return sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("worker: %v", err)
		}
	})
}

// holds compares two installations: what their queues and dead letters are, and each task.
func holds(t *testing.T, from, to *nats.Conn, ids map[string]pelton.ID) {
	t.Helper()
	was, wasProducing := open(t, from)
	is, producing := open(t, to)
	read := func(c *admin.Client) (queues []pelton.Queue) {
		queues, err := c.Queues(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, q := range queues {
			for p, depth := range q.Priorities {
				depth.OldestReady = 0
				q.Priorities[p] = depth
			}
		}
		return queues
	}
	if diff := cmp.Diff(read(was), read(is)); diff != "" {
		t.Errorf("queues (-backed up +restored):\n%s", diff)
	}
	for name, id := range ids {
		want, err := wasProducing.Get(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := producing.Get(t.Context(), id); err != nil {
			t.Errorf("%s: %v", name, err)
		} else if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-backed up +restored):\n%s", name, diff)
		}
	}
	if _, err := is.DeadLetter(t.Context(), ids["failed"]); err != nil {
		t.Errorf("dead letter: %v", err)
	}
	if _, err := producing.Enqueue(t.Context(), pelton.Spec{Kind: "works", Unique: &pelton.Unique{Key: "u"}}); !errors.Is(err, pelton.ErrConflict) {
		t.Errorf("a second task of a unique key: %v", err)
	}
}

// What is restored from a backup is what was backed up, and its tasks run, once.
func TestRestore(t *testing.T) {
	t.Parallel()
	for _, shards := range []int{1, 3} {
		t.Run(fmt.Sprint(shards, " shards"), func(t *testing.T) {
			t.Parallel()
			restoresAll(t, shards)
		})
	}
}

func restoresAll(t *testing.T, shards int) {
	t.Helper()
	from, to := brokertest.Start(t), brokertest.Start(t)
	growing, _ := open(t, from)
	if _, err := growing.GrowShards(t.Context(), shards); err != nil {
		t.Fatal(err)
	}
	_, ids := furnished(t, from)
	used := map[uint8]bool{}
	for _, id := range ids {
		used[id.Shard()] = true
	}
	if len(used) != shards {
		t.Fatalf("%d of %d shards have a task", len(used), shards)
	}
	dir := filepath.Join(t.TempDir(), "backup")
	made, err := admin.Backup(t.Context(), from, dir, admin.BackupConfig{})
	if err != nil {
		t.Fatal(err)
	}
	if checked, err := admin.CheckBackup(t.Context(), dir); err != nil || !cmp.Equal(made, checked) {
		t.Errorf("CheckBackup = %+v, %v; made was %+v", checked, err, made)
	}
	if restored, err := admin.Restore(t.Context(), to, dir, admin.RestoreConfig{}); err != nil || !cmp.Equal(made, restored) {
		t.Fatalf("Restore = %+v, %v; made was %+v", restored, err, made)
	}
	holds(t, from, to, ids)
	runsOut(t, to, ids)
}

// runsOut works off what is ready, each task once.
func runsOut(t *testing.T, nc *nats.Conn, ids map[string]pelton.ID) {
	t.Helper()
	_, producing := open(t, nc)
	defer working(t, nc)()
	for _, name := range []string{"plain", "urgent", "unique", "first"} {
		task, err := producing.Wait(t.Context(), ids[name])
		if err != nil || task.State != pelton.Succeeded || task.Attempt != 1 || task.Crashes != 0 {
			t.Errorf("%s: %+v, %v", name, task, err)
		}
	}
	if task, err := producing.Run(t.Context(), ids["delayed"]); err != nil {
		t.Errorf("delayed: %+v, %v", task, err)
	} else if task, err := producing.Wait(t.Context(), ids["delayed"]); err != nil || task.State != pelton.Succeeded {
		t.Errorf("delayed: %+v, %v", task, err)
	}
}

// An installation moves from one broker into a cluster that keeps three copies, with its queues
// paused meanwhile.
func TestRestoreIntoCluster(t *testing.T) {
	t.Parallel()
	from := brokertest.Start(t)
	client, ids := furnished(t, from)
	_, urls := brokertest.StartCluster(t, 3)
	to := brokertest.ConnectTo(t, urls)
	dir := filepath.Join(t.TempDir(), "backup")
	if _, err := admin.Backup(t.Context(), from, dir, admin.BackupConfig{Pause: true, StayPaused: true}); err != nil {
		t.Fatal(err)
	}
	if q, err := client.Queue(t.Context(), "default"); err != nil || !q.Paused {
		t.Errorf("queue of an installation that moved: %+v, %v", q, err)
	}
	if _, err := admin.Restore(t.Context(), to, dir, admin.RestoreConfig{Replicas: 3}); err != nil {
		t.Fatal(err)
	}
	js, err := jetstream.New(to)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"pelton_TASKS_0", "KV_pelton_STATE_0", "KV_pelton_WORKERS"} {
		stream, err := js.Stream(t.Context(), name)
		if err != nil || stream.CachedInfo().Config.Replicas != 3 {
			t.Errorf("stream %s: %+v, %v", name, stream, err)
		}
	}
	restored, _ := open(t, to)
	if q, err := restored.Queue(t.Context(), "default"); err != nil || q.Paused {
		t.Errorf("restored queue: %+v, %v", q, err)
	}
	runsOut(t, to, ids)
}

// Tasks that are accepted and run while a backup is made: each that was accepted before it began is
// in it, and ends after it was restored.
func TestBackupOfWhatIsInUse(t *testing.T) {
	t.Parallel()
	from, to := brokertest.Start(t), brokertest.Start(t)
	_, producing := open(t, from)
	stop := working(t, from)
	var mu sync.Mutex
	var accepted []pelton.ID
	ctx, cancel := context.WithCancel(t.Context())
	var enqueuing sync.WaitGroup
	for i := range 4 {
		enqueuing.Go(func() {
			spec := pelton.Spec{Kind: "works", ConcurrencyKey: []string{"", "k"}[i%2]}
			for ctx.Err() == nil {
				task, err := producing.Enqueue(ctx, spec)
				if err != nil {
					continue // ctx has ended
				}
				mu.Lock()
				accepted = append(accepted, task.ID)
				mu.Unlock()
			}
		})
	}
	before := func() []pelton.ID {
		mu.Lock()
		defer mu.Unlock()
		return accepted[:len(accepted):len(accepted)]
	}
	eventually(t, "tasks are accepted", func() bool { return len(before()) > 200 })
	promised := before()
	dir := filepath.Join(t.TempDir(), "backup")
	if _, err := admin.Backup(t.Context(), from, dir, admin.BackupConfig{}); err != nil {
		t.Fatal(err)
	}
	cancel()
	enqueuing.Wait()
	stop()
	if _, err := admin.Restore(t.Context(), to, dir, admin.RestoreConfig{}); err != nil {
		t.Fatal(err)
	}
	sweeper, restored := open(t, to)
	defer working(t, to)()
	ctx, cancel = context.WithCancel(t.Context())
	var sweeping sync.WaitGroup
	sweeping.Go(func() { sweeper.Sweep(ctx, slog.New(slog.DiscardHandler), func(admin.SweepStep) {}) })
	defer sweeping.Wait()
	defer cancel()
	for _, id := range promised {
		waiting, cancel := context.WithTimeout(t.Context(), time.Minute) // a message that was not written yet is written by the sweep
		task, err := restored.Wait(waiting, id)
		cancel()
		if err != nil || task.State != pelton.Succeeded {
			t.Fatalf("task %s of before the backup: %+v, %v", id, task, err)
		}
	}
}

// A backup waits for what runs, and gives up and resumes what it paused when that takes too long.
func TestBackupWaitsForWhatRuns(t *testing.T) {
	t.Parallel()
	nc := brokertest.Start(t)
	client, producing := open(t, nc)
	release := make(chan struct{})
	mux := worker.NewMux()
	mux.Handle("slow", worker.HandlerFunc(func(context.Context, *pelton.Task) (json.RawMessage, error) { <-release; return nil, nil }))
	w, err := worker.New(nc, mux, worker.Config{Concurrency: 1})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	id := enqueue(t, producing, pelton.Spec{Kind: "slow"})
	eventually(t, "the task runs", func() bool { q, err := client.Queue(t.Context(), "default"); return err == nil && q.Running == 1 })
	dir := filepath.Join(t.TempDir(), "backup")
	if _, err := admin.Backup(t.Context(), nc, dir, admin.BackupConfig{Pause: true, Patience: 300 * time.Millisecond}); !errors.Is(err, pelton.ErrConflict) {
		t.Errorf("backup beside a task that runs: %v", err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("folder of a backup that was not made: %v", err)
	}
	if q, err := client.Queue(t.Context(), "default"); err != nil || q.Paused || q.Priorities[pelton.Low].Paused {
		t.Errorf("queue after a backup that was not made: %+v, %v", q, err)
	}
	if _, err := client.Pause(t.Context(), "default", pelton.Low); err != nil {
		t.Fatal(err)
	}
	made := make(chan error, 1)
	go func() {
		_, err := admin.Backup(t.Context(), nc, dir, admin.BackupConfig{Pause: true})
		made <- err
	}()
	eventually(t, "the queue is paused", func() bool { q, err := client.Queue(t.Context(), "default"); return err == nil && q.Paused })
	close(release)
	if err := <-made; err != nil {
		t.Error(err)
	}
	if q, err := client.Queue(t.Context(), "default"); err != nil || q.Priorities[pelton.Normal].Paused || !q.Priorities[pelton.Low].Paused {
		t.Errorf("queue after the backup: %+v, %v; only low was paused before", q, err)
	}
	if task, err := producing.Get(t.Context(), id); err != nil || task.State != pelton.Succeeded {
		t.Errorf("the task: %+v, %v", task, err)
	}
	if _, err := admin.Backup(t.Context(), nc, dir, admin.BackupConfig{Pause: true, StayPaused: true}); !errors.Is(err, pelton.ErrInvalid) {
		t.Errorf("backup over another one: %v", err)
	}
	if q, err := client.Queue(t.Context(), "default"); err != nil || q.Priorities[pelton.Normal].Paused {
		t.Errorf("queue after a backup that was to leave it paused, and was not made: %+v, %v", q, err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// Backups that are not whole are refused by what is wrong with them, and nothing is done.
func TestRestoreRefuses(t *testing.T) {
	t.Parallel()
	from := brokertest.Start(t)
	furnished(t, from)
	whole := filepath.Join(t.TempDir(), "backup")
	if _, err := admin.Backup(t.Context(), from, whole, admin.BackupConfig{}); err != nil {
		t.Fatal(err)
	}
	tasks, manifest := "pelton_TASKS_0.snapshot", "manifest.json"
	to := brokertest.Start(t)
	for name, c := range map[string]struct {
		damage func(dir string) error
		says   string
	}{
		"a bit": {func(dir string) error {
			data, err := os.ReadFile(filepath.Join(dir, tasks))
			if err != nil {
				return err
			}
			data[len(data)/2] ^= 1
			return os.WriteFile(filepath.Join(dir, tasks), data, 0o600)
		}, "pelton_TASKS_0.snapshot is damaged"},
		"the end":      {func(dir string) error { return os.Truncate(filepath.Join(dir, tasks), 100) }, "pelton_TASKS_0.snapshot is damaged: 100 bytes"},
		"a file":       {func(dir string) error { return os.Remove(filepath.Join(dir, tasks)) }, "no such file"},
		"the manifest": {func(dir string) error { return os.Remove(filepath.Join(dir, manifest)) }, "no whole backup"},
		"later": {func(dir string) error {
			return os.WriteFile(filepath.Join(dir, manifest), []byte(`{"format":99,"namespace":"pelton"}`), 0o600)
		}, "format 99"},
		"outside": {func(dir string) error {
			data, err := os.ReadFile(filepath.Join(dir, manifest))
			if err != nil {
				return err
			}
			return os.WriteFile(filepath.Join(dir, manifest), []byte(strings.ReplaceAll(string(data), tasks, "../../secret")), 0o600)
		}, "escapes"},
	} {
		dir := filepath.Join(t.TempDir(), "copy")
		if err := os.CopyFS(dir, os.DirFS(whole)); err != nil {
			t.Fatal(err)
		}
		if err := c.damage(dir); err != nil {
			t.Fatal(err)
		}
		if _, err := admin.Restore(t.Context(), to, dir, admin.RestoreConfig{}); !errors.Is(err, pelton.ErrInvalid) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v; want an error that says %q", name, err, c.says)
		}
	}
	streams(t, to, 0)
	if _, err := admin.Restore(t.Context(), from, whole, admin.RestoreConfig{}); !errors.Is(err, pelton.ErrConflict) {
		t.Errorf("restore over what is there: %v", err)
	}
	if _, err := admin.Restore(t.Context(), from, whole, admin.RestoreConfig{Replace: true}); err != nil {
		t.Errorf("restore in place of what is there: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	if _, err := admin.Restore(ctx, to, whole, admin.RestoreConfig{Tell: func(p admin.BackupPart) {
		if p.Stream == "pelton_TICKS" {
			cancel() // in the middle of it
		}
	}}); err == nil {
		t.Error("a restore went on after its ctx had ended")
	}
	streams(t, to, 0)
	if _, err := admin.Backup(t.Context(), to, filepath.Join(t.TempDir(), "none"), admin.BackupConfig{Pause: true}); !errors.Is(err, pelton.ErrNotFound) {
		t.Errorf("backup of nothing: %v", err)
	}
	streams(t, to, 0)
	if _, err := admin.Backup(t.Context(), from, whole, admin.BackupConfig{}); !errors.Is(err, pelton.ErrInvalid) {
		t.Errorf("backup over another one: %v", err)
	}
}

// streams wants so many of them in the broker.
func streams(t *testing.T, nc *nats.Conn, want int) {
	t.Helper()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	info, err := js.AccountInfo(t.Context())
	if err != nil || info.Streams != want {
		t.Errorf("%d streams (%v), want %d", info.Streams, err, want)
	}
}
