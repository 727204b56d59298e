package e2e_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// Everything that the tutorial says to type and to write works, in its order, and
// prints what it says.
func TestTutorial(t *testing.T) {
	t.Parallel()
	if raceEnabled {
		t.Skip("it builds binaries of its own, without the race detector")
	}
	dir := t.TempDir()
	copyTree(t, "..", filepath.Join(dir, "pelton"))
	all := document(t, "../docs/tutorial.md")
	r := newReader(t, dir, "7420", "4222")
	if err := r.read(t.Context(), all); err != nil {
		t.Fatal("docs/tutorial.md: ", err)
	}
	report(t, r, all, 1)
}

// The Python client works, with the standard library alone, and so do handlers in
// Python.
func TestOtherLanguages(t *testing.T) {
	t.Parallel()
	readPage(t, "../docs/use-from-other-languages.md", 0)
}

// The commands of the page on deployment work, and its units are ones that systemd
// takes, where there is one to ask. TestNginx is for the rest.
func TestDeployPage(t *testing.T) {
	t.Parallel()
	readPage(t, "../docs/deploy.md", 1)
	for _, s := range document(t, "../docs/deploy.md") {
		var probes struct {
			Containers []struct{ ReadinessProbe, LivenessProbe map[string]any }
		}
		if s.lang == "yaml" && (yaml.Unmarshal([]byte(s.text), &probes) != nil || len(probes.Containers) != 1) {
			t.Errorf("line %d is no YAML with a container:\n%s", s.line, s.text)
		}
	}
}

// Versions can be replaced under load as the page says: here by themselves.
func TestUpgradePage(t *testing.T) {
	t.Parallel()
	readPage(t, "../docs/upgrade.md", 0)
}

// Go code of the pages on migration is that of bench/migration, whose tests run;
// Python code is run here.
func TestMigrationPages(t *testing.T) {
	t.Parallel()
	readPage(t, "../docs/migrate-from-asynq.md", 0)
	readPage(t, "../docs/migrate-from-celery.md", 1)
}

// readPage does what a page says, whose reader has installed pelton.
func readPage(t *testing.T, path string, mostSkipped int) {
	t.Helper()
	pelton, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	all := document(t, path)
	r := newReader(t, t.TempDir(), "7420", "4222")
	r.env = append(r.env, "PATH="+filepath.Dir(pelton)+string(os.PathListSeparator)+os.Getenv("PATH"))
	if err := r.read(t.Context(), all); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	report(t, r, all, mostSkipped)
}

// The code of the page on workers is that of examples/, whose tests run.
func TestWorkerPage(t *testing.T) {
	t.Parallel()
	readPage(t, "../docs/write-and-test-a-worker.md", 0)
}

// document reads the steps of a Markdown file.
func document(t *testing.T, path string) []step {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	all, err := steps(string(text))
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return all
}

// report lists the blocks that were not run, of which there may be so many.
func report(t *testing.T, r *reader, all []step, most int) {
	t.Helper()
	for _, s := range r.skipped {
		t.Logf("line %d is not run: %s", s.line, s.arg)
	}
	ran := 0
	for _, s := range all {
		if s.verb != "skip" {
			ran++
		}
	}
	t.Logf("%d steps were done; %s", ran, strings.Join(r.slow, ", "))
	if len(r.skipped) > most {
		t.Errorf("%d blocks are not run, at most %d may be", len(r.skipped), most)
	}
}

// copyTree is what git would clone, without the programs that were built.
func copyTree(t *testing.T, from, to string) {
	t.Helper()
	err := filepath.WalkDir(from, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(from, path)
		switch {
		case err != nil:
			return err
		case entry.IsDir() && (name == ".git" || name == "bin" || strings.HasPrefix(name, "pelton-data")):
			return filepath.SkipDir
		case entry.IsDir():
			return os.MkdirAll(filepath.Join(to, name), 0o755)
		case !entry.Type().IsRegular():
			return nil // .git of a worktree is a file, and is not needed either
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, name), content, info.Mode().Perm())
	})
	if err != nil {
		t.Fatal(err)
	}
}
