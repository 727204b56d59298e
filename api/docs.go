package api

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"html/template"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"
)

const (
	pathDocs = "/docs"
	opDocs   = "docs"
)

//go:embed docs.html
var docsTemplate string

//go:embed docs.css
var docsStyle string

// docsHeaders keep the page to itself: it runs no script and asks no other host for
// anything.
func docsPolicy() string {
	sum := sha256.Sum256([]byte(docsStyle))
	return "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) +
		"'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
}

func (s *server) registerDocs(api huma.API) {
	answers := s.responses(kindInvalid)
	answers["200"] = &huma.Response{Description: "The page", Content: map[string]*huma.MediaType{
		"text/html": {Schema: &huma.Schema{Type: huma.TypeString}, Example: "<!doctype html>"},
	}}
	register(s, api, huma.Operation{
		OperationID: opDocs, Method: http.MethodGet, Path: pathDocs, Tags: []string{"server"},
		Summary:     "This document as a page",
		Description: "It is complete in itself: it has no scripts, and asks no other host for anything.",
		Responses:   answers,
	}, func(context.Context, *struct{}) (*answer, error) {
		return &answer{Status: http.StatusOK, ContentType: "text/html; charset=utf-8", Body: s.docs, Policy: docsPolicy()}, nil
	})
}

// manual is the document as pages show it.
type manual struct {
	Title, Version, Description string
	Groups                      []manualGroup
	Schemas                     []manualSchema
	Style                       template.CSS
}

// manualGroup is the calls with one tag.
type manualGroup struct {
	Name  string
	Calls []manualCall
}

type manualCall struct {
	ID, Method, Path, Summary, Text string
	Params                          []manualParam
	Body                            *manualBody
	Answers                         []manualAnswer
}

type manualParam struct {
	Name, In, Type, Text, Example string
	Required                      bool
}

// manualBody is a body with its media type, and the name of its schema if it has one.
type manualBody struct{ Media, Schema, Example string }

type manualAnswer struct {
	Status, Text string
	Headers      []string
	Bodies       []manualBody
}

type manualSchema struct {
	Name, Text string
	Fields     []manualParam
}

// newManual arranges a document: calls by the tags in the order of their registration,
// then by path.
func newManual(doc *huma.OpenAPI) (*manual, error) {
	m := &manual{Title: doc.Info.Title, Version: doc.Info.Version, Description: doc.Info.Description, Style: template.CSS(docsStyle)} //nolint:gosec // of this package
	groups := make(map[string][]manualCall)
	var failed error
	each(doc, func(method, path string, op *huma.Operation) {
		call, err := newManualCall(method, path, op)
		failed = cmp.Or(failed, err)
		groups[op.Tags[0]] = append(groups[op.Tags[0]], call)
	})
	for _, name := range slices.SortedFunc(maps.Keys(groups), compareTags) {
		calls := groups[name]
		slices.SortFunc(calls, func(a, b manualCall) int {
			return cmp.Or(strings.Compare(a.Path, b.Path), strings.Compare(a.Method, b.Method))
		})
		m.Groups = append(m.Groups, manualGroup{name, calls})
	}
	all := doc.Components.Schemas.Map()
	for _, name := range slices.Sorted(maps.Keys(all)) {
		m.Schemas = append(m.Schemas, newManualSchema(name, all[name]))
	}
	return m, failed
}

// compareTags puts tasks first and the server last.
func compareTags(a, b string) int {
	rank := func(tag string) int { return slices.Index([]string{"server", "", "tasks"}, tag) }
	order := map[int]int{2: 0, -1: 1, 0: 2}
	return cmp.Or(cmp.Compare(order[rank(a)], order[rank(b)]), strings.Compare(a, b))
}

