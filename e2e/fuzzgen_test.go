package e2e_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
)

// generator makes requests from an OpenAPI document: such as it allows, and such as it
// does not. It is not safe for concurrent use.
type generator struct {
	*rand.Rand

	ops  []operation
	ids  func() []string // of tasks that there are, or were
	dead func() []string // of dead letters
}

// operation is one call of the document.
type operation struct {
	method, path string
	item         *openapi3.PathItem
	op           *openapi3.Operation
}

// shot is one request.
type shot struct {
	operation

	pathParams map[string]string
	target     string // path and query, encoded
	header     map[string]string
	body       []byte
	broken     bool // the body is no JSON that the API takes: it must be refused as malformed
}

func (s *shot) String() string {
	body := s.body
	if len(body) > 600 {
		body = append(slices.Clone(body[:600]), "…"...)
	}
	return fmt.Sprintf("%s %s %q %q", s.method, s.target, s.header, body)
}

func pick[T any](g *generator, from ...T) T { return from[g.IntN(len(from))] }

// chance is true n times in a hundred.
func (g *generator) chance(n int) bool { return g.IntN(100) < n }

// shoot makes the next request.
func (g *generator) shoot() *shot {
	s := &shot{operation: g.ops[g.IntN(len(g.ops))], pathParams: map[string]string{}, header: map[string]string{}}
	wild := g.chance(50)
	var query []string
	path := s.path
	for _, ref := range s.op.Parameters {
		p := ref.Value
		switch p.In {
		case openapi3.ParameterInPath:
			text := g.param(p, wild)
			if letters := g.dead(); strings.HasPrefix(s.path, "/dead/") && len(letters) > 0 && !wild {
				text = pick(g, letters...)
			}
			if text == "" || text == "." || text == ".." { // that is another path
				text = "x"
			}
			s.pathParams[p.Name] = text
			path = strings.ReplaceAll(path, "{"+p.Name+"}", url.PathEscape(text))
		case openapi3.ParameterInHeader:
			if g.chance(30) {
				s.header[p.Name] = strings.TrimSpace(strings.Map(visible, g.param(p, wild)))
			}
		case openapi3.ParameterInQuery:
			if !g.chance(40) {
				continue
			}
			name := p.Name
			if p.Schema.Value.Type.Is("object") {
				name = pick(g, "label.tenant", "label.a", "label.a.b/c")
			}
			query = append(query, url.QueryEscape(name)+"="+url.QueryEscape(g.param(p, wild)))
		}
	}
	if wild && g.chance(5) {
		query = append(query, pick(g, "x=1", "%zz", "a=b;c=d", "limit=1&limit=2", "=", "state[]=queued", "priority"))
	}
	s.target = path
	if len(query) > 0 {
		s.target += "?" + strings.Join(query, "&")
	}
	if s.op.RequestBody != nil {
		s.header["Content-Type"] = "application/json"
		s.body, s.broken = g.requestBody(s.op.RequestBody.Value.Content["application/json"], wild)
		if wild && g.chance(3) {
			s.header["Content-Type"] = pick(g, "text/plain", "application/json; charset=latin1", "", "x", "multipart/form-data")
			s.broken = true
		}
	}
	return s
}

// visible drops what no client can send in a header.
func visible(r rune) rune {
	if r < ' ' || r == 0x7f {
		return -1
	}
	return r
}

// param is the value of a parameter: of its schema, or not.
func (g *generator) param(p *openapi3.Parameter, wild bool) string {
	if p.Name == "wait" || p.Name == "Prefer" { // what is held for long is not for here
		return pick(g, "0", "0s", "1ms", "wait=0", "wait=x, wait=1;a", "-1s", "18446744073709551616", "x", "respond-async")
	}
	if wild && g.chance(40) {
		return g.hostileText()
	}
	switch v := g.value(p.Name, p.Schema.Value, 0).(type) {
	case string:
		return v
	case map[string]any:
		return pick(g, "acme", "x")
	default:
		text, err := json.Marshal(v)
		if err != nil {
			return "x"
		}
		return string(text)
	}
}

