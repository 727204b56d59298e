package e2e_test

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// A document with one mistake is told, with the line of it. Without this, a test of
// documents could pass by doing nothing.
func TestBrokenDocuments(t *testing.T) {
	t.Parallel()
	const good = "Text.\n\n```sh\necho a 01a22386-76a7-8128-8000-000000000002; cd /\nx='y z'\n```\n\n```text\na 01a2ffff-76a7-8128-8000-00000000000f\n```\n\n" +
		"```sh\npwd; echo \"$x\"\n```\n\n```text\n/\n…\n```\n<!-- check: grep -q 'y z' <<< \"$OUTPUT\" -->\n"
	for name, test := range map[string]struct{ text, want string }{
		"good":                    {good, ""},
		"command that fails":      {good + "```sh\nfalse\n```\n", "line 21: false"},
		"pipe that fails":         {"```sh\nfalse | cat\n```\n", "line 1"},
		"unset variable":          {"```sh\necho $nowhere\n```\n", "line 1"},
		"another status":          {"<!-- doc: exit=5 -->\n```sh\nexit 4\n```\n", "line 2"},
		"success, not a status":   {"<!-- doc: exit=5 -->\n```sh\ntrue\n```\n", "line 2"},
		"other output":            {"```sh\necho a\n```\n```text\nb\n```\n", "line 4: the document shows"},
		"less output":             {"```sh\necho a\n```\n```text\na\nb\n```\n", "line 4"},
		"more output":             {"```sh\necho a; echo b\n```\n```text\na\n```\n", "line 4"},
		"more output at the end":  {"```sh\necho a; echo b\n```\n```text\n…\na\n```\n", "line 4"},
		"part of a line":          {"```sh\necho ab\n```\n```text\na\n```\n", "line 4"},
		"check that fails":        {good + "<!-- check: grep -q q <<< \"$OUTPUT\" -->\n", "line 21"},
		"file and program":        {"<!-- doc: file=a/b.sh -->\n```bash\nexit 3\n```\n```sh\nbash a/b.sh\n```\n", "line 5"},
		"not in its source":       {"<!-- doc: from=go.mod -->\n```go\nfunc a() {}\n```\n", "line 2: the block does not stand so in go.mod"},
		"no such source":          {"<!-- doc: from=gone.go -->\n```go\nfunc a() {}\n```\n", "line 2"},
		"terminal that ends":      {"<!-- doc: terminal=t -->\n```sh\necho a\n```\n```text\nb\n```\n", "it has ended with"},
		"terminal without a sign": {"<!-- doc: terminal=t -->\n```sh\necho a\n```\n", "line 2: nothing says"},
		"nothing to stop":         {"<!-- stop: t -->\n", "line 1: there is no terminal t"},
		"language":                {"```go\npackage a\n```\n", "line 1: nothing says"},
		"no language":             {"```\necho\n```\n", "line 1: nothing says"},
		"output of nothing":       {"```text\na\n```\n", "line 1: nothing says"},
		"unknown comment":         {"<!-- doc: skip -->\n```sh\n```\n", "line 2: unknown comment"},
		"no reason":               {"<!-- doc: not-run -->\n```sh\nfalse\n```\n", "line 2: unknown comment"},
		"comment without block":   {"<!-- doc: exit=1 -->\nText.\n\n```sh\ntrue\n```\n", "line 2: no block"},
		"no end":                  {"```sh\ntrue\n", "line 1: a block without end"},
		"indented":                {"- a\n\n  ```sh\n  false\n  ```\n", "line 3: a block that is indented"},
		"file elsewhere":          {"<!-- doc: file=../x -->\n```go\n```\n", "line 2"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			all, err := steps(test.text)
			if err == nil {
				err = newReader(t, t.TempDir()).read(t.Context(), all)
			}
			if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
				t.Errorf("%v, want %q", err, test.want)
			}
		})
	}
}

// What runs in a terminal is there while the commands after it run, and gone after
// Ctrl-C, with all its children.
func TestTerminals(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	all, err := steps("<!-- doc: terminal=t -->\n```sh\nbash -c 'echo $$ > child; echo here; exec sleep 1000'; true\n```\n```text\nhere\n```\n" +
		"```sh\nkill -0 $(cat child)\n```\n<!-- stop: t -->\n")
	if err != nil {
		t.Fatal(err)
	}
	r := newReader(t, dir)
	if err := r.read(t.Context(), all); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(-r.terminals["t"].cmd.Process.Pid, 0); err == nil {
		t.Error("something of the terminal still runs")
	}
	if _, err := os.Stat(filepath.Join(dir, "child")); err != nil {
		t.Error(err)
	}
}
