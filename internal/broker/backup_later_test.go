package broker

import (
	"context"
	"fmt"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/peltonq/pelton/internal/brokertest"
)

// Keys that are written all the time while a backup is made: each is in it, with a value that is no
// older than the one when the backup began.
func TestBackupHasEachKey(t *testing.T) {
	t.Parallel()
	from, to := brokertest.Start(t), brokertest.Start(t)
	opened := openOn(t, from, Config{})
	const keys = 3000
	js, err := jetstream.New(from)
	if err != nil {
		t.Fatal(err)
	}
	write := func(ctx context.Context, round int) {
		for i := range keys {
			if _, err := js.PublishAsync(fmt.Sprintf("$KV.%s.k%d", opened.locks(), i), []byte(strconv.Itoa(round))); err != nil && ctx.Err() == nil {
				t.Error(err)
			}
			if i%500 == 0 { // a bound on what is under way
				<-js.PublishAsyncComplete()
			}
			if ctx.Err() != nil {
				break
			}
		}
		<-js.PublishAsyncComplete()
	}
	write(t.Context(), 0)
	ctx, cancel := context.WithCancel(t.Context())
	var writing sync.WaitGroup
	writing.Go(func() {
		for round := 1; ctx.Err() == nil; round++ {
			write(ctx, round)
		}
	})
	dir := filepath.Join(t.TempDir(), "backup")
	made, err := WriteBackup(t.Context(), from, DefaultNamespace, dir, nil, nil)
	cancel()
	writing.Wait()
	if err != nil {
		t.Fatal(err)
	}
	var later *laterFile
	for _, s := range made.Streams {
		if s.Name == bucketStream(opened.locks()) {
			later = s.Later
		}
	}
	if later == nil || later.Messages == 0 {
		t.Fatalf("nothing came while the backup was made: %+v", later)
	}
	t.Logf("%d messages came meanwhile", later.Messages)
	if _, err := RestoreBackup(t.Context(), to, dir, Restoring{}, nil); err != nil {
		t.Fatal(err)
	}
	restored, err := jetstream.New(to)
	if err != nil {
		t.Fatal(err)
	}
	got, err := restored.KeyValue(t.Context(), opened.locks())
	if err != nil {
		t.Fatal(err)
	}
	for i := range keys {
		if _, err := got.Get(t.Context(), fmt.Sprintf("k%d", i)); err != nil {
			t.Fatalf("key %d of %d: %v", i, keys, err)
		}
	}
}

// A restored stream goes on after all sequences that the installation had when its backup ended.
func TestRestoredSequencesAreNew(t *testing.T) {
	t.Parallel()
	from, to := brokertest.Start(t), brokertest.Start(t)
	opened := openOn(t, from, Config{})
	const later = 2500 // messages that come after the snapshot of messages
	ends := map[string]uint64{}
	dir := filepath.Join(t.TempDir(), "backup")
	_, err := WriteBackup(t.Context(), from, DefaultNamespace, dir, nil, func(s BackupStream) {
		probe := opened.probeOf(s.Name)
		if probe == "" {
			return
		}
		left := later
		if err := publishAll(t.Context(), from, func() (*nats.Msg, error) {
			if left--; left < 0 {
				return nil, nil //nolint:nilnil // no more
			}
			return nats.NewMsg(probe), nil
		}); err != nil {
			t.Error(err)
		}
		end, err := lastSequence(t.Context(), from, s.Name)
		if err != nil {
			t.Error(err)
		}
		ends[s.Name] = end
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := RestoreBackup(t.Context(), to, dir, Restoring{}, nil); err != nil {
		t.Fatal(err)
	}
	js, err := jetstream.New(to)
	if err != nil {
		t.Fatal(err)
	}
	for name, end := range ends {
		stream, err := js.Stream(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		if is := stream.CachedInfo().State; is.LastSeq != end || is.Msgs != 0 || end < later {
			t.Errorf("restored stream %s: %d messages, last %d, want 0 and %d", name, is.Msgs, is.LastSeq, end)
		}
	}
}

func TestLaterMessages(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for name, tt := range map[string]struct{ header, want nats.Header }{
		"none":     {nil, nats.Header{}},
		"own":      {nats.Header{"Pelton-X": {"a", "b"}}, nats.Header{"Pelton-X": {"a", "b"}}},
		"expected": {nats.Header{"Nats-Expected-Last-Subject-Sequence": {"7"}, "Nats-Msg-Id": {"x"}}, nats.Header{}},
		"purged":   {nats.Header{"KV-Operation": {"PURGE"}, "Nats-Rollup": {"sub"}}, nats.Header{"KV-Operation": {"PURGE"}, "Nats-Rollup": {"sub"}}},
		"expired":  {nats.Header{"Nats-Marker-Reason": {"MaxAge"}, "Nats-TTL": {"1m0s"}}, nats.Header{"KV-Operation": {"PURGE"}, "Nats-TTL": {"50"}}},
		"seconds":  {nats.Header{"Nats-TTL": {"100"}}, nats.Header{"Nats-TTL": {"90"}}},
		"over":     {nats.Header{"Nats-TTL": {"5"}}, nats.Header{"Nats-TTL": {"1"}}},
		"never":    {nats.Header{"Nats-TTL": {"never"}}, nats.Header{"Nats-TTL": {"never"}}},
	} {
		m := laterMessage{Subject: "s", Data: []byte("d"), Header: tt.header, Time: now.Add(-10 * time.Second)}
		msg := m.again(now)
		if diff := cmp.Diff(tt.want, msg.Header); diff != "" || msg.Subject != "s" || string(msg.Data) != "d" {
			t.Errorf("%s: %+v (-want +got):\n%s", name, msg, diff)
		}
	}
}