func newManualCall(method, path string, op *huma.Operation) (call manualCall, err error) {
	call = manualCall{ID: op.OperationID, Method: method, Path: path, Summary: op.Summary, Text: op.Description}
	for _, p := range op.Parameters {
		param := manualParam{Name: p.Name, In: p.In, Type: typeText(p.Schema), Text: p.Description, Required: p.Required}
		if p.Example != nil {
			param.Example = exampleText(p.Example)
		}
		call.Params = append(call.Params, param)
	}
	if op.RequestBody != nil {
		body, err := newManualBody(jsonMediaType, op.RequestBody.Content[jsonMediaType])
		if err != nil {
			return call, err
		}
		call.Body = &body
	}
	for _, status := range slices.Sorted(maps.Keys(op.Responses)) {
		r := op.Responses[status]
		answer := manualAnswer{Status: status, Text: r.Description, Headers: slices.Sorted(maps.Keys(r.Headers))}
		for _, media := range slices.Sorted(maps.Keys(r.Content)) {
			body, err := newManualBody(media, r.Content[media])
			if err != nil {
				return call, err
			}
			answer.Bodies = append(answer.Bodies, body)
		}
		call.Answers = append(call.Answers, answer)
	}
	return call, nil
}

func newManualBody(media string, m *huma.MediaType) (manualBody, error) {
	body := manualBody{Media: media}
	if m.Schema != nil {
		body.Schema = refName(m.Schema.Ref)
	}
	switch example := m.Example.(type) {
	case nil:
	case string:
		body.Example = example
	default:
		raw, err := encode(example)
		if err != nil {
			return body, fmt.Errorf("write example: %w", err)
		}
		var pretty bytes.Buffer
		if err := json.Indent(&pretty, raw, "", "  "); err != nil {
			return body, fmt.Errorf("indent example: %w", err)
		}
		body.Example = strings.TrimSpace(pretty.String())
	}
	return body, nil
}

// exampleText is the example of a parameter as it stands in a query.
func exampleText(v any) string {
	if m, ok := v.(map[string]string); ok {
		var pairs []string
		for _, name := range slices.Sorted(maps.Keys(m)) {
			pairs = append(pairs, name+"="+m[name])
		}
		return strings.Join(pairs, "&")
	}
	return fmt.Sprint(v)
}

func newManualSchema(name string, s *huma.Schema) manualSchema {
	out := manualSchema{Name: name, Text: s.Description}
	for _, field := range slices.Sorted(maps.Keys(s.Properties)) {
		p := s.Properties[field]
		out.Fields = append(out.Fields, manualParam{Name: field, Type: typeText(p), Text: p.Description, Required: slices.Contains(s.Required, field)})
	}
	return out
}

// typeText is what a value may be, in a few words.
func typeText(s *huma.Schema) string {
	if s == nil {
		return ""
	}
	if s.Ref != "" {
		return refName(s.Ref)
	}
	var text string
	switch {
	case len(s.Enum) > 0:
		var words []string
		for _, v := range s.Enum {
			words = append(words, fmt.Sprint(v))
		}
		text = strings.Join(words, " | ")
	case s.Type == huma.TypeArray:
		text = "list of " + typeText(s.Items)
	case s.Type == "":
		text = "any JSON value"
	case s.Format != "" && s.Type == huma.TypeString:
		text = s.Format
	default:
		text = s.Type
	}
	switch {
	case s.Minimum != nil && s.Maximum != nil:
		text += fmt.Sprintf(", %v to %v", *s.Minimum, *s.Maximum)
	case s.Minimum != nil:
		text += fmt.Sprintf(", at least %v", *s.Minimum)
	}
	if s.MaxLength != nil {
		text += fmt.Sprintf(", at most %d characters", *s.MaxLength)
	}
	if s.Pattern != "" {
		text += ", " + s.Pattern
	}
	if s.Default != nil {
		text += fmt.Sprintf(" (default %v)", s.Default)
	}
	return text
}

func refName(ref string) string { return ref[strings.LastIndexByte(ref, '/')+1:] }

// writeDocs is the page.
func writeDocs(doc *huma.OpenAPI) ([]byte, error) {
	m, err := newManual(doc)
	if err != nil {
		return nil, err
	}
	page, err := template.New("docs").Funcs(template.FuncMap{"lower": strings.ToLower, "slug": slug}).Parse(docsTemplate)
	if err != nil {
		return nil, fmt.Errorf("parse the docs page: %w", err)
	}
	var out bytes.Buffer
	if err := page.Execute(&out, m); err != nil {
		return nil, fmt.Errorf("write the docs page: %w", err)
	}
	return out.Bytes(), nil
}

func slug(s string) string { return strings.ReplaceAll(strings.ToLower(s), " ", "-") }
