package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"
)

// maxConfig is how long a configuration file may be, in bytes.
const maxConfig = 1 << 20

// A configuration file is YAML: its keys are the flags of "serve" and "worker run"
// and those by which clients find the API. A key stands for the flag wherever it is
// one of these. Below "serve" and "worker" are keys that only that command reads;
// they win over those on top.
const (
	sectionTop    = ""
	sectionServe  = "serve"
	sectionWorker = "worker"
)

const (
	// sectionAnnotation names the section of a command whose flags are its keys.
	sectionAnnotation = "pelton-config-section"
	// readsAnnotation names the section that another command reads, too.
	readsAnnotation = "pelton-config-reads"
)

func inSection(cmd *cobra.Command, section string) *cobra.Command {
	cmd.Annotations = map[string]string{sectionAnnotation: section, readsAnnotation: section}
	return cmd
}

func readingSection(cmd *cobra.Command, section string) *cobra.Command {
	cmd.Annotations = map[string]string{readsAnnotation: section}
	return cmd
}

// settingsOf are the flags that each section may set, by name.
type settingsOf map[string]map[string]*pflag.Flag

// knownSettings are the settings of the program whose root that is.
func knownSettings(root *cobra.Command) settingsOf {
	known := settingsOf{sectionTop: {}}
	add := func(section string, f *pflag.Flag) {
		if known[section] == nil {
			known[section] = make(map[string]*pflag.Flag)
		}
		known[section][f.Name] = f
	}
	eachCommand(root, func(cmd *cobra.Command) {
		section, has := cmd.Annotations[sectionAnnotation]
		if !has {
			return
		}
		cmd.InheritedFlags() // merges
		cmd.Flags().VisitAll(func(f *pflag.Flag) {
			if isSetting(f) && f.Name != "config" {
				add(section, f)
				add(sectionTop, f)
			}
		})
	})
	for name, f := range clientSettings() {
		if known[sectionTop][name] == nil {
			known[sectionTop][name] = f
		}
	}
	return known
}

// clientSettings are the settings of commands that call the API.
func clientSettings() map[string]*pflag.Flag {
	cmd := &cobra.Command{}
	(&clientFlags{}).register(cmd.Flags())
	(&outputFlag{}).register(cmd)
	settings := make(map[string]*pflag.Flag)
	cmd.Flags().VisitAll(func(f *pflag.Flag) { settings[f.Name] = f })
	return settings
}

// reads reports whether a command that has a flag takes it from the file: "limit" is
// another thing to "worker run" than to lists.
func reads(cmd *cobra.Command, key string) bool {
	_, has := cmd.Annotations[readsAnnotation]
	return has || clientSettings()[key] != nil || cmd.Root().PersistentFlags().Lookup(key) != nil
}

// fileValue is a value in the file, as it is set: one text, or several.
type fileValue struct {
	values []string
	line   int
	column int
}

// configFile is what a configuration file says, by section and key.
type configFile struct {
	path     string
	sections map[string]map[string]fileValue
}

// settings are the values for one command, by flag.
func (f *configFile) settings(cmd *cobra.Command) map[string]any {
	values := make(map[string]any)
	f.each(cmd, func(key string, v fileValue) { values[key] = v.values })
	return values
}

// place is where the value of a flag stands.
func (f *configFile) place(cmd *cobra.Command, key string) (place string) {
	f.each(cmd, func(k string, v fileValue) {
		if k == key {
			place = fmt.Sprintf("%s:%d", f.path, v.line)
		}
	})
	return place
}

// each visits what is for a command: first what stands on top, then its section.
func (f *configFile) each(cmd *cobra.Command, visit func(key string, v fileValue)) {
	sections := []string{sectionTop}
	if own, has := cmd.Annotations[readsAnnotation]; has {
		sections = append(sections, own)
	}
	for _, section := range sections {
		for key, v := range f.sections[section] {
			if cmd.Flags().Lookup(key) != nil && reads(cmd, key) {
				visit(key, v)
			}
		}
	}
}

// configError is something wrong with a file.
type configError struct {
	path         string
	line, column int // zero where they are not known
	text         string
}

func (e configError) Error() string {
	if e.line == 0 {
		return e.path + ": " + e.text
	}
	return fmt.Sprintf("%s:%d:%d: %s", e.path, e.line, e.column, e.text)
}

// configErrors are all that is wrong with a file.
type configErrors []configError

func (e configErrors) Error() string {
	lines := make([]string, len(e))
	for i, one := range e {
		lines[i] = one.Error()
	}
	return strings.Join(lines, "\n")
}

// readConfigFile reads a file and checks its form and keys, not the values. What is
// wrong with it is configErrors.
func readConfigFile(path string, known settingsOf) (*configFile, error) {
	in, err := os.Open(path) //nolint:gosec // the user names the file
	if err != nil {
		return nil, usagef("--config (%s): %w", envName("config"), err)
	}
	defer func() { _ = in.Close() }() // only read
	text, err := io.ReadAll(io.LimitReader(in, maxConfig+1))
	if err != nil {
		return nil, usagef("--config (%s): %w", envName("config"), err)
	}
	if len(text) > maxConfig {
		return nil, usagef("%s: is longer than %d bytes", path, maxConfig)
	}
	f, bad := parseConfig(path, text, known)
	if len(bad) > 0 {
		return nil, usagef("%w", bad)
	}
	return f, nil
}

