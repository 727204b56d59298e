package command

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestDocumentedExample runs the program of docs/handlers-without-go.md.
func TestDocumentedExample(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("python3"); err != nil {
		t.Skip("SKIPPED: the documented example needs python3")
	}
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "handlers-without-go.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(page), "```python\n")
	program, _, closed := strings.Cut(rest, "```")
	if !found || !closed {
		t.Fatal("the page has no Python example")
	}
	script := filepath.Join(t.TempDir(), "word count.py")
	if err := os.WriteFile(script, []byte(program), 0o600); err != nil {
		t.Fatal(err)
	}
	_, argv, err := Parse(`text.count=python3 "` + script + `"`)
	if err != nil {
		t.Fatal(err)
	}
	h, err := New(Config{Argv: argv})
	if err != nil {
		t.Fatal(err)
	}
	if result, err := h.ServeTask(t.Context(), newTask(`{"text":"to be or not to be"}`)); err != nil || string(result) != `{"words": 6}` {
		t.Errorf("%s, %v", result, err)
	}
	const message = "python3 ended: exit status 1: no text given"
	if _, err := h.ServeTask(t.Context(), newTask(`{}`)); err == nil || err.Error() != message {
		t.Errorf("%v, want %s", err, message)
	}
}
