package metrics

import (
	"context"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/peltonq/pelton"
)

const (
	// depthTimeout bounds what a scrape may wait for the broker.
	depthTimeout = 3 * time.Second
	// depthAge is how old the depths of a scrape may be: several scrapers cost the
	// broker one listing.
	depthAge = 5 * time.Second
)

// Queues is who knows what the queues hold.
type Queues interface {
	Queues(ctx context.Context) ([]pelton.Queue, error)
}

// depths collects what the queues hold, when it is scraped.
type depths struct {
	queues Queues
	ctx    context.Context //nolint:containedctx // a Collector's method gets none; this one ends with the server
	now    func() time.Time

	tasks, oldest, scheduled, waiting, dead, up *prometheus.Desc

	mu   sync.Mutex
	read time.Time
	last []pelton.Queue
	err  error
}

// WatchQueues shows the depth of every queue until ctx ends. All replicas show the
// same: take one of them, or the maximum.
func (m *Metrics) WatchQueues(ctx context.Context, queues Queues) {
	m.registry.MustRegister(&depths{
		queues: queues, ctx: ctx, now: time.Now,
		tasks:     prometheus.NewDesc("pelton_queue_tasks", "Tasks of a queue's priority.", []string{"queue", "priority", "state"}, nil),
		oldest:    prometheus.NewDesc("pelton_queue_oldest_ready_seconds", "Age of the oldest ready task.", []string{"queue", "priority"}, nil),
		scheduled: prometheus.NewDesc("pelton_queue_scheduled_tasks", "Delayed and retrying tasks.", []string{"queue"}, nil),
		waiting:   prometheus.NewDesc("pelton_queue_waiting_tasks", "Tasks that wait for their turn in the line of a key or kind.", []string{"queue"}, nil),
		dead:      prometheus.NewDesc("pelton_queue_dead_tasks", "Dead letters.", []string{"queue"}, nil),
		up:        prometheus.NewDesc("pelton_broker_up", "1 if the depths could be read.", nil, nil),
	})
}

// Describe is of prometheus.Collector.
func (d *depths) Describe(out chan<- *prometheus.Desc) {
	for _, desc := range []*prometheus.Desc{d.tasks, d.oldest, d.scheduled, d.waiting, d.dead, d.up} {
		out <- desc
	}
}

// Collect is of prometheus.Collector.
func (d *depths) Collect(out chan<- prometheus.Metric) {
	queues, err := d.fresh()
	gauge := func(desc *prometheus.Desc, value float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, labels...)
	}
	if err != nil {
		gauge(d.up, 0)
		return
	}
	gauge(d.up, 1)
	for _, q := range queues {
		for _, p := range pelton.Priorities() {
			depth := q.Priorities[p]
			gauge(d.tasks, float64(depth.Ready), q.Name, string(p), "ready")
			gauge(d.tasks, float64(depth.Running), q.Name, string(p), "running")
			gauge(d.oldest, depth.OldestReady.Seconds(), q.Name, string(p))
		}
		gauge(d.scheduled, float64(q.Scheduled), q.Name)
		gauge(d.waiting, float64(q.Waiting), q.Name)
		gauge(d.dead, float64(q.Dead), q.Name)
	}
}

func (d *depths) fresh() ([]pelton.Queue, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.read.IsZero() && d.now().Sub(d.read) < depthAge {
		return d.last, d.err
	}
	ctx, cancel := context.WithTimeout(d.ctx, depthTimeout)
	defer cancel()
	d.last, d.err = d.queues.Queues(ctx)
	d.read = d.now()
	return d.last, d.err
}
