// Package metrics turns what workers, producers and queues do into Prometheus
// metrics. Names and units follow Prometheus' conventions; labels are bounded by
// the kinds a worker knows and the queues an installation may hold.
package metrics

import (
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/worker"
)

// Metrics is one process's registry. It is a worker.Observer.
type Metrics struct {
	registry *prometheus.Registry
	enqueued *prometheus.CounterVec
	refused  prometheus.Counter
	ended    *prometheus.CounterVec
	crashes  *prometheus.CounterVec
	putOff   *prometheus.CounterVec
	fellBack *prometheus.CounterVec
	redis    prometheus.Gauge
	asking   sync.Once
	wait     *prometheus.HistogramVec
	run      *prometheus.HistogramVec
	looked   prometheus.Counter
	repaired prometheus.Counter
	sweeping prometheus.Counter
	stats    atomic.Pointer[func() worker.Stats]
	watching sync.Once
}

// New makes a registry with Go's and the process's own metrics.
func New(version string) *Metrics {
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		enqueued: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "pelton_tasks_enqueued_total", Help: "Tasks accepted by this process.",
		}, []string{"queue", "priority"}),
		refused: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "pelton_tasks_refused_total", Help: "Tasks that this process could not accept, invalid ones included.",
		}),
		ended: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "pelton_task_runs_total", Help: "Runs of handlers that ended in this process, by outcome.",
		}, []string{"queue", "kind", "outcome"}),
		crashes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "pelton_task_crashes_total", Help: "Deliveries found to have died with their worker.",
		}, []string{"queue", "kind"}),
		putOff: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "pelton_task_deferrals_total", Help: "Tasks put off by this process because of a rate limit, or of a pause.",
		}, []string{"limit"}),
		fellBack: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "pelton_limit_fallbacks_total", Help: "Questions about a rate limit that were answered without Redis, by what its on_error says.",
		}, []string{"limit", "mode"}),
		redis: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "pelton_limit_redis_up", Help: "1 while rate limits are counted in Redis, 0 while it is out of reach.",
		}),
		wait: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "pelton_task_wait_seconds", Help: "Time from a task being ready to its start.",
			Buckets: prometheus.ExponentialBuckets(0.001, 4, 11), // 1 ms to 17 min
		}, []string{"queue", "priority"}),
		run: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "pelton_task_run_seconds", Help: "Time that handlers ran.",
			Buckets: prometheus.ExponentialBuckets(0.001, 4, 11),
		}, []string{"queue", "kind"}),
	}
	m.looked = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "pelton_sweep_looked_total", Help: "Messages and records that the sweep of this process has read.",
	})
	m.repaired = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "pelton_sweep_repaired_total", Help: "What the sweep of this process has repaired.",
	})
	m.sweeping = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "pelton_sweep_seconds_total", Help: "Time that the sweep of this process has taken.",
	})
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "pelton_build_info", Help: "Always 1; the version is a label.", ConstLabels: prometheus.Labels{"version": version},
	})
	info.Set(1)
	m.registry.MustRegister(
		m.enqueued, m.refused, m.ended, m.crashes, m.putOff, m.fellBack, m.wait, m.run, m.looked, m.repaired, m.sweeping, info,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	return m
}

// Handler answers GET /metrics in the format that the scraper asks for.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{Registry: m.registry, MaxRequestsInFlight: 4, Timeout: 10 * time.Second})
}

// Enqueued counts a task that was accepted.
func (m *Metrics) Enqueued(task *pelton.Task) {
	m.enqueued.WithLabelValues(task.Queue, string(task.Priority)).Inc()
}

// Refused counts a task that was not.
func (m *Metrics) Refused() { m.refused.Inc() }

// Started is of worker.Observer.
func (m *Metrics) Started(task *pelton.Task, wait time.Duration) {
	m.wait.WithLabelValues(task.Queue, string(task.Priority)).Observe(wait.Seconds())
}

// Ended is of worker.Observer.
func (m *Metrics) Ended(task *pelton.Task, outcome worker.Outcome, took time.Duration) {
	m.ended.WithLabelValues(task.Queue, task.Kind, string(outcome)).Inc()
	m.run.WithLabelValues(task.Queue, task.Kind).Observe(took.Seconds())
}

// Crashed is of worker.Observer.
func (m *Metrics) Crashed(task *pelton.Task) {
	m.crashes.WithLabelValues(task.Queue, task.Kind).Inc()
}

// Swept adds a step of the sweep.
func (m *Metrics) Swept(looked, repaired int, took time.Duration) {
	m.looked.Add(float64(looked))
	m.repaired.Add(float64(repaired))
	m.sweeping.Add(took.Seconds())
}

// PutOff is of worker.Observer.
func (m *Metrics) PutOff(_ *pelton.Task, limit string) { m.putOff.WithLabelValues(limit).Inc() }

// RedisUp is of redislimit.Observer. A process without Redis shows nothing of it.
func (m *Metrics) RedisUp(up bool) {
	m.asking.Do(func() { m.registry.MustRegister(m.redis) })
	if up {
		m.redis.Set(1)
	} else {
		m.redis.Set(0)
	}
}

// LimitFellBack is of redislimit.Observer.
func (m *Metrics) LimitFellBack(limit, mode string) { m.fellBack.WithLabelValues(limit, mode).Inc() }

// Watch shows the slots of this process's worker. A later call replaces an earlier
// one's worker.
func (m *Metrics) Watch(stats func() worker.Stats) {
	m.stats.Store(&stats)
	m.watching.Do(func() {
		gauge := func(name, help string, value func(worker.Stats) int) {
			m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 {
				return float64(value((*m.stats.Load())()))
			}))
		}
		gauge("pelton_worker_slots", "Slots of this process's worker.", func(s worker.Stats) int { return s.Slots })
		gauge("pelton_worker_slots_busy", "Slots with a handler that runs.", func(s worker.Stats) int { return s.Busy })
		gauge("pelton_worker_slots_leaked", "Slots with a handler that ignores the end of its context.", func(s worker.Stats) int { return s.Leaked })
	})
}