// requestBody is a body of a schema. A wild one is changed here and there.
func (g *generator) requestBody(m *openapi3.MediaType, wild bool) (body []byte, broken bool) {
	v := g.value("", m.Schema.Value, 0)
	if g.chance(20) {
		v = m.Example
	}
	if wild && g.chance(70) {
		for range 1 + g.IntN(3) {
			v = g.mutate(v)
		}
	}
	body, err := json.Marshal(v)
	if err != nil {
		return []byte("{"), true
	}
	if !wild || !g.chance(15) {
		return body, false
	}
	cut := g.IntN(len(body))
	switch g.IntN(7) {
	case 0:
		return body[:cut], true
	case 1:
		return append(body, pick(g, "x", "{}", ",", "]")...), true
	case 2:
		return slices.Concat(body[:1], []byte{pick[byte](g, 0xff, 0xc0, 0x80)}, body[1:]), true
	case 3:
		return []byte(pick(g, "", " ", "nul", "{", "'a'", "NaN", "\ufeff{}", "{\"kind\":\"k\",}", "{\"kind\":\"k\" \"a\":1}", "\x00", "[1,2")), true
	case 4:
		return []byte(strings.Repeat("[", 70) + strings.Repeat("]", 70)), true
	case 5:
		return []byte(`{"limit":1,"limit":2,"kind":"k","kind":"k"}`), true
	default:
		return bytes.Repeat([]byte("{\"a\":"), 100_000), true
	}
}

// value is a value of a schema, as far as the schema says.
func (g *generator) value(name string, s *openapi3.Schema, depth int) any {
	if len(s.Enum) > 0 {
		return s.Enum[g.IntN(len(s.Enum))]
	}
	if len(s.OneOf)+len(s.AnyOf) > 0 {
		all := slices.Concat(s.OneOf, s.AnyOf)
		return g.value(name, all[g.IntN(len(all))].Value, depth)
	}
	switch {
	case s.Type.Is("object"):
		return g.object(s, depth)
	case s.Type.Is("array"):
		n := g.IntN(4)
		if s.MinItems > 0 {
			n = max(n, int(s.MinItems))
		}
		items := make([]any, n)
		for i := range items {
			items[i] = g.value(name, s.Items.Value, depth+1)
		}
		return items
	case s.Type.Is("boolean"):
		return g.chance(50)
	case s.Type.Is("integer"), s.Type.Is("number"):
		least, most := 0.0, 1000.0
		if s.Min != nil {
			least = *s.Min
		}
		if s.Max != nil {
			most = *s.Max
		}
		return int(pick(g, least, most, least+float64(g.IntN(int(most-least)+1))))
	case s.Type.Is("string"):
		return g.text(name, s)
	default:
		return g.anyJSON(depth)
	}
}

func (g *generator) object(s *openapi3.Schema, depth int) map[string]any {
	out := make(map[string]any)
	for _, name := range slices.Sorted(maps.Keys(s.Properties)) {
		if slices.Contains(s.Required, name) || depth < 4 && g.chance(25) {
			out[name] = g.value(name, s.Properties[name].Value, depth+1)
		}
	}
	if more := s.AdditionalProperties.Schema; more != nil {
		for range g.IntN(3) {
			out[pick(g, "tenant", "a", "a.b", "low", "high")] = g.value("", more.Value, depth+1)
		}
	}
	return out
}

// text is a string that makes sense under a name.
func (g *generator) text(name string, s *openapi3.Schema) string {
	switch {
	case s.Format == "uuid":
		if ids := g.ids(); len(ids) > 0 && g.chance(80) {
			return pick(g, ids...)
		}
		return "0199b0c0-0000-8000-8000-000000000000"
	case s.Format == "date-time":
		return time.Now().Add(time.Duration(g.IntN(7200)-3600) * time.Second).UTC().Format(time.RFC3339Nano)
	case name == "kind":
		return pick(g, "demo.echo", "demo.fail", "demo.sleep", "k", "email.send", "a/b:c")
	case name == "queue":
		return pick(g, "default", "emails", "a", "q-1")
	}
	switch name {
	case "name":
		return pick(g, "nightly", "mail", "a", "b")
	case "cron":
		return pick(g, "0 3 * * *", "@daily", "*/5 * * * *", "0 0 31 2 *")
	case "zone":
		return pick(g, "UTC", "Europe/Berlin")
	case "delay", "timeout", "retention", "window", "lease", "per", "initial", "max", "every", "jitter", "catch_up_window":
		return pick(g, "90s", "1h", "24h", "7d", "1h30m", "100ms", "1s")
	case "priority":
		return "high"
	case "cursor":
		return pick(g, "", "x", "q1.1", "a1.1", "34", "bm9uZQ")
	}
	return pick(g, "acme", "user-42", "x", "boo", "ü", strings.Repeat("k", 1+g.IntN(200)))
}

