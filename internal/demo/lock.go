package demo

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/peltonq/pelton/worker"
)

type lockArgs struct {
	Name  string `json:"name"`
	Slots int    `json:"slots"` // 0 is 1
	MS    int64  `json:"ms"`
}

type lockResult struct {
	Token uint64 `json:"token"`
}

// lock waits for a named lock, holds it for a while, and fails when it is lost.
func lock(ctx context.Context, args lockArgs) (result lockResult, err error) {
	total, err := duration{args.MS}.checked()
	if err != nil {
		return lockResult{}, err
	}
	held, err := worker.Lock(ctx, args.Name, worker.Slots(max(args.Slots, 1)))
	if err != nil {
		return lockResult{}, err
	}
	defer func() { err = errors.Join(err, held.Unlock()) }()
	worker.Progress(ctx, 0, 0, fmt.Sprintf("holds %q, token %d", held.Name(), held.Token()))
	over := time.NewTimer(total)
	defer over.Stop()
	select {
	case <-over.C:
		return lockResult{held.Token()}, nil
	case <-held.Context().Done():
		return lockResult{}, fmt.Errorf("held %q for less than %s: %w", held.Name(), total, context.Cause(held.Context())) //nolint:contextcheck // made of ctx
	}
}
