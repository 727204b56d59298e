package e2e_test

import (
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/peltonq/pelton/chaos/check"
)

var (
	aTest     = regexp.MustCompile(`\b([a-z][a-z0-9]*\.Test[A-Z]\w*)(\*?)`)
	aTestFunc = regexp.MustCompile(`(?m)^func (Test[A-Z]\w*)\(`)
	someRules = regexp.MustCompile("`chaos: ([a-z, -]+)`")
	aPromise  = regexp.MustCompile(`(?m)^\| \*\*(G\d+(?:, G\d+)*)\*\*.*\|([^|\n]*)\|$`)
)

// testFuncs are all tests of the repository as package.Test.
func testFuncs(t *testing.T) map[string]bool {
	t.Helper()
	all := make(map[string]bool)
	err := filepath.WalkDir("..", func(file string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasSuffix(file, "_test.go") {
			return err
		}
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		pkg := filepath.Base(filepath.Dir(file))
		if filepath.Dir(file) == ".." {
			pkg = "pelton"
		}
		for _, m := range aTestFunc.FindAllSubmatch(text, -1) {
			all[pkg+"."+string(m[1])] = true
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// Each promise names a test that is there, and documents name no other ones.
func TestGuaranteesHaveTests(t *testing.T) {
	t.Parallel()
	known := testFuncs(t)
	all := documents(t, "..")
	for name, text := range all {
		for _, m := range aTest.FindAllStringSubmatch(text, -1) {
			some := m[2] == "*" && slices.ContainsFunc(slices.Collect(maps.Keys(known)), func(test string) bool { return strings.HasPrefix(test, m[1]) })
			if !known[m[1]] && !some {
				t.Errorf("%s names %s, which is not there", name, m[0])
			}
		}
		for _, m := range someRules.FindAllStringSubmatch(text, -1) {
			for rule := range strings.SplitSeq(m[1], ", ") {
				if !slices.Contains(check.Names(), rule) {
					t.Errorf("%s names the rule %s, which chaos/check does not have", name, rule)
				}
			}
		}
	}
	guarantees := all["docs/guarantees.md"]
	promised := make(map[string]bool)
	for _, m := range aPromise.FindAllStringSubmatch(guarantees, -1) {
		if !aTest.MatchString(m[2]) {
			t.Errorf("%s names no test: %s", m[1], m[0])
		}
		for g := range strings.SplitSeq(m[1], ", ") {
			promised[g] = true
		}
	}
	for n := range 16 {
		if g := fmt.Sprintf("G%d", n+1); !promised[g] {
			t.Errorf("docs/guarantees.md does not state %s", g)
		}
	}
	if rules := fmt.Sprintf("%d rules", len(check.Names())); !strings.Contains(guarantees, rules) {
		t.Errorf("docs/guarantees.md does not say that the checker has %s", rules)
	}
}

// What docs/architecture.md says of packages and files is so.
func TestArchitectureNamesWhatIsThere(t *testing.T) {
	t.Parallel()
	text := documents(t, "../docs")["architecture.md"]
	list := exec.Command("go", "list", "./...")
	list.Dir = ".."
	out, err := list.Output()
	if err != nil {
		t.Fatal(err)
	}
	for pkg := range strings.FieldsSeq(string(out)) {
		name := strings.TrimPrefix(strings.TrimPrefix(pkg, "github.com/peltonq/pelton"), "/")
		row := name // of the package, or of one that it is inside
		for row != "." && row != "" && !strings.Contains(text, "`"+row+"`") {
			row = path.Dir(row)
		}
		if name != "" && (row == "." || row == "") {
			t.Errorf("docs/architecture.md has no row for package %s", name)
		}
	}
	for _, m := range regexp.MustCompile("`((?:[a-z0-9]+/)*[a-z0-9_]+\\.go)`").FindAllStringSubmatch(text, -1) {
		found := false
		for _, folder := range []string{"", "worker", "scheduler", "internal/broker", "internal/cli"} {
			_, err := os.Stat(filepath.Join("..", folder, m[1]))
			found = found || err == nil
		}
		if !found {
			t.Errorf("docs/architecture.md names %s, which is not there", m[1])
		}
	}
}

// The streams and buckets of docs/architecture.md are those that a server makes.
func TestArchitectureNamesWhatTheBrokerHolds(t *testing.T) {
	t.Parallel()
	text := documents(t, "../docs")["architecture.md"]
	named := regexp.MustCompile(`pelton_[A-Z]+(?:_0)?\b`).FindAllString(text, -1)
	slices.Sort(named)
	named = slices.Compact(named)

	s := serve(t, "--addr", "127.0.0.1:0", "--data", filepath.Join(t.TempDir(), "data"), "--nats-listen", "127.0.0.1:0", "--demo")
	js := s.jetStream(t)
	var there []string
	names := js.StreamNames(t.Context())
	for name := range names.Name() {
		there = append(there, strings.TrimPrefix(name, "KV_"))
	}
	if err := names.Err(); err != nil {
		t.Fatal(err)
	}
	slices.Sort(there)
	if !slices.Equal(named, there) {
		t.Errorf("docs/architecture.md names %q, the broker holds %q", named, there)
	}
}
