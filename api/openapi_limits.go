package api

import (
	"encoding/json"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/peltonq/pelton"
)

const (
	pathLimits = "/limits"
	pathLimit  = "/limits/{name}"

	opListLimits  = "listLimits"
	opSetLimit    = "setLimit"
	opDeleteLimit = "deleteLimit"
)

func (s *server) registerLimits(api huma.API) {
	register(s, api, huma.Operation{
		OperationID: opListLimits, Method: http.MethodGet, Path: pathLimits, Tags: []string{"limits"},
		Summary:     "List the limits per kind, rate key and concurrency key",
		Description: "Sorted by name.",
		Responses: s.responses(
			response{http.StatusOK, "A page of limits", "LimitList", namesPage[pelton.Limit]{Items: []pelton.Limit{exampleLimit()}}, nil},
			kindInvalid, kindUnavailable,
		),
	}, s.listLimits)
	register(s, api, huma.Operation{
		OperationID: opSetLimit, Method: http.MethodPut, Path: pathLimit, Tags: []string{"limits"},
		Summary:     "Create or replace a limit",
		Description: "Workers follow within a second. A rate is for a kind, for rate keys that match a pattern (each with a bucket of its own), or for tasks of a kind whose key matches. Another form of a limit starts with full buckets. max_running is for a kind, or for each concurrency key that matches a pattern.",
		Responses: s.responses(
			response{http.StatusOK, "The limit, with its defaults", "Limit", exampleLimit(), nil},
			kindInvalid, kindMalformed, kindMediaType, kindTooLarge, kindTimeout, kindForbidden, kindUnavailable, kindUnknownOutcome,
		),
	}, s.setLimit)
	register(s, api, huma.Operation{
		OperationID: opDeleteLimit, Method: http.MethodDelete, Path: pathLimit, Tags: []string{"limits"},
		Summary:       "Lift a limit",
		Description:   "Tasks that wait for their place start within half of the time that they have left.",
		DefaultStatus: http.StatusNoContent,
		Responses: s.responses(
			response{http.StatusNoContent, "It is lifted", "", nil, nil},
			kindInvalid, kindNotFound, kindForbidden, kindUnavailable, kindUnknownOutcome,
		),
	}, s.deleteLimit)
}

func exampleLimit() pelton.Limit {
	return pelton.Limit{
		Name: "mail", Kind: "email.send", Cost: 1,
		Rate: pelton.RateLimit{Limit: 100, Per: time.Second, Burst: 10, OnError: pelton.OnErrorLocal},
	}
}

func exampleLimitRequest() json.RawMessage {
	return json.RawMessage(`{"kind":"email.send","rate":{"limit":100,"per":"1s","burst":10}}`)
}

func limitProperties() properties {
	longest := 256
	return properties{
		"name": pattern(queuePattern, "The limit's name."),
		"kind": pattern(kindPattern, "Only tasks of this kind."),
		"rate_key": {
			Type: huma.TypeString, MaxLength: &longest, Examples: []any{"acme*"},
			Description: "Only tasks whose rate_key matches this pattern of *, ? and [a-z]; each key has a bucket of its own.",
		},
		"cost": integer("How many starts of the rate one task counts for, 1 by default; at most the burst.", 1),
		"rate": ref("RateLimit"),
		"concurrency_key": {
			Type: huma.TypeString, MaxLength: &longest, Examples: []any{"acme*"},
			Description: "Tasks whose concurrency_key matches this pattern of *, ? and [a-z]; each key has max_running for itself.",
		},
		"max_running": integer("How many run at a time, of each such key or of the kind; at most 1,000.", 1),
	}
}

func limitSchema() *huma.Schema { return object(limitProperties(), "name") }

func limitRequestSchema() *huma.Schema { return closed(object(limitProperties())) }

func rateLimitSchema() *huma.Schema {
	per := duration("The time of limit, 1s by default.", "1s")
	return object(properties{
		"limit":    integer("How many start in that time, evenly spaced.", 1),
		"per":      per,
		"burst":    integer("How many may start at once after a pause, limit by default; 1 is strictly one after the other.", 1),
		"on_error": enum("What happens while Redis is out of reach: each process holds its share (local), nothing is limited (open), nothing starts (closed).", pelton.OnErrorLocal, pelton.OnErrorOpen, pelton.OnErrorClosed),
	}, "limit")
}
