package api

import (
	"bytes"
	"encoding/json"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

// full is an API with all that can be configured.
func full(t *testing.T) http.Handler {
	t.Helper()
	return serve(t, newFakeTasks(), func(c *Config) {
		c.Metrics = http.NotFoundHandler()
	})
}

func parseJSON(t *testing.T, text []byte) any {
	t.Helper()
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// The document is valid OpenAPI 3.1 by the official schema, its schemas are valid JSON
// Schema 2020-12, and its examples fit them.
func TestDocumentIsOpenAPI31(t *testing.T) {
	t.Parallel()
	raw := call(t, full(t), http.MethodGet, "/openapi.json", "").Body.Bytes()
	official, err := os.ReadFile("testdata/openapi-3.1.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	compiler := jsonschema.NewCompiler()
	compiler.AssertFormat()
	for name, text := range map[string][]byte{"official.json": official, "openapi.json": raw} {
		if err := compiler.AddResource(name, parseJSON(t, text)); err != nil {
			t.Fatal(err)
		}
	}
	schema, err := compiler.Compile("official.json")
	if err != nil {
		t.Fatal(err)
	}
	document := parseJSON(t, raw)
	if err := schema.Validate(document); err != nil {
		t.Errorf("no OpenAPI 3.1: %#v", err)
	}
	if err := schema.Validate(map[string]any{"openapi": "3.1.0"}); err == nil {
		t.Error("a document without info and paths passes")
	}

	doc, _ := document.(map[string]any)
	components, _ := doc["components"].(map[string]any)
	schemas, _ := components["schemas"].(map[string]any)
	if len(schemas) < 30 {
		t.Errorf("%d schemas", len(schemas))
	}
	for name := range schemas {
		if _, err := compiler.Compile("openapi.json#/components/schemas/" + name); err != nil {
			t.Errorf("schema %s: %v", name, err)
		}
	}
	eachContent(t, doc, func(where, pointer string, media map[string]any) {
		schema, err := compiler.Compile("openapi.json#" + pointer + "/schema")
		if err != nil {
			t.Errorf("%s: %v", where, err)
			return
		}
		examples, _ := media["examples"].(map[string]any)
		if _, ok := media["example"]; !ok && examples == nil {
			t.Errorf("%s has no example", where)
		}
		if example, ok := media["example"]; ok {
			if err := schema.Validate(example); err != nil {
				t.Errorf("%s: example: %v", where, err)
			}
		}
		for name, example := range examples {
			value := example.(map[string]any)["value"] //nolint:forcetypeassert // it was valid
			if err := schema.Validate(value); err != nil {
				t.Errorf("%s: example %s: %v", where, name, err)
			}
		}
	})
}

// eachContent calls f for every body that a document has, but for that of "any other
// problem", with its place as a JSON pointer.
func eachContent(t *testing.T, doc map[string]any, f func(where, pointer string, media map[string]any)) {
	t.Helper()
	escape := strings.NewReplacer("~", "~0", "/", "~1")
	at := func(v any, key string) map[string]any {
		m, _ := v.(map[string]any)
		child, _ := m[key].(map[string]any)
		return child
	}
	seen := 0
	content := func(where, pointer string, body map[string]any) {
		for media := range at(body, "content") {
			seen++
			f(where+" "+media, pointer+"/content/"+escape.Replace(media), at(at(body, "content"), media))
		}
	}
	for path, item := range at(doc, "paths") {
		for method := range item.(map[string]any) { //nolint:forcetypeassert // it was valid
			op := at(item, method)
			pointer := "/paths/" + escape.Replace(path) + "/" + method
			where := strings.ToUpper(method) + " " + path
			content(where, pointer+"/requestBody", at(op, "requestBody"))
			for status := range at(op, "responses") {
				if status != "default" {
					content(where+" "+status, pointer+"/responses/"+status, at(at(op, "responses"), status))
				}
			}
		}
	}
	if seen < 100 {
		t.Errorf("%d bodies", seen)
	}
}

// The same in OpenAPI 3.0, examples included.
func TestDocumentIsOpenAPI30(t *testing.T) {
	t.Parallel()
	h := full(t)
	w := call(t, h, http.MethodGet, "/openapi-3.0.json", "")
	if w.Code != 200 || w.Header().Get("Content-Type") != openAPIMediaType {
		t.Fatalf("%d %v", w.Code, w.Header())
	}
	doc, err := openapi3.NewLoader().LoadFromData(w.Body.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	if err := doc.Validate(t.Context(), openapi3.EnableExamplesValidation()); err != nil {
		t.Errorf("no OpenAPI 3.0: %v", err)
	}
	if doc.OpenAPI != "3.0.3" {
		t.Errorf("openapi %s", doc.OpenAPI)
	}
	var other openAPI
	if err := json.Unmarshal(call(t, h, http.MethodGet, "/openapi.json", "").Body.Bytes(), &other); err != nil {
		t.Fatal(err)
	}
	if doc.Paths.Len() != len(other.Paths) || len(doc.Components.Schemas) != len(other.Components.Schemas) {
		t.Errorf("%d paths and %d schemas, in 3.1 %d and %d", doc.Paths.Len(), len(doc.Components.Schemas), len(other.Paths), len(other.Components.Schemas))
	}
}

// Every parameter says what it is, and has an example.
func TestParametersAreExplained(t *testing.T) {
	t.Parallel()
	var doc struct {
		Paths map[string]map[string]struct {
			Summary    string
			Parameters []struct {
				Name, In, Description string
				Example               json.RawMessage
				Schema                struct{ Enum []string }
			}
		}
	}
	if err := json.Unmarshal(call(t, full(t), http.MethodGet, "/openapi.json", "").Body.Bytes(), &doc); err != nil {
		t.Fatal(err)
	}
	for path, methods := range doc.Paths {
		for method, op := range methods {
			if op.Summary == "" {
				t.Errorf("%s %s has no summary", method, path)
			}
			for _, p := range op.Parameters {
				if p.Description == "" || p.Example == nil {
					t.Errorf("%s %s: %s %s: %q, example %s", method, path, p.In, p.Name, p.Description, p.Example)
				}
			}
		}
	}
}

// The page shows every call and schema, and asks nobody for anything.
func TestDocsPage(t *testing.T) {
	t.Parallel()
	h := full(t)
	w := call(t, h, http.MethodGet, "/docs", "")
	page := w.Body.String()
	if w.Code != 200 || !strings.HasPrefix(w.Header().Get("Content-Type"), "text/html") {
		t.Fatalf("%d %v", w.Code, w.Header())
	}
	if policy := w.Header().Get("Content-Security-Policy"); !strings.HasPrefix(policy, "default-src 'none'; style-src 'sha256-") {
		t.Errorf("policy %q", policy)
	}
	for _, no := range []string{"<script", "<link", "<img", "<iframe", "@import", "url(", " style=", "javascript:"} {
		if strings.Contains(page, no) {
			t.Errorf("the page has %s", no)
		}
	}
	for _, m := range regexp.MustCompile(`href="([^"#]*)`).FindAllStringSubmatch(page, -1) {
		if m[1] != "" && m[1] != "openapi.json" && m[1] != "openapi-3.0.json" {
			t.Errorf("a link to %s", m[1])
		}
	}
	ids := make(map[string]bool)
	for _, m := range regexp.MustCompile(` id="([^"]*)"`).FindAllStringSubmatch(page, -1) {
		if ids[m[1]] {
			t.Errorf("two elements with id %s", m[1])
		}
		ids[m[1]] = true
	}
	for _, m := range regexp.MustCompile(`href="#([^"]*)"`).FindAllStringSubmatch(page, -1) {
		if !ids[m[1]] {
			t.Errorf("#%s leads nowhere", m[1])
		}
	}
	doc, _ := document(t, h)
	for path, methods := range doc.Paths {
		for method := range methods {
			if want := `<span class="method">` + strings.ToUpper(method) + "</span> <code>" + path; !strings.Contains(page, want) {
				t.Errorf("the page lacks %s %s", method, path)
			}
		}
	}
	for name := range doc.Components.Schemas {
		if !ids["schema-"+strings.ToLower(name)] {
			t.Errorf("the page lacks schema %s", name)
		}
	}
}
