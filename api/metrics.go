package api

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
)

const (
	opMetrics   = "metrics"
	pathMetrics = "/metrics"
)

// registerMetrics serves Config.Metrics, where there is one.
func (s *server) registerMetrics(api huma.API) {
	if s.Metrics == nil {
		return
	}
	answers := s.responses(kindInvalid)
	answers["200"] = &huma.Response{Description: "Prometheus text format, or OpenMetrics where it is asked for", Content: map[string]*huma.MediaType{
		"text/plain": {Schema: &huma.Schema{Type: huma.TypeString}, Example: "pelton_tasks_enqueued_total{queue=\"default\",priority=\"normal\"} 42\n"},
	}}
	huma.Register(api, huma.Operation{
		OperationID: opMetrics, Method: http.MethodGet, Path: pathMetrics, Tags: []string{"server"},
		Summary:   "Metrics for Prometheus",
		Responses: answers,
	}, s.metrics)
}

func (s *server) metrics(context.Context, *struct{}) (*huma.StreamResponse, error) {
	return &huma.StreamResponse{Body: func(ctx huma.Context) {
		r, w := humago.Unwrap(ctx)
		s.Metrics.ServeHTTP(w, r)
	}}, nil
}
