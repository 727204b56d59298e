package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// tinySuite is one benchmark whose runs take a millisecond or less: among so many of them
// some are not interrupted, whatever else the machine does.
func tinySuite() []entry { return []entry{{"p", "Benchmark.*", 100, 20}} }

// spin is a package whose benchmark does work in proportion to turns and allocates so
// many times.
func spin(turns, allocations int) string {
	return fmt.Sprintf(`package p

import "testing"

var sum uint64
var kept [%[2]d + 1]*[4]uint64

func BenchmarkSpin(b *testing.B) { b.Run("a b", spin) }

func spin(b *testing.B) {
	for b.Loop() {
		x := uint64(b.N) | 1
		for range %[1]d {
			x ^= x << 13
			x ^= x >> 7
			x ^= x << 17
		}
		sum += x
		for i := range %[2]d {
			kept[i] = new([4]uint64)
		}
	}
}
`, turns, allocations)
}

// tiny is a new repository with one commit.
func tiny(t *testing.T) repository {
	t.Helper()
	r := repository(t.TempDir())
	for _, args := range [][]string{
		{"init", "--quiet", "--initial-branch=main"},
		{"config", "user.name", "a"},
		{"config", "user.email", "a@example.org"},
		{"config", "commit.gpgSign", "false"},
	} {
		mustGit(t, r, args...)
	}
	write(t, r, "go.mod", "module example.com/tiny\n\ngo 1.26\n")
	write(t, r, "p/p_test.go", spin(2000, 0))
	commit(t, r, "first")
	return r
}

