package e2e_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

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

// Every command and program of the README works as it stands there, in a clone of
// the repository, beginning with "make run".
func TestReadme(t *testing.T) {
	t.Parallel()
	if raceEnabled {
		t.Skip("it builds a binary of its own, without the race detector")
	}
	dir := filepath.Join(t.TempDir(), "pelton")
	copyTree(t, "..", dir)
	all := document(t, "../README.md")
	for _, s := range all {
		if lines := strings.Count(s.text, "\n"); s.lang == "python" && lines != 5 {
			t.Errorf("the Python handler has %d lines, the text says five", lines)
		}
	}
	r := newReader(t, dir, "7420")
	if err := r.read(t.Context(), all); err != nil {
		t.Fatal("README.md: ", err)
	}
	report(t, r, all, 2) // what is a matter of minutes, and what is a picture
}