// anyJSON is any JSON value, such as a payload may be.
func (g *generator) anyJSON(depth int) any {
	switch n := g.IntN(9); {
	case n == 0 && depth < 6:
		return []any{g.anyJSON(depth + 1), g.anyJSON(depth + 1)}
	case n <= 2 && depth < 6:
		return map[string]any{"ms": g.IntN(50), "a b": g.anyJSON(depth + 1)}
	case n == 3:
		return g.hostileJSON()
	default:
		return pick[any](g, nil, true, 1, 1.5, "", "x", json.RawMessage("1e300"), json.RawMessage(`"\ud800"`), map[string]any{})
	}
}

// mutate changes one place of a value.
func (g *generator) mutate(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := maps.Clone(v)
		names := slices.Sorted(maps.Keys(out))
		switch n := g.IntN(10); {
		case n == 0 || len(names) == 0:
			out[g.hostileText()] = g.hostileJSON()
		case n == 1:
			delete(out, pick(g, names...))
		case n <= 5:
			out[pick(g, names...)] = g.hostileJSON()
		default:
			name := pick(g, names...)
			out[name] = g.mutate(out[name])
		}
		return out
	case []any:
		if len(v) == 0 || g.chance(20) {
			return g.hostileJSON()
		}
		out := slices.Clone(v)
		i := g.IntN(len(out))
		out[i] = g.mutate(out[i])
		return out
	default:
		return g.hostileJSON()
	}
}

func (g *generator) hostileJSON() any {
	if g.chance(50) {
		return g.hostileText()
	}
	return pick[any](g, nil, true, false, 0, -1, 1.5, 501, 1_000_000, []any{}, map[string]any{}, []any{nil},
		json.RawMessage("1e300"), json.RawMessage("-0"), json.RawMessage("9223372036854775808"), json.RawMessage("123456789012345678901234567890"),
		json.RawMessage(`"\ud800"`), json.RawMessage(`"\u0000"`), json.RawMessage(strings.Repeat("[", 30)+strings.Repeat("]", 30)))
}

func (g *generator) hostileText() string {
	return pick(g, "", " ", "*", ">", "a.*", "a.>", "$JS.API.>", "../../etc/passwd", "%00", "\x00", "a\r\nX-Evil: 1", "A", "ünïcödé", "\u202eevil",
		"🙂", "\ufeff", "null", "-1", "0", "00", "1e9", "1.5", "0x10", "9223372036854775808", "99999999999999999999999999", "NaN", "true",
		"10000-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "2026-02-30T00:00:00Z", "0001-01-01T00:00:00Z", "2026-12-01", "-1s", "999999999h", "1ns", "0s", "5", "1 h",
		"<script>alert(1)</script>", "' OR 1=1 --", "${jndi:ldap://x}", "{{7*7}}", "a/b", "a%2Fb", "..", "_probe", "-", "_a", "q1.1", "a0.0", "zzzzzzzzzzzzzzzzzzzz",
		strings.Repeat("a", 64), strings.Repeat("a", 65), strings.Repeat("a", 129), strings.Repeat("ü", 128), strings.Repeat("x", 257), strings.Repeat("y", 3000),
		strings.Repeat("9", 400), "0199b0c0-0000-8000-8000-000000000000", "0199b0c0-0000-4000-8000-000000000000", "0199B0C0-0000-8000-8000-000000000000")
}
