package broker

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/peltonq/pelton"
)

// A backup is a folder: for each stream of an installation, those behind buckets
// included, the broker's own snapshot of it with the state of its consumers
// (nats-server 2.15), and a manifest with the checksums of these files. The
// heartbeats of workers are left out: they are of processes, not of the installation.
//
// The snapshots are of different moments, in this order: messages first, records after them,
// what records are looked up by after those. So each task that was accepted before the backup
// began is in it, and what happened to it meanwhile is a state that crashes leave too (of
// streams in which a key has one value, what came meanwhile is in it: see backup_later.go):
//
//   - a message whose task has ended since is dropped by its record;
//   - a record whose message came later is given a new one by the sweep;
//   - a key whose holder is unknown is free.
//
// What ran has to run again in any case, unless lanes are paused and run dry before.

const (
	backupFormat   = 2 // 1 had snapshots alone
	backupManifest = "manifest.json"
	snapshotChunk  = 128 << 10
	snapshotWindow = 8 << 20 // of chunks that are under way: what a slow disk keeps in memory
	// snapshotWait is how long the next chunk may take. The broker reads the whole stream
	// first, to see that it is whole.
	snapshotWait = time.Minute
	// restoreAgain is when a chunk is sent again that nobody was there to take.
	restoreAgain = 20 * time.Millisecond
	// restoreWait is how long the broker may take over a stream when it has all of it.
	restoreWait = 10 * time.Minute
)

// Backup is the manifest of one.
type Backup struct {
	Format    int       `json:"format"`
	Namespace string    `json:"namespace"`
	CreatedAt time.Time `json:"created_at"`
	// Broker is the version of the nats-server that it was made of.
	Broker string `json:"broker"`
	// Paused are the lanes that were paused for the backup, to be resumed with what is
	// restored from it.
	Paused  []PausedLane   `json:"paused,omitempty"`
	Streams []BackupStream `json:"streams"`
}

// PausedLane is a lane that was paused.
type PausedLane struct {
	Queue    string          `json:"queue"`
	Priority pelton.Priority `json:"priority"`
}

