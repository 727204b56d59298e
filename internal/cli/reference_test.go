package cli

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

var update = flag.Bool("update", false, "write docs/reference anew")

const regenerate = "go test ./internal/cli -run TestReference -update"

// TestReference holds docs/reference against the commands; -update writes it.
func TestReference(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{"cli.md": cliReference(), "configuration.md": configReference()} {
		path := filepath.Join("../../docs/reference", name)
		if *update {
			if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		got, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, string(got)); diff != "" {
			t.Errorf("docs/reference/%s is out of date: %s\n%s", name, regenerate, diff)
		}
	}
}

// The example that the help and the reference show is a right file.
func TestExampleConfig(t *testing.T) {
	t.Parallel()
	_, text, _ := strings.Cut(configReference(), "```yaml\n")
	text, _, found := strings.Cut(text, "```")
	file, bad := parseConfig("example", []byte(text), knownSettings((&app{}).root()))
	if !found || len(bad) > 0 || len(file.sections[sectionServe]) == 0 || len(file.sections[sectionWorker]) == 0 {
		t.Errorf("%v\n%s", bad, text)
	}
}

func cliReference() string {
	var b strings.Builder
	root := (&app{}).root()
	fmt.Fprintf(&b, "# The command line\n\n<!-- Made by %s -->\n\n```\n%s\n```\n\n", regenerate, root.Long)
	b.WriteString("Flags of every command:\n\n")
	flagTable(&b, flagsOf(root.PersistentFlags(), nil))
	b.WriteString("\nFlags of every command that calls the API:\n\n")
	flagTable(&b, slices.DeleteFunc(slices.Collect(maps.Values(clientSettings())), func(f *pflag.Flag) bool { return f.Name == "output" }))
	b.WriteString("\n`-o`, `--output` says how data are printed on stdout, where a command has them: `table`, `json` or `jsonl`. Everything else goes to stderr.\n")
	all := verbs(root)
	for _, path := range slices.Sorted(maps.Keys(all)) {
		verb(&b, all[path])
	}
	return b.String()
}

// verb is a section of the reference.
func verb(b *strings.Builder, cmd *cobra.Command) {
	if strings.HasPrefix(cmd.CommandPath(), "pelton completion ") {
		// Its text is cobra's, and long.
		fmt.Fprintf(b, "\n## %s\n\n%s. `%s --help` says how to load it.\n", cmd.CommandPath(), strings.TrimSuffix(cmd.Short, "."), cmd.CommandPath())
		return
	}
	fmt.Fprintf(b, "\n## %s\n\n%s.\n\n```\n%s\n```\n", cmd.CommandPath(), cmd.Short, cmd.UseLine())
	if cmd.Long != "" {
		fmt.Fprintf(b, "\n%s\n", escapeMarkdown(cmd.Long))
	}
	if cmd.Example != "" {
		fmt.Fprintf(b, "\n```sh\n%s\n```\n", dedent(cmd.Example))
	}
	if strings.HasPrefix(cmd.CommandPath(), "pelton config print ") {
		b.WriteString("\nFlags are those of the command.\n")
		return
	}
	if own := flagsOf(cmd.LocalNonPersistentFlags(), clientSettings()); len(own) > 0 {
		b.WriteString("\n")
		flagTable(b, own)
	}
}

// flagsOf are a command's flags, without those that a list at the top has.
func flagsOf(flags *pflag.FlagSet, shared map[string]*pflag.Flag) (own []*pflag.Flag) {
	flags.VisitAll(func(f *pflag.Flag) {
		if isSetting(f) && !f.Hidden && (shared[f.Name] == nil || flags.Lookup("url") == nil) {
			own = append(own, f)
		}
	})
	return own
}

func flagTable(b *strings.Builder, flags []*pflag.Flag) {
	slices.SortFunc(flags, func(x, y *pflag.Flag) int { return strings.Compare(x.Name, y.Name) })
	b.WriteString("| flag | variable | default | |\n|---|---|---|---|\n")
	for _, f := range flags {
		kind, usage := pflag.UnquoteUsage(f)
		name := "--" + f.Name
		if f.Shorthand != "" {
			name = "-" + f.Shorthand + ", " + name
		}
		if kind != "" {
			name += " " + kind
		}
		fmt.Fprintf(b, "| `%s` | `%s` | %s | %s |\n", name, envName(f.Name), defaultOf(f), escapeMarkdown(usage))
	}
}

func defaultOf(f *pflag.Flag) string {
	value := f.DefValue
	if many, ok := f.Value.(pflag.SliceValue); ok {
		value = strings.Join(many.GetSlice(), ",")
	}
	if value == "" || value == "[]" {
		return ""
	}
	return "`" + value + "`"
}

func escapeMarkdown(text string) string {
	return strings.NewReplacer("|", `\|`, "<", `\<`, "*", `\*`).Replace(text)
}

func dedent(text string) string {
	return strings.TrimPrefix(strings.ReplaceAll(text, "\n  ", "\n"), "  ")
}

func configReference() string {
	var b strings.Builder
	root := (&app{}).root()
	config, _, err := root.Find([]string{"config"})
	if err != nil {
		return err.Error()
	}
	fmt.Fprintf(&b, "# Configuration\n\n<!-- Made by %s -->\n\n", regenerate)
	text, example, _ := strings.Cut(config.Long, ":\n\n  ")
	example, rest, _ := strings.Cut(example, "\n\n")
	fmt.Fprintf(&b, "%s:\n\n```yaml\n%s\n```\n\n%s\n\n", text, dedent("  "+example), rest)
	b.WriteString("Unknown keys are errors, with line, column and the nearest key that there is; a variable `PELTON_…` that nothing reads and that looks\n" +
		"like one that is read is a warning. A flag that may be repeated takes one value per line of its variable, and in the file a list, or names\n" +
		"with values. A secret and its `-file` exclude each other in the same place; from different ones the later of file, environment, flag counts.\n" +
		"`pelton config print` shows every setting with its origin, and `pelton config validate FILE` checks a file.\n\n")
	known := knownSettings(root)
	b.WriteString("| key | variable | read by | default | |\n|---|---|---|---|---|\n")
	for _, key := range slices.Sorted(maps.Keys(known[sectionTop])) {
		f := known[sectionTop][key]
		var readers []string
		for _, section := range []string{sectionServe, sectionWorker} {
			if known[section][key] != nil {
				readers = append(readers, section)
			}
		}
		switch {
		case root.PersistentFlags().Lookup(key) != nil:
			readers = []string{"all"}
		case clientSettings()[key] != nil:
			readers = append(readers, "clients")
		}
		_, usage := pflag.UnquoteUsage(f)
		fmt.Fprintf(&b, "| `%s` | `%s` | %s | %s | %s |\n", key, envName(key), strings.Join(readers, ", "), defaultOf(f), escapeMarkdown(usage))
	}
	return b.String()
}
