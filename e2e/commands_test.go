package e2e_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

var (
	aBlock   = regexp.MustCompile("(?ms)^```[a-z]*\n(.*?)^```$")
	aCommand = regexp.MustCompile(`^(?:\$ )?(?:bin/|\./)?(pelton .*)$`)
	trailing = regexp.MustCompile(`\s(#|\||<|>|&&?|;|·).*$`)
)

// commands are the lines of a document's blocks that call pelton, without what is
// piped in and out, and without those whose arguments are made by other commands.
func commands(text string) []string {
	var all []string
	for _, block := range aBlock.FindAllStringSubmatch(text, -1) {
		for line := range strings.Lines(strings.ReplaceAll(block[1], "\\\n", " ")) {
			m := aCommand.FindStringSubmatch(strings.TrimSpace(line))
			if m != nil && !strings.ContainsAny(m[1], "[$…`") {
				all = append(all, strings.TrimSpace(trailing.ReplaceAllString(m[1], "")))
			}
		}
	}
	return all
}

// wrongCommand says what is wrong with a command: pelton knows its words and flags, and
// takes the values of flags, or says so before it would show the help.
func wrongCommand(dir, command string) string {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-c", command+" --help")
	cmd.WaitDelay = time.Second // for what it started
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "PATH="+dir+string(os.PathListSeparator)+os.Getenv("PATH"))
	out, err := cmd.CombinedOutput()
	switch {
	case err != nil:
		return string(out)
	case strings.Contains(string(out), "Available Commands:") && strings.Count(command, " ") > 1:
		return "is no command, but a group of them"
	default:
		return ""
	}
}

// Every command that any document shows is one that pelton takes, also those that no
// test runs.
func TestCommandsOfDocuments(t *testing.T) {
	t.Parallel()
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for name, text := range documents(t, "..") {
		if strings.HasPrefix(name, "docs/reference/") {
			continue // made from the commands themselves
		}
		for _, command := range commands(text) {
			n++
			if wrong := wrongCommand(filepath.Dir(path), command); wrong != "" {
				t.Errorf("%s: %s\n%s", name, command, wrong)
			}
		}
	}
	if n < 50 {
		t.Errorf("only %d commands were found", n)
	}
}

func TestWrongCommandsAreNoticed(t *testing.T) {
	t.Parallel()
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	text := "```\n$ pelton task get ID   # a comment\npelton task enqueue a \\\n  '{\"b\":1}' --delay 1s < in\npelton queue list | wc\n```\npelton task gone\n"
	want := []string{"pelton task get ID", `pelton task enqueue a    '{"b":1}' --delay 1s`, "pelton queue list"}
	if got := commands(text); strings.Join(got, ";") != strings.Join(want, ";") {
		t.Errorf("commands %q, want %q", got, want)
	}
	for _, command := range want {
		if wrong := wrongCommand(filepath.Dir(path), command); wrong != "" {
			t.Errorf("%s: %s", command, wrong)
		}
	}
	for _, command := range []string{"pelton tsk get ID", "pelton task gone ID", "pelton task get --gone ID", "pelton task enqueue a --delay soon"} {
		if wrongCommand(filepath.Dir(path), command) == "" {
			t.Errorf("nothing is wrong with %s", command)
		}
	}
}
