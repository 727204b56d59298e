package broker

import "context"

// RestoreLanes creates the consumers that listed lanes lack, as their queues' entries
// want them: a power cut may take one that was new, whose folder nobody had synced,
// while its lane's tasks are safe. Nothing is lost with a consumer: a new one delivers
// what its stream holds. The cut may also have taken entries of the due index, which is
// doubted.
func (b *Broker) RestoreLanes(ctx context.Context) error {
	if err := b.doubtDue(ctx); err != nil {
		return err
	}
	return b.restoreLanes(ctx, 0, b.Shards())
}

// restoreLanes does so in the shards from one on and below another.
func (b *Broker) restoreLanes(ctx context.Context, from, to int) error {
	queues, err := b.queueConfigs(ctx)
	if err != nil {
		return err
	}
	for _, cfg := range queues {
		for _, p := range cfg.Lanes {
			if p == "" || p.Rank() < 0 {
				continue // of a newer version
			}
			for shard := from; shard < to; shard++ {
				if err := b.createConsumer(ctx, b.tasks(uint8(shard)), b.laneConfig(cfg, p, uint8(shard))); err != nil {
					return err
				}
			}
		}
	}
	return nil
}