// BackupStream is one stream of a backup.
type BackupStream struct {
	Name string `json:"name"`
	// File has the snapshot; SHA256 is in hexadecimal digits, Size in bytes.
	File   string `json:"file"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
	// Config and State are as the broker tells them, and takes them back.
	Config json.RawMessage `json:"config"`
	State  json.RawMessage `json:"state"`
	// Later is what came while the snapshot was made, nil for nothing.
	Later *laterFile `json:"later,omitempty"`
	// End is the stream's last sequence when all streams were written, of those whose sequences
	// are told by others: see raise.
	End uint64 `json:"end,omitempty"`
}

// snapshotState is what is compared of a stream's state.
type snapshotState struct {
	Messages  uint64 `json:"messages"`
	Bytes     uint64 `json:"bytes"`
	FirstSeq  uint64 `json:"first_seq"`
	LastSeq   uint64 `json:"last_seq"`
	Consumers int    `json:"consumer_count"`
}

func (s BackupStream) state() (state snapshotState, err error) {
	if err := json.Unmarshal(s.State, &state); err != nil {
		return state, fmt.Errorf("%w: state of stream %s: %w", pelton.ErrInvalid, s.Name, err)
	}
	return state, nil
}

// Messages is how many the stream had.
func (s BackupStream) Messages() uint64 {
	state, err := s.state()
	if err != nil {
		return 0
	}
	return state.Messages
}

// backedUp are the streams of an installation with so many shards that a backup has, in its order. The
// number of shards is read before it, and is in the settings, which come last: an installation
// that grew meanwhile lacks streams, which whoever opens it makes, and tasks that came after the
// backup had begun.
func (n names) backedUp(shards int) []string {
	last := map[string]int{ // those of rank 0 first
		bucketStream(n.keys()): 2, n.dead(): 2, bucketStream(n.locks()): 2, n.dueIndex(): 2,
		bucketStream(n.config()): 4,
	}
	for shard := range shards {
		last[bucketStream(n.state(uint8(shard)))] = 1
	}
	var ordered []string
	for rank := range 5 {
		for _, s := range n.whole(shards) {
			at, known := last[s.Name]
			if !known && strings.HasPrefix(s.Name, "KV_") {
				at = 3
			}
			if at == rank && s.Name != bucketStream(n.workers()) {
				ordered = append(ordered, s.Name)
			}
		}
	}
	return ordered
}

// WriteBackup writes a backup of the installation to dir, which must be empty or missing.
// The manifest comes last: a folder without one is no backup. tell hears of each
// stream when it is written; nil is nobody. Errors: pelton.ErrNotFound for an installation that
// is not there, pelton.ErrInvalid for a folder that is not empty, pelton.ErrUnavailable.
func WriteBackup(ctx context.Context, nc *nats.Conn, namespace, dir string, paused []PausedLane, tell func(BackupStream)) (*Backup, error) {
	n := names{namespace}
	if err := Exists(ctx, nc, namespace); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("%w: %w", pelton.ErrInvalid, err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", pelton.ErrInvalid, err)
	}
	defer func() { _ = root.Close() }()
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		return nil, fmt.Errorf("%w: folder %s is not empty", pelton.ErrInvalid, dir)
	}
	backup := &Backup{Format: backupFormat, Namespace: namespace, CreatedAt: time.Now().UTC().Truncate(time.Second), Broker: nc.ConnectedServerVersion(), Paused: paused}
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(callTimeout))
	if err != nil {
		return nil, fmt.Errorf("open JetStream: %w", err)
	}
	shards, err := shardsOf(ctx, js, n)
	if err != nil {
		return nil, err
	}
	for _, name := range n.backedUp(shards) {
		s, err := writeStream(ctx, nc, root, name)
		if errors.Is(err, pelton.ErrNotFound) { // an installation of an earlier version
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("back up stream %s: %w", name, err)
		}
		backup.Streams = append(backup.Streams, *s)
		if tell != nil {
			tell(*s)
		}
	}
	for i, s := range backup.Streams {
		if n.probeOf(s.Name) == "" {
			continue
		}
		if backup.Streams[i].End, err = lastSequence(ctx, nc, s.Name); err != nil {
			return nil, fmt.Errorf("back up stream %s: %w", s.Name, err)
		}
	}
	data, err := json.MarshalIndent(backup, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode manifest: %w", err)
	}
	if err := writeSynced(root, backupManifest, func(w io.Writer) error { _, err := w.Write(append(data, '\n')); return err }); err != nil {
		return nil, err
	}
	return backup, syncFolder(dir)
}

// probeOf is a subject of a stream whose sequences records tell, on which nobody waits for
// anything; "" for other streams.
func (n names) probeOf(stream string) string {
	if stream == n.keyed(0) {
		return n.keyedProbe(0)
	}
	if shard, rest, ok := shardOf(stream, n.ns+"_TASKS_"); ok && rest == "" {
		return n.taskProbe(shard)
	}
	return ""
}

// writeSynced writes a file that lasts.
func writeSynced(root *os.Root, name string, write func(io.Writer) error) (err error) {
	file, err := root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	if err := write(file); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return file.Sync()
}

func syncFolder(dir string) error {
	folder, err := os.Open(filepath.Clean(dir))
	if err != nil {
		return fmt.Errorf("sync folder: %w", err)
	}
	return errors.Join(folder.Sync(), folder.Close())
}

// apiError is the error in an answer of JetStream.
type apiError struct {
	Code        int                 `json:"code"`
	ErrorCode   jetstream.ErrorCode `json:"err_code"`
	Description string              `json:"description"`
}

func (e *apiError) Error() string { return e.Description }

// ask makes a request to JetStream's API, and reads the answer into answer.
func ask(ctx context.Context, nc *nats.Conn, subject string, request, answer any) error {
	data, err := json.Marshal(request)
	if err != nil {
		return fmt.Errorf("encode request: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	reply, err := nc.RequestWithContext(ctx, "$JS.API."+subject, data)
	if err != nil {
		return fmt.Errorf("%w: %w", pelton.ErrUnavailable, err)
	}
	return readAnswer(reply.Data, answer)
}

// readAnswer tells what an answer says is wrong.
func readAnswer(data []byte, answer any) error {
	var bad struct {
		Error *apiError `json:"error"`
	}
	err := json.Unmarshal(data, &bad)
	switch {
	case err != nil:
		return fmt.Errorf("%w: answer of JetStream: %w", pelton.ErrUnavailable, err)
	case bad.Error != nil && bad.Error.Code == 404:
		return fmt.Errorf("%w: %w", pelton.ErrNotFound, bad.Error)
	case bad.Error != nil:
		return fmt.Errorf("%w: %w", pelton.ErrUnavailable, bad.Error)
	case answer == nil:
		return nil
	}
	if err := json.Unmarshal(data, answer); err != nil {
		return fmt.Errorf("%w: answer of JetStream: %w", pelton.ErrUnavailable, err)
	}
	return nil
}

// Exists is nil for an installation that is there, even in part, and pelton.ErrNotFound for one that
// is not. Other errors: pelton.ErrUnavailable.
func Exists(ctx context.Context, nc *nats.Conn, namespace string) error {
	found, err := existing(ctx, nc, names{namespace})
	if err == nil && len(found) == 0 {
		err = fmt.Errorf("installation %s: %w", namespace, pelton.ErrNotFound)
	}
	return err
}

// existing are the streams of the installation that are there.
func existing(ctx context.Context, nc *nats.Conn, n names) (found []string, err error) {
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(callTimeout))
	if err != nil {
		return nil, fmt.Errorf("open JetStream: %w", err)
	}
	shards, err := shardsOf(ctx, js, n)
	if err != nil {
		return nil, err
	}
	for _, s := range n.whole(shards) {
		switch _, err := js.Stream(ctx, s.Name); {
		case err == nil:
			found = append(found, s.Name)
		case !errors.Is(err, jetstream.ErrStreamNotFound):
			return nil, translate("look for stream "+s.Name, err)
		}
	}
	return found, nil
}

// writeStream writes a stream's snapshot as the broker sends it, a window of chunks at a
// time.
func writeStream(ctx context.Context, nc *nats.Conn, root *os.Root, name string) (*BackupStream, error) {
	sub, err := nc.SubscribeSync(nc.NewInbox())
	if err != nil {
		return nil, fmt.Errorf("%w: %w", pelton.ErrUnavailable, err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	if err := sub.SetPendingLimits(-1, 2*snapshotWindow); err != nil {
		return nil, fmt.Errorf("bound what is under way: %w", err)
	}
	request := struct {
		Deliver string `json:"deliver_subject"`
		Chunk   int    `json:"chunk_size"`
		Window  int    `json:"window_size"`
		Check   bool   `json:"jsck"`
	}{sub.Subject, snapshotChunk, snapshotWindow, true}
	s := &BackupStream{Name: name, File: name + ".snapshot"}
	var answer struct {
		Config json.RawMessage `json:"config"`
		State  json.RawMessage `json:"state"`
	}
	if err := ask(ctx, nc, "STREAM.SNAPSHOT."+name, request, &answer); err != nil {
		return nil, err
	}
	s.Config, s.State = answer.Config, answer.State
	err = writeSynced(root, s.File, func(w io.Writer) error {
		sum := sha256.New()
		if s.Size, err = copyChunks(ctx, sub, io.MultiWriter(w, sum)); err != nil {
			return err
		}
		s.SHA256 = digits(sum)
		return nil
	})
	if err != nil {
		return nil, err
	}
	state, err := s.state()
	if err != nil {
		return nil, err
	}
	var config struct {
		PerSubject int `json:"max_msgs_per_subject"`
	}
	if err := json.Unmarshal(s.Config, &config); err != nil {
		return nil, fmt.Errorf("%w: its configuration: %w", pelton.ErrUnavailable, err)
	}
	if config.PerSubject == 1 {
		s.Later, err = writeLater(ctx, nc, root, name, state.LastSeq)
	}
	return s, err
}

func digits(sum hash.Hash) string { return hex.EncodeToString(sum.Sum(nil)) }

// copyChunks takes chunks until the broker says that it was the last.
func copyChunks(ctx context.Context, sub *nats.Subscription, w io.Writer) (size int64, err error) {
	for {
		waiting, cancel := context.WithTimeout(ctx, snapshotWait)
		msg, err := sub.NextMsgWithContext(waiting)
		cancel()
		if err != nil {
			return size, fmt.Errorf("%w: the next part of a snapshot: %w", pelton.ErrUnavailable, err)
		}
		if len(msg.Data) == 0 {
			if status := msg.Header.Get("Status"); status != "" && status != "204" {
				return size, fmt.Errorf("%w: snapshot ended: %s %s", pelton.ErrUnavailable, status, msg.Header.Get("Description"))
			}
			return size, nil
		}
		if msg.Reply != "" {
			if err := msg.Respond(nil); err != nil {
				return size, fmt.Errorf("%w: %w", pelton.ErrUnavailable, err)
			}
		}
		n, err := w.Write(msg.Data)
		size += int64(n)
		if err != nil {
			return size, err
		}
	}
}
