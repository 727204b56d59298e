package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/peltonq/pelton"
)

const (
	pathOpenAPI30 = "/openapi-3.0.json"
	opDocument30  = "openapi30"
)

// registerDocument adds the calls that describe the others.
func (s *server) registerDocument(api huma.API) {
	for _, d := range []struct {
		id, path, version string
		body              *[]byte
	}{
		{opDocument, pathOpenAPI, "3.1", &s.spec},
		{opDocument30, pathOpenAPI30, "3.0", &s.spec30},
	} {
		answers := s.responses(kindInvalid)
		answers["200"] = &huma.Response{Description: "OpenAPI " + d.version, Content: map[string]*huma.MediaType{
			openAPIMediaType: {Schema: &huma.Schema{Type: huma.TypeObject}, Example: map[string]any{
				"openapi": d.version, "info": map[string]string{"title": "Pelton", "version": s.Version}, "paths": map[string]any{},
			}},
		}}
		register(s, api, huma.Operation{
			OperationID: d.id, Method: http.MethodGet, Path: d.path, Tags: []string{"server"},
			Summary:   "This document, in OpenAPI " + d.version,
			Responses: answers,
		}, func(context.Context, *struct{}) (*answer, error) {
			return &answer{Status: http.StatusOK, ContentType: openAPIMediaType, Body: *d.body}, nil
		})
	}
}

// writeDocument makes the document in each of its forms.
func (s *server) writeDocument(doc *huma.OpenAPI) (err error) {
	if s.spec, err = encode(doc); err != nil {
		return err
	}
	if s.spec30, err = downgrade(doc); err != nil {
		return err
	}
	s.docs, err = writeDocs(doc)
	return err
}

// completeParams says of parameters what huma must not know while it registers, because
// it would check it with words of its own: forms and examples.
func completeParams(doc *huma.OpenAPI) {
	examples := map[string]any{
		"limit": 100, "cursor": "ZW1haWxz", "dry_run": true, "next": 10, "If-Match": `"42"`, "If-None-Match": `W/"3-succeeded"`,
		"Last-Event-ID": "3",
	}
	each(doc, func(_, _ string, op *huma.Operation) {
		for _, p := range op.Parameters {
			schema := *p.Schema
			p.Schema = &schema
			switch {
			case p.In == "path" && p.Name == "id":
				schema.Format, p.Example = "uuid", exampleTask(false).ID
			case p.In == "path" && p.Name == "queue":
				schema.Pattern = queuePattern
			}
			switch {
			case len(schema.Examples) > 0:
				p.Example, schema.Examples = schema.Examples[0], nil
			case p.Example == nil:
				p.Example = examples[p.Name]
			}
		}
	})
}

// each calls f with every operation of a document.
func each(doc *huma.OpenAPI, f func(method, path string, op *huma.Operation)) {
	for path, item := range doc.Paths {
		for _, on := range []struct {
			method string
			op     *huma.Operation
		}{
			{http.MethodGet, item.Get},
			{http.MethodPost, item.Post},
			{http.MethodPut, item.Put},
			{http.MethodPatch, item.Patch},
			{http.MethodDelete, item.Delete},
		} {
			if on.op != nil {
				f(on.method, path, on.op)
			}
		}
	}
}

// downgrade is the document in OpenAPI 3.0, for tools that know no other. What that
// version cannot say is left out or said more loosely.
func downgrade(doc *huma.OpenAPI) ([]byte, error) {
	text, err := doc.Downgrade()
	if err != nil {
		return nil, fmt.Errorf("write OpenAPI 3.0: %w", err)
	}
	var tree map[string]any
	if err := json.Unmarshal(text, &tree); err != nil {
		return nil, fmt.Errorf("read OpenAPI 3.0: %w", err)
	}
	if info, ok := tree["info"].(map[string]any); ok {
		info["license"] = map[string]string{"name": doc.Info.License.Name, "url": "https://www.apache.org/licenses/LICENSE-2.0"}
	}
	if components, ok := tree["components"].(map[string]any); ok {
		allowNull(components["schemas"])
	}
	return encode(tree)
}

// allowNull says of schemas without a type that null is one of their values, too: to
// OpenAPI 3.0 it would be none.
func allowNull(v any) {
	properties, ok := v.(map[string]any)
	if !ok {
		return
	}
	for _, p := range properties {
		schema, ok := p.(map[string]any)
		if !ok {
			continue
		}
		typed := false
		for _, by := range []string{"type", "$ref", "oneOf", "anyOf", "allOf", "enum"} {
			_, has := schema[by]
			typed = typed || has
		}
		if !typed {
			schema["nullable"] = true
		}
		allowNull(schema["properties"])
		allowNull(map[string]any{"items": schema["items"]})
	}
}

// exampleEvents is what GET /tasks/{id}/events sends for a task that runs and ends.
func exampleEvents() string {
	running := exampleTask(false)
	running.State, running.Revision, running.Attempt = pelton.Running, 2, 1
	running.StartedAt, running.Worker = exampleTask(true).StartedAt, exampleTask(true).Worker
	working := *running
	working.Revision, working.Progress = 3, &pelton.Progress{Done: 3, Total: 9, Message: "a third"}
	done := exampleTask(true)
	done.Revision = 4
	var text []byte
	var last *pelton.Task
	for _, task := range []*pelton.Task{running, &working, done} {
		event, err := appendEvent(nil, last, task)
		if err != nil {
			return "" // not reached: an example always encodes
		}
		text, last = append(text, event...), task
	}
	return strings.TrimSuffix(string(text), "\n")
}
