package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// scriptLine is a command line of a script in testdata/script.
type scriptLine struct {
	code int // that it expects
	args []string
}

// scriptLines are all command lines of pelton in the scripts.
func scriptLines(t *testing.T) []scriptLine {
	t.Helper()
	files, err := filepath.Glob("testdata/script/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	runs := regexp.MustCompile(`(?:^(exec|eventually|exits (\d+)) (?:\S+=\S* )*|^terminal '(?:\S+=\S* )*)pelton (.*)$`)
	serves := regexp.MustCompile(`^serve \S+(.*)$`)
	var lines []scriptLine
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			line = strings.TrimSpace(line)
			if strings.HasPrefix(line, "stop ") {
				t.Errorf("%s: %q ends the script there; 'shutdown' stops a server", file, line)
			}
			if found := serves.FindStringSubmatch(line); found != nil {
				lines = append(lines, scriptLine{0, append([]string{"serve"}, strings.Fields(found[1])...)})
			}
			if found := runs.FindStringSubmatch(line); found != nil {
				l := scriptLine{args: strings.Fields(strings.Trim(found[3], "'"))}
				_, _ = fmt.Sscan(found[2], &l.code) // nothing is 0
				lines = append(lines, l)
			}
		}
	}
	return lines
}

// verbs are all commands that do something, by their path without the program's name.
func verbs(root *cobra.Command) map[string]*cobra.Command {
	found := make(map[string]*cobra.Command)
	eachCommand(root, func(cmd *cobra.Command) {
		if !cmd.HasSubCommands() && !cmd.Hidden && cmd.Name() != "help" {
			found[strings.TrimPrefix(cmd.CommandPath(), root.Name()+" ")] = cmd
		}
	})
	return found
}

// Every verb has a script in which it succeeds, in every format of its output, and one
// in which it is used wrongly; and every exit code is met.
func TestEveryVerbHasAScript(t *testing.T) {
	t.Parallel()
	lines := scriptLines(t)
	all := verbs((&app{}).root())
	if len(all) < 30 {
		t.Fatalf("only %d verbs were found", len(all))
	}
	codes := make(map[int]bool)
	for _, l := range lines {
		codes[l.code] = true
	}
	for code := exitOK; code <= exitTaskGone; code++ {
		if !codes[code] {
			t.Errorf("no script meets exit code %d", code)
		}
	}
	for path, cmd := range all {
		words := strings.Fields(path)
		var succeeds, fails bool
		formats := make(map[string]bool)
		for _, l := range lines {
			if len(l.args) < len(words) || !slices.Equal(l.args[:len(words)], words) {
				continue
			}
			if l.code != exitOK {
				fails = true
				continue
			}
			succeeds = true
			format := formatTable
			for i, arg := range l.args {
				if (arg == "-o" || arg == "--output") && i+1 < len(l.args) {
					format = l.args[i+1]
				}
			}
			formats[format] = true
		}
		if !succeeds {
			t.Errorf("%s: no script in which it succeeds", path)
		}
		if !fails && len(words) > 0 && words[0] != "completion" {
			t.Errorf("%s: no script in which it fails", path)
		}
		if cmd.Flags().Lookup("output") == nil {
			continue
		}
		for _, format := range []string{formatTable, formatJSON, formatJSONL} {
			if !formats[format] {
				t.Errorf("%s: no script of -o %s", path, format)
			}
		}
	}
}
