package admin

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/broker"
)

const (
	backupPatience = time.Minute
	backupLook     = 100 * time.Millisecond // between two looks at what runs
	undoTimeout    = 10 * time.Second
)

// BackupConfig says how a backup is made.
type BackupConfig struct {
	// Namespace of the installation. Empty means "pelton".
	Namespace string
	// Pause pauses every queue first and waits until no task runs, so that none is in the
	// backup half done. Queues that were not paused before are resumed afterwards, and in what
	// is restored from the backup.
	Pause bool
	// StayPaused leaves them paused here: the installation moves.
	StayPaused bool
	// Patience is how long running tasks may take to end. Zero means a minute. When it is over,
	// the queues are resumed and there is no backup.
	Patience time.Duration
	// Tell hears of each stream that was written. Nil is nobody.
	Tell func(BackupPart)
}

// BackupPart is one stream of a backup.
type BackupPart struct {
	Stream   string `json:"stream"`
	Messages uint64 `json:"messages"`
	Bytes    int64  `json:"bytes"` // of its files
}

// BackupReport sums up a backup that was made, checked or restored.
type BackupReport struct {
	Namespace string       `json:"namespace"`
	CreatedAt time.Time    `json:"created_at"`
	Broker    string       `json:"broker"` // version of the nats-server that it was made of
	Parts     []BackupPart `json:"parts"`
	// Paused are the queues that were paused for the backup.
	Paused []string `json:"paused,omitempty"`
}

func reportOf(b *broker.Backup) *BackupReport {
	r := &BackupReport{Namespace: b.Namespace, CreatedAt: b.CreatedAt, Broker: b.Broker}
	for _, s := range b.Streams {
		r.Parts = append(r.Parts, partOf(s))
	}
	for _, p := range b.Paused {
		if n := len(r.Paused); n == 0 || r.Paused[n-1] != p.Queue {
			r.Paused = append(r.Paused, p.Queue)
		}
	}
	return r
}

func partOf(s broker.BackupStream) BackupPart {
	part := BackupPart{Stream: s.Name, Messages: s.Messages(), Bytes: s.Size}
	if s.Later != nil {
		part.Messages, part.Bytes = part.Messages+s.Later.Messages, part.Bytes+s.Later.Size
	}
	return part
}

func telling(tell func(BackupPart)) func(broker.BackupStream) {
	if tell == nil {
		return nil
	}
	return func(s broker.BackupStream) { tell(partOf(s)) }
}

// Backup writes a backup of the installation on nc into the folder dir, which must be empty or
// missing. The installation stays in use: what is accepted after Backup began may be in it
// or not, and what was accepted before is. Errors: pelton.ErrNotFound for an installation that is not there;
// pelton.ErrInvalid for the folder; pelton.ErrConflict when tasks still run
// after Patience; pelton.ErrUnavailable.
func Backup(ctx context.Context, nc *nats.Conn, dir string, cfg BackupConfig) (_ *BackupReport, err error) {
	if cfg.Namespace == "" {
		cfg.Namespace = broker.DefaultNamespace
	}
	if cfg.Patience == 0 {
		cfg.Patience = backupPatience
	}
	var paused []broker.PausedLane
	if cfg.Pause {
		if err := broker.Exists(ctx, nc, cfg.Namespace); err != nil { // New would make it
			return nil, fmt.Errorf("back up: %w", err)
		}
		c, bad := New(ctx, nc, Config{Namespace: cfg.Namespace})
		if bad != nil {
			return nil, bad
		}
		defer c.Close()
		paused, err = c.pauseAll(ctx)
		defer func() { // by what Backup returns
			if err == nil && cfg.StayPaused {
				return
			}
			undoing, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
			defer cancel()
			err = errors.Join(err, c.resumeAll(undoing, paused))
		}()
		if err == nil {
			err = c.awaitIdle(ctx, cfg.Patience)
		}
		if err != nil {
			return nil, err
		}
	}
	b, err := broker.WriteBackup(ctx, nc, cfg.Namespace, dir, paused, telling(cfg.Tell))
	if err != nil {
		return nil, fmt.Errorf("back up: %w", err)
	}
	return reportOf(b), nil
}

