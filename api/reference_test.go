package api

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"text/template"

	"github.com/google/go-cmp/cmp"
)

// updateEnv makes the tests of generated pages write them instead.
const updateEnv = "PELTON_UPDATE_REFERENCE"

// referenceTemplate is docs/reference/http.md.
const referenceTemplate = `<!-- Made from the code by api.TestReference, which compares them: {{.Env}}=1 go test -run TestReference ./api -->
# HTTP API

{{.Description}}

A server listens on http://127.0.0.1:7420 by default. It says the same as [OpenAPI 3.1](http://127.0.0.1:7420/openapi.json), as
[OpenAPI 3.0](http://127.0.0.1:7420/openapi-3.0.json), and as a page at [/docs](http://127.0.0.1:7420/docs), which needs no other host.

Bodies are JSON in UTF-8 (application/json), at most 1 MiB, and 16 MiB for batches. Unknown fields and parameters are errors; fields may be added to
answers. Durations are strings: 90s, 1h30m, 7d. Times are RFC 3339. Lists have a next_cursor while there may be more, and pages may be short.

## Problems

Every error is a problem (RFC 9457), application/problem+json, with a stable type:

| type | status | title |
|---|---|---|
{{range .Kinds}}| {{code .Type}} | {{.Status}} | {{.Title}} |
{{end}}
A call or field that is not built is not-supported with 404 or 422. 429 and 503 come with Retry-After, in seconds. Nothing was
enqueued by a request that got an error, unless its type is unknown-outcome: then it may have been.
{{range .Groups}}
## {{title .Name}}
{{range .Calls}}
### {{.Method}} {{.Path}}

{{.Summary}}.{{with .Text}} {{.}}{{end}}
{{if .Params}}
| parameter | in | value | |
|---|---|---|---|
{{range .Params}}| {{code .Name}} | {{.In}} | {{cell .Type}}{{if .Required}}; required{{end}} | {{cell .Text}}{{with .Example}} For example {{code .}}.{{end}} |
{{end}}{{end}}{{with .Body}}
Body ([{{.Schema}}](#schema-{{lower .Schema}})):

{{fence "json" .Example}}
{{end}}
| status | answer |
|---|---|
{{range .Answers}}| {{.Status}} | {{cell .Text}}{{range .Bodies}}{{if and .Schema (ne .Schema "Problem")}} ([{{.Schema}}](#schema-{{lower .Schema}})){{end}}{{end}}{{if .Headers}}; with {{join .Headers}}{{end}} |
{{end}}{{range .Answers}}{{if good .Status}}{{range .Bodies}}{{if .Example}}
{{fence (lang .Media) .Example}}
{{end}}{{end}}{{end}}{{end}}{{end}}{{end}}
## Schemas
{{range .Schemas}}
### Schema {{.Name}}
{{with .Text}}
{{.}}
{{end}}{{if .Fields}}
| field | value | |
|---|---|---|
{{range .Fields}}| {{code .Name}} | {{cell .Type}}{{if .Required}}; always there{{end}} | {{cell .Text}} |
{{end}}{{end}}{{end}}`

// reference is the page, from what a server with everything has.
func reference(t *testing.T) string {
	t.Helper()
	cfg := Config{Tasks: newFakeTasks(), Version: "v1.2.3", Metrics: http.NotFoundHandler(), Token: "t", CheckHost: true, Requests: &RequestLimit{}}
	m, err := newManual((&server{Config: cfg}).describe(http.NewServeMux()))
	if err != nil {
		t.Fatal(err)
	}
	type problemKind struct {
		Type   kind
		Status int
		Title  string
	}
	page := struct {
		*manual

		Env   string
		Kinds []problemKind
	}{m, updateEnv, nil}
	for _, k := range kinds() {
		status, title := k.describe()
		page.Kinds = append(page.Kinds, problemKind{k, status, title})
	}
	cell := strings.NewReplacer("|", `\|`, "\n", " ", "{", `\{`, "<", `\<`, "*", `\*`)
	funcs := template.FuncMap{
		"lower": strings.ToLower,
		"title": func(s string) string { return strings.ToUpper(s[:1]) + s[1:] },
		"code":  func(v any) string { return "`" + strings.ReplaceAll(fmt.Sprint(v), "|", `\|`) + "`" },
		"cell":  cell.Replace,
		"join":  func(names []string) string { return "`" + strings.Join(names, "`, `") + "`" },
		"good":  func(status string) bool { return status < "300" },
		"fence": func(lang, text string) string { return "```" + lang + "\n" + text + "\n```" },
		"lang": func(media string) string {
			if media == jsonMediaType || media == openAPIMediaType {
				return "json"
			}
			return "text"
		},
	}
	var out bytes.Buffer
	if err := template.Must(template.New("http.md").Funcs(funcs).Parse(referenceTemplate)).Execute(&out, page); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// The page of reference is what the code says.
func TestReference(t *testing.T) {
	t.Parallel()
	path := filepath.Join("..", "docs", "reference", "http.md")
	want := reference(t)
	if os.Getenv(updateEnv) != "" {
		if err := os.WriteFile(path, []byte(want), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("%s is not what the code says (%s=1 writes it; -code +page):\n%s", path, updateEnv, diff)
	}
}

// Every kind of a problem that the code has is in the list.
func TestKindsAreAll(t *testing.T) {
	t.Parallel()
	source, err := os.ReadFile("problem.go")
	if err != nil {
		t.Fatal(err)
	}
	constants := regexp.MustCompile(`(?m)^\tkind\w+ +kind = "([a-z-]+)"`).FindAllStringSubmatch(string(source), -1)
	listed := kinds()
	if len(constants) != len(listed) || len(listed) < 15 {
		t.Errorf("%d kinds are declared, %d listed", len(constants), len(listed))
	}
	for _, c := range constants {
		if !slices.Contains(listed, kind(c[1])) {
			t.Errorf("%s is not listed", c[1])
		}
	}
}
