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
	queues, err := b.queueConfigs(ctx)
	if err != nil {
		return err
	}
	for _, cfg := range queues {
		for _, p := range cfg.Lanes {
			if p == "" || p.Rank() < 0 {
				continue // of a newer version
			}
			if err := b.createConsumer(ctx, b.tasks(0), b.laneConfig(cfg, p)); err != nil {
				return err
			}
		}
	}
	return nil
}