func parseConfig(path string, text []byte, known settingsOf) (*configFile, configErrors) {
	p := &configParser{known: known, file: &configFile{path: path, sections: make(map[string]map[string]fileValue)}}
	dec := yaml.NewDecoder(bytes.NewReader(text))
	var doc, more yaml.Node
	err := dec.Decode(&doc)
	switch {
	case errors.Is(err, io.EOF):
		return p.file, nil // nothing is set
	case err != nil:
		return nil, configErrors{{path: path, text: err.Error()}}
	}
	if !errors.Is(dec.Decode(&more), io.EOF) {
		return nil, configErrors{{path: path, text: "it has more than one document"}}
	}
	p.section(sectionTop, doc.Content[0])
	return p.file, p.errs
}

type configParser struct {
	known settingsOf
	file  *configFile
	errs  configErrors
}

func (p *configParser) fail(n *yaml.Node, format string, args ...any) {
	p.errs = append(p.errs, configError{p.file.path, n.Line, n.Column, fmt.Sprintf(format, args...)})
}

func (p *configParser) section(name string, n *yaml.Node) {
	if n = resolved(n); n.ShortTag() == "!!null" {
		return
	}
	if n.Kind != yaml.MappingNode {
		p.fail(n, "want keys and values, such as addr: 127.0.0.1:7420")
		return
	}
	found := make(map[string]fileValue)
	p.file.sections[name] = found
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if _, isSection := p.known[key.Value]; isSection && name == sectionTop && key.Value != sectionTop {
			p.section(key.Value, value)
			continue
		}
		flag := p.known[name][key.Value]
		if flag == nil {
			p.unknown(name, key)
			continue
		}
		if before, twice := found[key.Value]; twice {
			p.fail(key, "%s is set twice, first on line %d", key.Value, before.line)
			continue
		}
		if values, ok := p.values(flag, resolved(value)); ok {
			found[key.Value] = fileValue{values, key.Line, key.Column}
		}
	}
}

func (p *configParser) unknown(section string, key *yaml.Node) {
	names := make(map[string]bool)
	for name := range p.known[section] {
		names[name] = true
	}
	if section == sectionTop {
		names[sectionServe], names[sectionWorker] = true, true
	}
	var near []string
	// Who knows the variables writes nats_listen.
	if dashed := strings.ReplaceAll(strings.ToLower(key.Value), "_", "-"); names[dashed] {
		near = []string{dashed}
	} else if found := nearest(key.Value, names); found != "" {
		near = []string{found}
	}
	where := ""
	if section != sectionTop {
		where = " in section " + section
	}
	p.fail(key, "unknown key %q%s%s", clip(key.Value, 64), where, didYouMean("", near))
}

// values are what the flag is set to, one after another.
func (p *configParser) values(flag *pflag.Flag, n *yaml.Node) ([]string, bool) {
	many := slices.Contains([]string{"stringSlice", "stringArray"}, flag.Value.Type())
	pairs := slices.Contains([]string{"priority=n", "stringArray"}, flag.Value.Type())
	switch {
	case n.Kind == yaml.ScalarNode && n.ShortTag() != "!!null":
		return []string{n.Value}, true
	case n.Kind == yaml.SequenceNode && many:
		return p.scalars(flag, n, n.Content)
	case n.Kind == yaml.MappingNode && pairs:
		all, ok := p.scalars(flag, n, n.Content)
		var values []string
		for i := 0; ok && i+1 < len(all); i += 2 {
			values = append(values, all[i]+"="+all[i+1])
		}
		return values, ok
	case n.Kind == yaml.ScalarNode:
		p.fail(n, "%s has no value; leave it out for the default", flag.Name)
	case many:
		p.fail(n, "%s takes one value or a list of them", flag.Name)
	case pairs:
		p.fail(n, "%s takes names with values, such as low: 2", flag.Name)
	default:
		p.fail(n, "%s takes one value", flag.Name)
	}
	return nil, false
}

func (p *configParser) scalars(flag *pflag.Flag, n *yaml.Node, items []*yaml.Node) ([]string, bool) {
	values := make([]string, len(items))
	for i, item := range items {
		if item = resolved(item); item.Kind != yaml.ScalarNode || item.ShortTag() == "!!null" {
			p.fail(item, "%s: want one text or number", flag.Name)
			return nil, false
		}
		values[i] = item.Value
	}
	if len(values) == 0 {
		p.fail(n, "%s has no value; leave it out for the default", flag.Name)
	}
	return values, len(values) > 0
}

// resolved is what an alias stands for. A value that contains itself is no YAML.
func resolved(n *yaml.Node) *yaml.Node {
	for n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	return n
}
