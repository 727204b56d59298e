package embed

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"syscall"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

const (
	// tendEvery is how often the free space is looked at, a microsecond's work.
	tendEvery = 100 * time.Millisecond
	// healthEvery is how often the server is asked whether its streams take writes
	// when nothing says that they might not.
	healthEvery = 5 * time.Second
	// renewEvery bounds the attempts to bring the server back.
	renewEvery = 2 * time.Second
)

// Full reports whether the disk is so full that no new task should be taken: what
// is left is for those that were accepted.
func (s *Server) Full() bool { return level(s.level.Load()) != roomy }

// tend keeps the server from filling up its disk, and mends it when that happened
// all the same, until ctx ends.
//
// To the server a write that fails is the end: the stream takes none any more, and
// answers none, until it is loaded again. So before the disk is full, the account
// gets a limit of storage, at which writes are refused with a clear answer while
// acknowledgements go on. It is lifted when there is room again. If other programs
// were faster and a write did fail, the server is started anew in this process once
// there is room: its clients connect again by themselves.
func (s *Server) tend(ctx context.Context) {
	ticker := time.NewTicker(tendEvery)
	defer ticker.Stop()
	var asked, renewed time.Time
	suspect := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		now := s.look(ctx)
		suspect = suspect || now == full
		if now == full || time.Since(renewed) < renewEvery || !suspect && time.Since(asked) < healthEvery {
			continue
		}
		asked = time.Now()
		broken := s.broken()
		if broken == nil {
			suspect = false
			continue
		}
		s.logger.WarnContext(ctx, "embedded broker is started again: there is room on the disk, and it has stopped writing", slog.Any("error", broken))
		if err := s.renew(); err != nil {
			s.logger.ErrorContext(ctx, "embedded broker does not come back, trying again", slog.Any("error", err))
		}
		renewed, suspect = time.Now(), true
	}
}

// look reads the free space and sets the limit that belongs to it.
func (s *Server) look(ctx context.Context) level {
	was := level(s.level.Load())
	free, err := freeSpace(s.folder.dir)
	if err != nil {
		return was
	}
	now := free.next(was)
	if now == was {
		return now
	}
	attrs := []any{slog.String("data", s.folder.dir), slog.Uint64("free_bytes", free.free), slog.Uint64("total_bytes", free.total)}
	switch now {
	case full:
		s.logger.ErrorContext(ctx, "disk is full: no writes", attrs...)
	case low:
		s.logger.WarnContext(ctx, "disk is nearly full: no new tasks", attrs...)
	case roomy:
		s.logger.InfoContext(ctx, "disk has room again", attrs...)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.nats != nil {
		if err := limit(s.nats, now); err != nil {
			s.logger.WarnContext(ctx, "limit of storage not set", slog.Any("error", err))
			return was // next time
		}
	}
	s.level.Store(int32(now))
	return now
}

// limit lets the account store as much as it likes, or nothing more.
func limit(ns *server.Server, now level) error {
	limits := server.JetStreamAccountLimits{
		MaxMemory: -1, MaxStore: -1, MaxStreams: -1, MaxConsumers: -1, MaxAckPending: -1, MemoryMaxStreamBytes: -1, StoreMaxStreamBytes: -1,
	}
	if now == full {
		limits.MaxStore = 0
	}
	return ns.GlobalAccount().UpdateJetStreamLimits(map[string]server.JetStreamAccountLimits{"": limits})
}

// broken is why the server has to be started again, nil if it has not: it is down,
// or a stream met a full disk.
func (s *Server) broken() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.nats == nil {
		return ErrClosed
	}
	health := s.nats.Healthz(&server.HealthzOptions{})
	for _, cause := range []syscall.Errno{syscall.ENOSPC, syscall.EDQUOT} {
		if strings.Contains(health.Error, cause.Error()) {
			return fmt.Errorf("%s", health.Error)
		}
	}
	return nil
}

// renew ends the server and starts it on the same folder and the same port.
func (s *Server) renew() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.nats; old != nil {
		s.nats = nil
		end(old)
	}
	ns, err := run(s.cfg, s.folder)
	if err != nil {
		return err
	}
	s.nats = ns
	if err := s.stage(); err != nil {
		s.logger.Warn("batches are gathered on the disk", slog.Any("error", err))
	}
	return limit(ns, level(s.level.Load()))
}
