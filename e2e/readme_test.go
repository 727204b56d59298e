package e2e_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/peltonq/pelton"
)

// block is one fenced block of a Markdown file.
type block struct{ lang, text string }

func blocks(t *testing.T, path string) []block {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var all []block
	for _, m := range regexp.MustCompile("(?s)```(\\w+)\n(.*?)```").FindAllStringSubmatch(string(text), -1) {
		all = append(all, block{m[1], m[2]})
	}
	return all
}

// require skips a test whose program is missing, aloud, and fails it in CI.
func require(t *testing.T, program string) {
	t.Helper()
	if _, err := exec.LookPath(program); err == nil {
		return
	}
	if os.Getenv("PELTON_TEST_REQUIRE") == "1" {
		t.Fatalf("%s is not installed", program)
	}
	t.Skipf("%s is not installed", program)
}

// Every command of the README works as it stands there, with the address of a
// server that this test starts.
func TestReadme(t *testing.T) {
	t.Parallel()
	for _, program := range []string{"bash", "curl", "python3"} {
		require(t, program)
	}
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	all := blocks(t, "../README.md")
	python := all[slices.IndexFunc(all, func(b block) bool { return b.lang == "python" })]
	if lines := strings.Count(python.text, "\n"); lines != 5 {
		t.Errorf("the Python handler has %d lines, the text says five", lines)
	}
	if err := os.WriteFile(filepath.Join(dir, "wordcount.py"), []byte(python.text), 0o600); err != nil {
		t.Fatal(err)
	}
	// The commands start servers as "make run" and as "serve --exec" do.
	serveExec := exec.Command(path, "serve", "--demo", "--exec", "text.count=python3 wordcount.py", "--addr", "127.0.0.1:0", "--log-format", "json")
	serveExec.Dir = dir
	p := launch(t, serveExec, "serve --exec")
	address := p.line("ready")["addr"].(string)

	var id string
	commands := 0
	for _, b := range all {
		if b.lang != "sh" {
			continue
		}
		var runnable []string
		for line := range strings.Lines(b.text) {
			if !strings.HasPrefix(line, "make ") && !strings.Contains(line, "pelton serve ") {
				runnable = append(runnable, line)
			}
		}
		if len(runnable) == 0 {
			continue
		}
		script := strings.ReplaceAll(strings.Join(runnable, ""), "localhost:7420", address)
		script = strings.ReplaceAll(script, "bin/pelton", path)
		script = regexp.MustCompile(`/tasks/[0-9a-f-]{36} `).ReplaceAllString(script, "/tasks/"+id+" ")
		cmd := exec.Command("bash", "-euo", "pipefail", "-c", script)
		cmd.Dir, cmd.Env = dir, append(os.Environ(), "PELTON_URL=http://"+address)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("%s\n%v\n%s", script, err, out)
			continue
		}
		commands++
		var task pelton.Task
		if json.Unmarshal(out, &task) == nil && !task.ID.IsZero() {
			id = task.ID.String()
		} else if strings.HasPrefix(script, "curl") {
			t.Errorf("%s\nprinted no task: %s", script, out)
		}
		if strings.Contains(script, "text.count") && !strings.Contains(string(out), `{"words": 6}`) {
			t.Errorf("%s\nprinted no result: %s", script, out)
		}
	}
	if commands < 4 {
		t.Errorf("only %d blocks of commands ran", commands)
	}
	p.kill(syscall.SIGTERM)
}

// The worker in 20 lines compiles as it stands.
func TestReadmeWorkerCompiles(t *testing.T) {
	t.Parallel()
	for _, b := range blocks(t, "../README.md") {
		if b.lang != "go" {
			continue
		}
		file := filepath.Join(t.TempDir(), "main.go")
		if err := os.WriteFile(file, []byte(b.text), 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command("go", "vet", file).CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	t.Error("the README has no Go program")
}
