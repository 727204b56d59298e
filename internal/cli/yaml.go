package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"

	"go.yaml.in/yaml/v3"
)

// maxYAMLDepth is how deep a document may nest, aliases included. The server takes
// less.
const maxYAMLDepth = 100

// maxYAMLNodes bounds the nodes that are looked at, those of aliases each time.
const maxYAMLNodes = 1_000_000

// yamlToJSON is a YAML document as JSON of at most so many bytes: keys in their order,
// numbers as they are written where JSON writes them so, times as text. Aliases and
// merge keys are resolved.
func yamlToJSON(text []byte, most int) ([]byte, error) {
	dec := yaml.NewDecoder(bytes.NewReader(text))
	var doc, more yaml.Node
	switch err := dec.Decode(&doc); {
	case errors.Is(err, io.EOF):
		return nil, errors.New("it is empty")
	case err != nil:
		return nil, fmt.Errorf("%w%s", err, quoteHint(text))
	}
	if err := dec.Decode(&more); !errors.Is(err, io.EOF) {
		return nil, errors.New("it has more than one document")
	}
	w := yamlWriter{most: most}
	if err := w.node(&doc, 0); err != nil {
		return nil, err
	}
	return w.out, nil
}

// quoteHint tells of what cron expressions run into: * is an alias, @ is nothing.
func quoteHint(text []byte) string {
	if regexp.MustCompile(`(?m)^\s*(- )?"?cron"?:\s+[*@]`).Match(text) {
		return `; a value that begins with * or @ needs quotes: cron: "*/5 * * * *"`
	}
	return ""
}

type yamlWriter struct {
	out    []byte
	most   int
	looked int
}

// look bounds what aliases of aliases make of a small document.
func (w *yamlWriter) look(n *yaml.Node, depth int) error {
	w.looked++
	switch {
	case depth > maxYAMLDepth:
		return fmt.Errorf("line %d: nests deeper than %d", n.Line, maxYAMLDepth)
	case len(w.out) > w.most || w.looked > maxYAMLNodes:
		return fmt.Errorf("line %d: it becomes more than %d bytes", n.Line, w.most)
	default:
		return nil
	}
}

func (w *yamlWriter) node(n *yaml.Node, depth int) error {
	if err := w.look(n, depth); err != nil {
		return err
	}
	switch n.Kind {
	case yaml.DocumentNode:
		return w.node(n.Content[0], depth)
	case yaml.AliasNode:
		return w.node(n.Alias, depth+1)
	case yaml.SequenceNode:
		w.out = append(w.out, '[')
		for i, item := range n.Content {
			if i > 0 {
				w.out = append(w.out, ',')
			}
			if err := w.node(item, depth+1); err != nil {
				return err
			}
		}
		w.out = append(w.out, ']')
		return nil
	case yaml.MappingNode:
		return w.mapping(n, depth)
	case yaml.ScalarNode:
		return w.scalar(n)
	default:
		return fmt.Errorf("line %d: is nothing that JSON has", n.Line)
	}
}

func (w *yamlWriter) mapping(n *yaml.Node, depth int) error {
	members, err := w.members(n, depth)
	if err != nil {
		return err
	}
	w.out = append(w.out, '{')
	for i, m := range members {
		if i > 0 {
			w.out = append(w.out, ',')
		}
		if err := w.text(m.name); err != nil {
			return err
		}
		w.out = append(w.out, ':')
		if err := w.node(m.value, depth+1); err != nil {
			return err
		}
	}
	w.out = append(w.out, '}')
	return nil
}

type yamlMember struct {
	name  string
	value *yaml.Node
}

// members are those of a mapping, and of what it merges that it has not itself.
func (w *yamlWriter) members(n *yaml.Node, depth int) ([]yamlMember, error) {
	if err := w.look(n, depth); err != nil {
		return nil, err
	}
	var own, merged []yamlMember
	seen := make(map[string]bool)
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if key.ShortTag() == "!!merge" {
			more, err := w.merged(value, depth+1)
			if err != nil {
				return nil, err
			}
			merged = append(merged, more...)
			continue
		}
		for key.Kind == yaml.AliasNode {
			key = key.Alias
		}
		if key.Kind != yaml.ScalarNode {
			return nil, fmt.Errorf("line %d: a key is not text", key.Line)
		}
		if seen[key.Value] {
			return nil, fmt.Errorf("line %d: %q is there twice", key.Line, clip(key.Value, 100))
		}
		seen[key.Value] = true
		own = append(own, yamlMember{key.Value, value})
	}
	for _, m := range merged { // the first one counts
		if !seen[m.name] {
			seen[m.name] = true
			own = append(own, m)
		}
	}
	return own, nil
}

// merged are the members of a mapping that is merged, or of a list of them.
func (w *yamlWriter) merged(n *yaml.Node, depth int) ([]yamlMember, error) {
	for n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	switch n.Kind { //nolint:exhaustive // the others cannot be merged
	case yaml.MappingNode:
		return w.members(n, depth)
	case yaml.SequenceNode:
		var all []yamlMember
		for _, item := range n.Content {
			more, err := w.merged(item, depth+1)
			if err != nil {
				return nil, err
			}
			all = append(all, more...)
		}
		return all, nil
	default:
		return nil, fmt.Errorf("line %d: << needs a mapping", n.Line)
	}
}

func (w *yamlWriter) scalar(n *yaml.Node) error {
	var v any
	switch n.ShortTag() {
	case "!!str", "!!timestamp":
		return w.text(n.Value)
	case "!!null":
		w.out = append(w.out, "null"...)
		return nil
	case "!!bool", "!!int", "!!float":
		if json.Valid([]byte(n.Value)) {
			w.out = append(w.out, n.Value...)
			return nil
		}
		if err := n.Decode(&v); err != nil {
			return err
		}
	default:
		return fmt.Errorf("line %d: %s is nothing that JSON has", n.Line, n.Tag)
	}
	raw, err := json.Marshal(v) // fails for .inf and .nan
	if err != nil {
		return fmt.Errorf("line %d: %q is nothing that JSON has", n.Line, clip(n.Value, 100))
	}
	w.out = append(w.out, raw...)
	return nil
}

// text writes a string without the escapes for HTML.
func (w *yamlWriter) text(s string) error {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(s); err != nil {
		return err
	}
	w.out = append(w.out, bytes.TrimRight(buf.Bytes(), "\n")...)
	return nil
}