// pauseAll pauses what is not paused, and tells what that was, also with an error.
func (c *Client) pauseAll(ctx context.Context) (paused []broker.PausedLane, err error) {
	queues, err := c.Queues(ctx)
	if err != nil {
		return nil, err
	}
	for _, q := range queues {
		for _, p := range pelton.Priorities() {
			if q.Paused || q.Priorities[p].Paused {
				continue
			}
			if _, err := c.Pause(ctx, q.Name, p); err != nil {
				return paused, fmt.Errorf("pause queue %s for the backup: %w", q.Name, err)
			}
			paused = append(paused, broker.PausedLane{Queue: q.Name, Priority: p})
		}
	}
	return paused, nil
}

func (c *Client) resumeAll(ctx context.Context, paused []broker.PausedLane) error {
	var bad error
	for _, l := range paused {
		if _, err := c.Resume(ctx, l.Queue, l.Priority); err != nil {
			bad = errors.Join(bad, fmt.Errorf("resume queue %s: %w", l.Queue, err))
		}
	}
	return bad
}

// awaitIdle waits until no task runs.
func (c *Client) awaitIdle(ctx context.Context, patience time.Duration) error {
	over := time.NewTimer(patience)
	defer over.Stop()
	look := time.NewTicker(backupLook)
	defer look.Stop()
	for {
		queues, err := c.Queues(ctx)
		if err != nil {
			return err
		}
		var running uint64
		for _, q := range queues {
			running += q.Running
		}
		if running == 0 {
			return nil
		}
		select {
		case <-look.C:
		case <-over.C:
			return fmt.Errorf("%w: %d tasks still run after %s", pelton.ErrConflict, running, pelton.FormatDuration(patience))
		case <-ctx.Done():
			return fmt.Errorf("wait until nothing runs: %w", context.Cause(ctx))
		}
	}
}

// CheckBackup reads the backup in dir and compares each file with its checksum.
// pelton.ErrInvalid names what is wrong.
func CheckBackup(ctx context.Context, dir string) (*BackupReport, error) {
	b, err := broker.ReadBackup(ctx, dir)
	if err != nil {
		return nil, fmt.Errorf("check backup: %w", err)
	}
	return reportOf(b), nil
}

// RestoreConfig says how a backup is restored.
type RestoreConfig struct {
	// Replicas of every stream and bucket. Zero keeps those that they had.
	Replicas int
	// Replace deletes the installation of that name first, if there is one.
	Replace bool
	// StayPaused leaves the queues paused that were paused for the backup.
	StayPaused bool
	// Tell hears of each stream that was restored. Nil is nobody.
	Tell func(BackupPart)
}

// Restore makes the installation of the backup in dir anew in the broker of nc, which may be
// another one than it was made of, with the same name, and compares what there is then with the
// backup. Nobody may use the installation meanwhile: stop its servers and
// workers, or restore into a broker that they do not know yet. What was running when the backup was made runs again.
// After a failure, what was restored is deleted again.
//
// Errors: pelton.ErrInvalid for a backup that is not whole; pelton.ErrConflict where there
// is an installation of that name; pelton.ErrUnavailable.
func Restore(ctx context.Context, nc *nats.Conn, dir string, cfg RestoreConfig) (*BackupReport, error) {
	b, err := broker.RestoreBackup(ctx, nc, dir, broker.Restoring{Replicas: cfg.Replicas, Replace: cfg.Replace}, telling(cfg.Tell))
	if err != nil {
		return nil, fmt.Errorf("restore: %w", err)
	}
	c, err := New(ctx, nc, Config{Namespace: b.Namespace, Replicas: cfg.Replicas}) // makes what is not in it
	if err != nil {
		return nil, err
	}
	defer c.Close()
	if !cfg.StayPaused {
		if err := c.resumeAll(ctx, b.Paused); err != nil {
			return nil, fmt.Errorf("restored: %w", err)
		}
	}
	return reportOf(b), nil
}
