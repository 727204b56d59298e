package cli

import (
	"context"
	"log/slog"
	"slices"
	"time"

	"github.com/spf13/pflag"

	"github.com/peltonq/pelton/admin"
	"github.com/peltonq/pelton/internal/broker"
)

// arrangeTimeout bounds one attempt to rearrange an installation: two seconds of telling
// everybody, and a change of each of its streams.
const arrangeTimeout = time.Minute

// namespaceFlag is --namespace: which installation in the broker is meant.
type namespaceFlag string

func (n *namespaceFlag) register(flags *pflag.FlagSet) {
	flags.StringVar((*string)(n), "namespace", broker.DefaultNamespace, "`name` of the installation in the broker, which may hold several")
}

// placeFlags say how a cluster keeps the installation.
type placeFlags struct {
	replicas int
	tags     []string
}

func (p *placeFlags) register(flags *pflag.FlagSet) {
	flags.IntVar(&p.replicas, "replicas", 0, "copies that a cluster keeps of everything, 1 to 5; 3 survive the loss of one server. Left as they are without, 1 at first")
	flags.StringSliceVar(&p.tags, "placement-tags", nil, "tags that the servers must have which keep them")
}

// check refuses what means nothing: an embedded broker is one server.
func (p *placeFlags) check(embedded bool) error {
	switch {
	case p.replicas < 0 || p.replicas > broker.MaxReplicas:
		return usagef("--replicas %d is not between 1 and %d", p.replicas, broker.MaxReplicas)
	case slices.Contains(p.tags, ""):
		return usagef("--placement-tags has an empty tag")
	case embedded && (p.replicas > 1 || len(p.tags) > 0):
		return usagef("--replicas and --placement-tags are for a cluster: give its --nats")
	}
	return nil
}

// arrange makes what there is as the flags say, if they say anything.
func (p *placeFlags) arrange(ctx context.Context, queues *admin.Client, log *slog.Logger) error {
	if p.replicas == 0 && len(p.tags) == 0 {
		return nil
	}
	changed, err := queues.Arrange(ctx, admin.Arrangement{Replicas: p.replicas, Tags: p.tags})
	if err == nil && changed {
		log.InfoContext(ctx, "installation rearranged: the cluster copies what there is", slog.Int("replicas", p.replicas), slog.Any("placement_tags", p.tags))
	}
	return err
}

// tellCopies tells when all copies are there, which takes a cluster a while.
func (p *placeFlags) tellCopies(ctx context.Context, queues *admin.Client, log *slog.Logger) {
	if p.replicas < 2 && len(p.tags) == 0 {
		return
	}
	if err := queues.AwaitArranged(ctx); err == nil {
		log.InfoContext(ctx, "all copies are there", slog.Int("replicas", p.replicas), slog.Any("placement_tags", p.tags))
	}
}