func mustGit(t *testing.T, r repository, args ...string) string {
	t.Helper()
	out, err := r.git(t.Context(), args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func write(t *testing.T, r repository, name, text string) {
	t.Helper()
	name = filepath.Join(string(r), name)
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// commit gives the new commit's id.
func commit(t *testing.T, r repository, message string) string {
	t.Helper()
	mustGit(t, r, "add", "--all")
	mustGit(t, r, "commit", "--quiet", "--allow-empty", "-m", message)
	return mustGit(t, r, "rev-parse", "HEAD")
}

// run runs the gate and checks that it left no worktree behind.
func run(t *testing.T, r repository, change func(*options)) (string, error) {
	t.Helper()
	return runIn(t.Context(), t, r, change)
}

func runIn(ctx context.Context, t *testing.T, r repository, change func(*options)) (string, error) {
	t.Helper()
	o := options{dir: string(r), rounds: 8, within: 5 * time.Minute, suite: tinySuite()}
	if change != nil {
		change(&o)
	}
	var out bytes.Buffer
	err := gate(ctx, o, &out)
	if list := mustGit(t, r, "worktree", "list", "--porcelain"); strings.Count(list, "worktree ") != 1 {
		t.Errorf("worktrees are left:\n%s", list)
	}
	return out.String(), err
}

func TestGateLetsTheSamePass(t *testing.T) {
	t.Parallel()
	r := tiny(t)
	commit(t, r, "second")
	out, err := run(t, r, func(o *options) { o.all = true })
	if err != nil || !strings.Contains(out, "p.Spin/a_b") || strings.Contains(out, "REGRESSION") {
		t.Errorf("an empty commit: %v\n%s", err, out)
	}
	out, err = run(t, r, nil)
	if err != nil || !strings.Contains(out, "the same program in both: BenchmarkSpin of p") || strings.Contains(out, "p.Spin/a_b") {
		t.Errorf("the same programs, which need not run: %v\n%s", err, out)
	}
}

func TestGateFindsWhatIsSlower(t *testing.T) {
	t.Parallel()
	r := tiny(t)
	write(t, r, "p/p_test.go", spin(8000, 0))
	commit(t, r, "second")
	out, err := run(t, r, nil)
	if !errors.Is(err, errRegressed) || !strings.Contains(out, "REGRESSION: BenchmarkSpin/a_b of p: sec/op") {
		t.Errorf("four times the work: %v\n%s", err, out)
	}

	// The other way round it is an improvement.
	write(t, r, "p/p_test.go", spin(2000, 0))
	out, err = run(t, r, func(o *options) { o.base = "HEAD" })
	if err != nil {
		t.Errorf("a quarter of the work, not committed: %v\n%s", err, out)
	}
}

// shaky is a package whose benchmark needs turns, but shaken turns in the processes from
// the sixth to the ninth that run it, which are the second half of the first set after
// the one that tries it. The file counts processes.
func shaky(file string, turns, shaken int) string {
	return fmt.Sprintf(`package p

import (
	"os"
	"sync"
	"testing"
)

var sum uint64

var turns = sync.OnceValue(func() int {
	before, _ := os.ReadFile(%[1]q)
	if err := os.WriteFile(%[1]q, append(before, '.'), 0o600); err != nil {
		panic(err)
	}
	if n := len(before) + 1; n >= 6 && n <= 9 {
		return %[3]d
	}
	return %[2]d
})

func BenchmarkShaky(b *testing.B) {
	for b.Loop() {
		x := uint64(b.N) | 1
		for range turns() {
			x ^= x << 13
			x ^= x >> 7
			x ^= x << 17
		}
		sum += x
	}
}
`, file, turns, shaken)
}

// A base that differs from itself by 200 % hides that the tree is worse by less, at first. What is apart is so by far,
// as the machine may be shaky too.
func TestGateLooksLongerAtWhatTheNoiseHides(t *testing.T) {
	t.Parallel()
	r, counts := tiny(t), t.TempDir()
	write(t, r, "p/p_test.go", shaky(filepath.Join(counts, "base"), 2000, 6000))
	commit(t, r, "second")
	write(t, r, "p/p_test.go", shaky(filepath.Join(counts, "head"), 10000, 10000))
	commit(t, r, "third")
	out, err := run(t, r, nil)
	if !errors.Is(err, errRegressed) || strings.Count(out, "BenchmarkShaky of p alone:") != 2 {
		t.Errorf("want two longer looks and a regression: %v\n%s", err, out)
	}
	first, _, _ := strings.Cut(out, "alone:")
	if !strings.Contains(first, "p.Shaky") {
		t.Errorf("the first set is not printed:\n%s", out)
	}

	// What was in the first set only is none.
	write(t, r, "p/p_test.go", shaky(filepath.Join(counts, "base2"), 2000, 2000))
	commit(t, r, "fourth")
	write(t, r, "p/p_test.go", strings.Replace(shaky(filepath.Join(counts, "head2"), 2000, 6000), "n >= 6", "n >= 2", 1))
	commit(t, r, "fifth")
	out, err = run(t, r, nil)
	if err != nil || strings.Count(out, "BenchmarkShaky of p alone:") != 1 || !strings.Contains(out, "not confirmed: BenchmarkShaky of p") {
		t.Errorf("want one longer look that does not confirm: %v\n%s", err, out)
	}
}

func TestGateAcceptsWhatIsMeant(t *testing.T) {
	t.Parallel()
	r := tiny(t)
	mustGit(t, r, "switch", "--quiet", "-c", "branch")
	write(t, r, "p/p_test.go", spin(2000, 5))
	commit(t, r, "second\n\nIt keeps more.\n\nBenchmark-Accepts: BenchmarkSpin (it keeps five more)")
	commit(t, r, "third")
	out, err := run(t, r, nil)
	if err != nil || !strings.Contains(out, "accepted (it keeps five more): BenchmarkSpin/a_b of p:") || !strings.Contains(out, "allocs/op 0.000 -> 5.000") {
		t.Errorf("a commit of the branch accepts it: %v\n%s", err, out)
	}
	base := mustGit(t, r, "rev-parse", "branch~1")
	write(t, r, "p/p_test.go", spin(2000, 9))
	commit(t, r, "fourth\n\nBenchmark-Accepts: BenchmarkOther (not this one)")
	if out, err := run(t, r, func(o *options) { o.base = base }); !errors.Is(err, errRegressed) {
		t.Errorf("what an older commit accepted, and another benchmark: %v\n%s", err, out)
	}
	commit(t, r, "fifth\n\nBenchmark-Accepts: BenchmarkSpin")
	if out, err := run(t, r, nil); err == nil || errors.Is(err, errRegressed) || errors.Is(err, errNothing) {
		t.Errorf("a trailer without a reason: %v\n%s", err, out)
	}
}

func TestGateHasNothingToCompare(t *testing.T) {
	t.Parallel()
	first := tiny(t)
	if _, err := run(t, first, nil); !errors.Is(err, errNothing) {
		t.Errorf("the first commit: %v", err)
	}
	commit(t, first, "second")
	shallow := repository(t.TempDir())
	mustGit(t, shallow, "clone", "--quiet", "--depth=1", "file://"+string(first), ".")
	if _, err := run(t, shallow, nil); !errors.Is(err, errNothing) {
		t.Errorf("a shallow clone: %v", err)
	}
	if _, err := run(t, first, func(o *options) { o.suite = []entry{{"p", "BenchmarkOther", 1, 1}, {"q", "Benchmark.*", 1, 1}} }); !errors.Is(err, errNothing) {
		t.Errorf("no benchmark of the suite: %v", err)
	}
	if _, err := run(t, first, func(o *options) { o.base = "nonsense" }); err == nil || errors.Is(err, errNothing) {
		t.Errorf("a base that is not there: %v", err)
	}
	if err := gate(t.Context(), options{dir: t.TempDir()}, t.Output()); !errors.Is(err, errNothing) {
		t.Errorf("no repository: %v", err)
	}
	write(t, first, "p/p_test.go", spin(100, 0))
	if out, err := run(t, first, func(o *options) { o.within = time.Nanosecond }); !errors.Is(err, errNothing) {
		t.Errorf("no time: %v\n%s", err, out)
	}

	broken := tiny(t)
	write(t, broken, "p/p_test.go", "not Go")
	commit(t, broken, "second")
	if _, err := run(t, broken, nil); err == nil || errors.Is(err, errNothing) {
		t.Errorf("a tree that does not build: %v", err)
	}
	write(t, broken, "p/p_test.go", spin(100, 0))
	commit(t, broken, "third")
	if _, err := run(t, broken, nil); !errors.Is(err, errNothing) {
		t.Errorf("a base that does not build: %v", err)
	}
}

func TestGateEndsWithItsContext(t *testing.T) {
	t.Parallel()
	r := tiny(t)
	commit(t, r, "second")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	// The benchmark says that it runs, and would go on for an hour.
	started := filepath.Join(t.TempDir(), "started")
	if err := os.Mkdir(started, 0o700); err != nil {
		t.Fatal(err)
	}
	text := strings.Replace(spin(2000, 0), "for b.Loop() {", `os.WriteFile("`+filepath.Join(started, "now")+`", nil, 0o600)`+"\nselect {}\nfor b.Loop() {", 1)
	write(t, r, "p/p_test.go", strings.Replace(text, `import "testing"`, "import (\n\"os\"\n\"testing\"\n)", 1))
	ended := make(chan error, 1)
	go func() {
		_, err := runIn(ctx, t, r, nil)
		ended <- err
	}()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for _, err := os.Stat(filepath.Join(started, "now")); err != nil; _, err = os.Stat(filepath.Join(started, "now")) {
		select {
		case <-tick.C:
		case err := <-ended:
			t.Fatalf("ended before it ran: %v", err)
		}
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("after cancel: %v", err)
	}
}

// What is compared with what.
func TestBase(t *testing.T) {
	t.Parallel()
	r := tiny(t)
	first := mustGit(t, r, "rev-parse", "HEAD")
	second := commit(t, r, "second")
	base := func(want, what string) {
		t.Helper()
		if got, err := r.base(t.Context(), ""); err != nil || got != want {
			t.Errorf("%s: base %s, %v, want %s", what, got, err, want)
		}
	}
	base(first, "on main")
	mustGit(t, r, "switch", "--quiet", "-c", "branch")
	base(first, "at the end of main")
	commit(t, r, "third")
	third := commit(t, r, "fourth")
	base(second, "on a branch")
	mustGit(t, r, "update-ref", "refs/remotes/origin/main", first)
	base(first, "origin's main comes before the local one")
	mustGit(t, r, "switch", "--quiet", "main")
	mustGit(t, r, "merge", "--quiet", "--no-ff", "-m", "merge", third)
	mustGit(t, r, "update-ref", "refs/remotes/origin/main", "main")
	base(second, "a merge, on main: its first parent")
}
