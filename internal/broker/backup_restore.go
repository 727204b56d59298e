package broker

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/peltonq/pelton"
)

// ReadBackup reads the manifest of the backup in dir, and every file to see that it is as
// it was written. pelton.ErrInvalid names what is wrong.
func ReadBackup(ctx context.Context, dir string) (*Backup, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("%w: open backup: %w", pelton.ErrInvalid, err)
	}
	defer func() { _ = root.Close() }()
	data, err := root.ReadFile(backupManifest)
	if err != nil {
		return nil, fmt.Errorf("%w: %s is no whole backup: %w", pelton.ErrInvalid, dir, err)
	}
	var backup Backup
	if err := json.Unmarshal(data, &backup); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", pelton.ErrInvalid, backupManifest, err)
	}
	switch {
	case backup.Format < 1, backup.Format > backupFormat:
		return nil, fmt.Errorf("%w: the backup has format %d, this version reads 1 to %d", pelton.ErrInvalid, backup.Format, backupFormat)
	case !namespaceName.MatchString(backup.Namespace), len(backup.Streams) == 0:
		return nil, fmt.Errorf("%w: %s names no installation", pelton.ErrInvalid, backupManifest)
	}
	for _, s := range backup.Streams {
		if _, err := s.state(); err != nil {
			return nil, err
		}
		if err := checkFile(ctx, root, s.File, s.Size, s.SHA256); err != nil {
			return nil, err
		}
		if l := s.Later; l != nil {
			if err := checkFile(ctx, root, l.File, l.Size, l.SHA256); err != nil {
				return nil, err
			}
		}
	}
	return &backup, nil
}

// checkFile holds a file against what the manifest says of it.
func checkFile(ctx context.Context, root *os.Root, name string, wantSize int64, wantSum string) error {
	file, err := root.Open(name)
	if err != nil {
		return fmt.Errorf("%w: open %s: %w", pelton.ErrInvalid, name, err)
	}
	defer func() { _ = file.Close() }()
	sum := sha256.New()
	size, err := io.Copy(sum, &cancelled{ctx, file})
	switch {
	case err != nil:
		return fmt.Errorf("read %s: %w", name, err)
	case size != wantSize || digits(sum) != wantSum:
		return fmt.Errorf("%w: %s is damaged: %d bytes with checksum %s, the manifest has %d with %s", pelton.ErrInvalid, name, size, digits(sum), wantSize, wantSum)
	}
	return nil
}

// cancelled is a reader that ends with its ctx.
type cancelled struct {
	ctx  context.Context //nolint:containedctx // of one copy
	from io.Reader
}

func (c *cancelled) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, context.Cause(c.ctx)
	}
	return c.from.Read(p) //nolint:wrapcheck // io.EOF
}

// Restoring says how a backup is restored.
type Restoring struct {
	// Replicas of all streams; zero keeps those that they had.
	Replicas int
	// Replace deletes what there is of the installation first.
	Replace bool
}

// RestoreBackup makes the installation of a backup anew, and compares what there is then with
// the manifest. Nobody may use the installation meanwhile. If it fails, what was restored
// is deleted again; a process that dies leaves a part of an installation, which has no settings:
// they come last. tell hears of each stream that is there; nil is nobody.
//
// Errors: pelton.ErrInvalid for a backup that is not whole, pelton.ErrConflict where there is an
// installation of that name, pelton.ErrUnavailable.
func RestoreBackup(ctx context.Context, nc *nats.Conn, dir string, how Restoring, tell func(BackupStream)) (_ *Backup, err error) {
	backup, err := ReadBackup(ctx, dir)
	if err != nil {
		return nil, err
	}
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(callTimeout))
	if err != nil {
		return nil, fmt.Errorf("open JetStream: %w", err)
	}
	n := names{backup.Namespace}
	found, err := existing(ctx, nc, n)
	if err != nil {
		return nil, err
	}
	if len(found) > 0 && !how.Replace {
		return nil, fmt.Errorf("%w: there is an installation %s already: stream %s", pelton.ErrConflict, backup.Namespace, strings.Join(found, ", "))
	}
	for _, name := range found {
		if err := js.DeleteStream(ctx, name); err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
			return nil, translate("delete stream "+name, err)
		}
	}
	var made []string
	defer func() {
		if err == nil {
			return
		}
		undoing, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
		defer cancel()
		for _, name := range made {
			if bad := js.DeleteStream(undoing, name); bad != nil && !errors.Is(bad, jetstream.ErrStreamNotFound) {
				err = fmt.Errorf("%w; what was restored is still there: %w", err, translate("delete stream "+name, bad))
			}
		}
	}()
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("%w: open backup: %w", pelton.ErrInvalid, err)
	}
	defer func() { _ = root.Close() }()
	for _, s := range backup.Streams {
		made = append(made, s.Name)
		if err := restoreStream(ctx, nc, root, s, how.Replicas); err != nil {
			return nil, fmt.Errorf("restore stream %s: %w", s.Name, err)
		}
		if err := awaitRestored(ctx, js, s); err != nil {
			return nil, err
		}
		if s.Later != nil {
			if err := restoreLater(ctx, nc, root, s.Later); err != nil {
				return nil, fmt.Errorf("restore stream %s: %w", s.Name, err)
			}
		}
		if probe := n.probeOf(s.Name); probe != "" {
			if err := raise(ctx, nc, js, s.Name, probe, s.End); err != nil {
				return nil, fmt.Errorf("restore stream %s: %w", s.Name, err)
			}
		}
		if tell != nil {
			tell(s)
		}
	}
	return backup, noteRestored(ctx, js, n)
}

