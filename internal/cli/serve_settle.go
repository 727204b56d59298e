package cli

import (
	"context"
	"errors"
	"log/slog"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/admin"
)

// settle makes an installation in this process durable before it takes tasks, and
// mends what a power cut may have taken from it. One elsewhere learns that this server reads pages.
func (s *serving) settle(ctx context.Context, l *link, queues *admin.Client) error {
	if s.embed == nil {
		return l.retry(ctx, 0, func(ctx context.Context) error {
			ctx, cancel := context.WithTimeout(ctx, openTimeout)
			defer cancel()
			return queues.NotePages(ctx)
		})
	}
	if s.embed.UncleanStart() {
		err := l.retry(ctx, 0, func(ctx context.Context) error {
			ctx, cancel := context.WithTimeout(ctx, openTimeout)
			defer cancel()
			return queues.RestoreLanes(ctx)
		})
		if err != nil {
			return err
		}
	}
	if err := s.noteStart(ctx, l, queues, s.embed.UncleanStart()); err != nil {
		return err
	}
	s.stageBatches(ctx, queues)
	return s.embed.Persist()
}

// stageBatches is no promise: without it writes that are synced cost more.
func (s *serving) stageBatches(ctx context.Context, queues *admin.Client) {
	if err := s.embed.StageBatches(queues.GroupedStreams()...); err != nil {
		s.log.WarnContext(ctx, "batches are gathered on the disk", slog.Any("error", err))
	}
}

// grow makes as many shards as --shards says. Those of the broker in this process are durable
// before anybody is told of them.
func (s *serving) grow(ctx context.Context, l *link, queues *admin.Client) error {
	n := s.flags.shards
	if n == 0 {
		return nil
	}
	var grown bool
	err := l.retry(ctx, 0, func(ctx context.Context) (err error) {
		ctx, cancel := context.WithTimeout(ctx, arrangeTimeout)
		defer cancel()
		if s.embed != nil {
			fewer, err := queues.PrepareShards(ctx, n)
			if err == nil && fewer {
				err = s.embed.Persist()
			}
			if err != nil {
				return err
			}
		}
		grown, err = queues.GrowShards(ctx, n)
		return err
	})
	if errors.Is(err, pelton.ErrConflict) {
		return usagef("--shards %d: %w; leave it out, or say as many as there are", n, err)
	}
	if err != nil || !grown {
		return err
	}
	s.log.InfoContext(ctx, "there are more shards", slog.Int("shards", n))
	if s.embed != nil {
		s.stageBatches(ctx, queues)
	}
	return nil
}

// noteStart tells workers that the broker in this process has started.
func (s *serving) noteStart(ctx context.Context, l *link, queues *admin.Client, unclean bool) error {
	return l.retry(ctx, 0, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, openTimeout)
		defer cancel()
		return queues.NoteStart(ctx, unclean, s.flags.sync.Always)
	})
}

// noteRestarts does so when the broker was started again within the process, which it
// is when its disk was full: whether it had stored everything, nobody knows.
func (s *serving) noteRestarts(ctx context.Context, l *link, queues *admin.Client) error {
	again, stop := queues.Reconnected()
	defer stop()
	for {
		select {
		case <-again:
			if err := s.noteStart(ctx, l, queues, true); err != nil && ctx.Err() == nil {
				return err
			}
		case <-ctx.Done():
			return nil
		}
	}
}
