package broker

import (
	"context"
	"encoding/json"
	"fmt"
)

// RestoreLanes creates the consumers that listed lanes lack: a power cut may take
// one that was new, whose folder nobody had synced, while its lane's tasks are
// safe. Nothing is lost with a consumer: a new one delivers what its stream holds.
func (b *Broker) RestoreLanes(ctx context.Context) error {
	queues, err := b.queueNames(ctx)
	if err != nil {
		return err
	}
	for _, queue := range queues {
		entry, err := b.config.Get(ctx, queueKeyPrefix+queue)
		if err != nil {
			return translate("read queue "+queue, err)
		}
		var cfg queueConfig
		if err := json.Unmarshal(entry.Value(), &cfg); err != nil {
			return fmt.Errorf("read queue %s: %w: %w", queue, ErrMalformed, err)
		}
		for _, p := range cfg.Lanes {
			if p == "" || p.Rank() < 0 {
				continue
			}
			if err := b.createConsumer(ctx, b.tasks(0), b.lane(0, queue, p, b.cfg.Lease)); err != nil {
				return err
			}
		}
	}
	return nil
}