// restoreStream sends a snapshot to the broker, chunk after chunk, each of which it
// answers.
func restoreStream(ctx context.Context, nc *nats.Conn, root *os.Root, s BackupStream, replicas int) error {
	config, err := withReplicas(s.Config, replicas)
	if err != nil {
		return fmt.Errorf("%w: its configuration: %w", pelton.ErrInvalid, err)
	}
	file, err := root.Open(s.File)
	if err != nil {
		return fmt.Errorf("%w: %w", pelton.ErrInvalid, err)
	}
	defer func() { _ = file.Close() }()
	var to struct {
		Subject string `json:"deliver_subject"`
	}
	request := struct {
		Config json.RawMessage `json:"config"`
		State  json.RawMessage `json:"state"`
	}{config, s.State}
	err = untilBrokersMeet(ctx, snapshotWait, func() error { return ask(ctx, nc, "STREAM.RESTORE."+s.Name, request, &to) })
	if err != nil {
		return err
	}
	send := func(chunk []byte, patience time.Duration) error {
		sending, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		reply, err := nc.RequestWithContext(sending, to.Subject, chunk)
		for errors.Is(err, nats.ErrNoResponders) && waitFor(sending, restoreAgain) == nil {
			// Another server of the cluster takes it, of whose wish this one has not heard yet.
			reply, err = nc.RequestWithContext(sending, to.Subject, chunk)
		}
		if err != nil {
			return fmt.Errorf("%w: %w", pelton.ErrUnavailable, err)
		}
		if len(reply.Data) == 0 {
			return nil
		}
		return readAnswer(reply.Data, nil)
	}
	chunk := make([]byte, snapshotChunk)
	for {
		n, err := io.ReadFull(file, chunk)
		if n > 0 {
			if err := send(chunk[:n], snapshotWait); err != nil {
				return err
			}
		}
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return send(nil, restoreWait)
		case err != nil:
			return fmt.Errorf("read its file: %w", err)
		}
	}
}

// withReplicas is a stream's configuration with so many replicas, if that is not zero, on any
// servers: where they were is no matter of the broker that it goes to.
func withReplicas(config json.RawMessage, replicas int) (json.RawMessage, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(config, &fields); err != nil {
		return nil, err
	}
	if replicas > 0 {
		fields["num_replicas"] = json.RawMessage(fmt.Sprint(replicas))
	}
	delete(fields, "placement")
	return json.Marshal(fields)
}

// awaitRestored is compareStream of a stream that a cluster has just made: it tells of its
// consumers a moment later.
func awaitRestored(ctx context.Context, js jetstream.JetStream, want BackupStream) error {
	for wait := 20 * time.Millisecond; ; wait *= 2 {
		err := compareStream(ctx, js, want)
		if err == nil || wait > 10*time.Second || waitFor(ctx, wait) != nil {
			return err
		}
	}
}

// compareStream holds a restored stream against the manifest. The broker tells a stream's state
// before it writes the snapshot, which lacks what was taken out in between; a schedule that fell
// due since has become another message, and what has its time in a stream may be over. But
// nothing is there that was not. That nothing else is missing, the checksums say.
func compareStream(ctx context.Context, js jetstream.JetStream, want BackupStream) error {
	stream, err := js.Stream(ctx, want.Name)
	if err != nil {
		return translate("open restored stream "+want.Name, err)
	}
	was, err := want.state()
	if err != nil {
		return err
	}
	is := stream.CachedInfo().State
	switch {
	case is.LastSeq < was.LastSeq, is.FirstSeq < was.FirstSeq,
		is.Msgs > was.Messages && is.LastSeq == was.LastSeq, is.Consumers != was.Consumers:
		return fmt.Errorf("%w: restored stream %s has %d messages, %d to %d, and %d consumers; the backup had %d, %d to %d, and %d",
			pelton.ErrUnavailable, want.Name, is.Msgs, is.FirstSeq, is.LastSeq, is.Consumers, was.Messages, was.FirstSeq, was.LastSeq, was.Consumers)
	}
	return nil
}

// noteRestored says that nobody knows who has started what there is: see horizon.go.
func noteRestored(ctx context.Context, js jetstream.JetStream, n names) error {
	shards, err := shardsOf(ctx, js, n)
	if err != nil {
		return err
	}
	var h horizon
	for shard := range shards {
		tasks, err := js.Stream(ctx, n.tasks(uint8(shard)))
		if err != nil {
			return translate("open stream "+n.tasks(uint8(shard)), err)
		}
		if last := tasks.CachedInfo().State.LastSeq; shard == 0 {
			h.Sequence = last
		} else {
			h.More = append(h.More, last)
		}
	}
	data, err := json.Marshal(h)
	if err != nil {
		return fmt.Errorf("encode horizon: %w", err)
	}
	if _, err := js.Publish(ctx, n.configKey(horizonKey), data); err != nil {
		return translate("save horizon", err)
	}
	return nil
}
