package cli

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestYAMLToJSON(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"a: 1":                                                `{"a":1}`,
		"z: 1\na: 2\n":                                        `{"z":1,"a":2}`,
		"- 1.50\n- 1e3\n- .5\n- -0.0":                         `[1.50,1e3,0.5,-0.0]`,
		"- 12345678901234567890123":                           `[12345678901234567890123]`,
		"- 0x1f\n- 0o17\n- 1_000\n- +5":                       `[31,15,1000,5]`,
		"- true\n- yes\n- ~\n- null\n- ''":                    `[true,"yes",null,null,""]`,
		"- 2026-12-01\n- 2026-12-01T08:00:00Z":                `["2026-12-01","2026-12-01T08:00:00Z"]`,
		`- "<&>\u2028"`:                                       `["<&>\u2028"]`,
		"- |\n  two\n  lines\n":                               `["two\nlines\n"]`,
		"{1: a, true: b}":                                     `{"1":"a","true":"b"}`,
		"- &x {k: 1}\n- *x":                                   `[{"k":1},{"k":1}]`,
		"base: &b {k: 1, q: a}\nx: {<<: *b, q: c}":            `{"base":{"k":1,"q":"a"},"x":{"q":"c","k":1}}`,
		"a: &a {k: 1}\nb: &b {k: 2, l: 3}\nx: {<<: [*a, *b]}": `{"a":{"k":1},"b":{"k":2,"l":3},"x":{"k":1,"l":3}}`,
		`{"json": [1, {"b" : null}]}`:                         `{"json":[1,{"b":null}]}`,
	} {
		got, err := yamlToJSON([]byte(in), 1000)
		if err != nil || string(got) != want {
			t.Errorf("%s: %s, %v, want %s", in, got, err, want)
		}
	}
	bomb := "a: &a [x,x,x,x,x,x,x,x,x,x]\n"
	for c := 'b'; c < 'k'; c++ {
		bomb += string(c) + ": &" + string(c) + " [" + strings.TrimSuffix(strings.Repeat("*"+string(c-1)+",", 10), ",") + "]\n"
	}
	merges := "a: &a {k: 1}\n"
	for c := 'b'; c < 'k'; c++ {
		merges += string(c) + ": &" + string(c) + " {<<: [" + strings.TrimSuffix(strings.Repeat("*"+string(c-1)+",", 10), ",") + "]}\n"
	}
	for in, says := range map[string]string{
		merges:              "becomes more",
		"":                  "is empty",
		"a: 1\n---\nb: 2":   "more than one document",
		"a: 1\na: 2":        `"a" is there twice`,
		"{? [1] : a}":       "a key is not text",
		"- .inf":            "nothing that JSON has",
		"- .nan":            "nothing that JSON has",
		"- !!binary aGk=":   "nothing that JSON has",
		"- !own x":          "nothing that JSON has",
		"x: {<<: 7}":        "<< needs a mapping",
		"cron: */5 * * * *": "needs quotes",
		"- cron: @daily":    "needs quotes",
		"a: [":              "yaml",
		"a: &a [*a]":        "",
		"a: &a {<<: *a}":    "",
		bomb:                "more than 1000 bytes",
		strings.Repeat("[", 500) + strings.Repeat("]", 500): "deeper than",
	} {
		got, err := yamlToJSON([]byte(in), 1000)
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %s, %v, want %q", clip(in, 60), got, err, says)
		}
	}
}

func FuzzYAMLToJSON(f *testing.F) {
	for _, seed := range []string{"a: [1, {b: ~}]", "- &x {k: 1}\n- *x", "x: {<<: {a: 1}}", "- 0x1f\n- .5", "a: &a {<<: *a}"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		out, err := yamlToJSON(in, 10_000)
		if err == nil && !json.Valid(out) {
			t.Errorf("%q became %q", in, out)
		}
	})
}
