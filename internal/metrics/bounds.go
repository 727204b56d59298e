package metrics

import (
	"strings"

	"github.com/prometheus/client_golang/prometheus"
)

// Bound is something of which a process holds no more than so much.
type Bound interface {
	Most() int64
	InUse() int64
	Refused() int64
}

// WatchBound shows a bound: what is in use as a gauge of that name, the bound itself
// as another with _limit before the unit, and what was refused because of it as
// pelton_http_refused_total{bound}. It is to be called once for each.
func (m *Metrics) WatchBound(bound, name, help string, b Bound) {
	m.registry.MustRegister(
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 { return float64(b.InUse()) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: limitName(name), Help: "The bound of " + name + "."}, func() float64 { return float64(b.Most()) }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "pelton_http_refused_total", Help: "Requests and connections refused because a bound was reached.",
			ConstLabels: prometheus.Labels{"bound": bound},
		}, func() float64 { return float64(b.Refused()) }),
	)
}

// limitName keeps the unit at the end, where Prometheus wants it.
func limitName(name string) string {
	if plain, found := strings.CutSuffix(name, "_bytes"); found {
		return plain + "_limit_bytes"
	}
	return name + "_limit"
}
