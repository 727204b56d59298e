package floors

import (
	"fmt"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
)

const (
	module = "github.com/peltonq/pelton"
	root   = "../.." // of this package's folder, in which go test runs it
)

// source is one file of the module, or what stands for one in a test.
type source struct {
	pkg     string // its folder, "." for the root
	name    string
	imports []string
}

func TestImports(t *testing.T) {
	t.Parallel()
	files, err := sources(os.DirFS(root))
	if err != nil {
		t.Fatal(err)
	}
	// The walk found the code: a table compared with nothing holds.
	for _, pkg := range []string{".", "internal/floors", "internal/embed"} {
		if !slices.ContainsFunc(files, func(f source) bool { return f.pkg == pkg }) {
			t.Errorf("no file of %s was read", pkg)
		}
	}
	for _, violation := range violations(table, files) {
		t.Error(violation)
	}
}

// sources reads the imports of all Go files of the module, whatever their build
// constraints. Folders with a go.mod of their own are other modules.
func sources(module fs.FS) ([]source, error) {
	var files []source
	err := fs.WalkDir(module, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			if name != "." && skipped(module, name) {
				return fs.SkipDir
			}
			return nil
		}
		if path.Ext(name) != ".go" {
			return nil
		}
		text, err := fs.ReadFile(module, name)
		if err != nil {
			return err
		}
		imports, err := importsOf(name, text)
		if err != nil {
			return err
		}
		files = append(files, source{pkg: path.Dir(name), name: path.Base(name), imports: imports})
		return nil
	})
	return files, err
}

// skipped is what the go command passes over, too.
func skipped(module fs.FS, dir string) bool {
	base := path.Base(dir)
	if base == "testdata" || base == "vendor" || strings.HasPrefix(base, ".") || strings.HasPrefix(base, "_") {
		return true
	}
	_, err := fs.Stat(module, path.Join(dir, "go.mod"))
	return err == nil
}

func importsOf(name string, text []byte) ([]string, error) {
	file, err := parser.ParseFile(token.NewFileSet(), name, text, parser.ImportsOnly)
	if err != nil {
		return nil, fmt.Errorf("parse imports of %s: %w", name, err)
	}
	imports := make([]string, len(file.Imports))
	for i, spec := range file.Imports {
		if imports[i], err = strconv.Unquote(spec.Path.Value); err != nil {
			return nil, fmt.Errorf("parse imports of %s: %w", name, err)
		}
	}
	return imports, nil
}

// violations lists every import that the table does not allow, and once every
// package that it does not know.
func violations(table []rule, files []source) []string {
	var found []string
	for _, file := range files {
		i := slices.IndexFunc(table, func(r rule) bool { return r.pkg == file.pkg })
		if i < 0 {
			found = append(found, fmt.Sprintf("package %s is not in the table", file.pkg))
			continue
		}
		isTest := strings.HasSuffix(file.name, "_test.go")
		for _, imported := range file.imports {
			if !allowed(table[i], imported, isTest) {
				found = append(found, fmt.Sprintf("%s imports %s", path.Join(file.pkg, file.name), imported))
			}
		}
	}
	slices.Sort(found)
	return slices.Compact(found)
}

func allowed(r rule, imported string, isTest bool) bool {
	if inside, ok := inModule(imported); ok {
		if slices.Contains(r.module, inside) {
			return true
		}
		// A package's external tests import the package.
		return isTest && (inside == r.pkg || slices.Contains(r.tests, inside) || slices.Contains(testPackages, inside))
	}
	if first, _, _ := strings.Cut(imported, "/"); !strings.Contains(first, ".") {
		return true // the standard library
	}
	below := func(library string) bool { return imported == library || strings.HasPrefix(imported, library+"/") }
	return slices.ContainsFunc(r.libraries, below) || isTest && slices.ContainsFunc(testLibraries, below)
}

// inModule is the folder of a package of this module.
func inModule(imported string) (string, bool) {
	if imported == module {
		return ".", true
	}
	return strings.CutPrefix(imported, module+"/")
}

// The table is itself in order: rows point down, siblings do not know each
// other, and the heavy or telling libraries have one home.
func TestTable(t *testing.T) {
	t.Parallel()
	var above []string
	for _, r := range table {
		if slices.Contains(above, r.pkg) {
			t.Errorf("%s has two rows", r.pkg)
		}
		for _, imported := range r.module {
			if !slices.Contains(above, imported) {
				t.Errorf("%s may import %s, which is not below it", r.pkg, imported)
			}
			if slices.Contains(siblings, r.pkg) && slices.Contains(siblings, imported) {
				t.Errorf("%s may import its sibling %s", r.pkg, imported)
			}
		}
		above = append(above, r.pkg)
	}
	for library, want := range map[string][]string{
		natsServer:                         {"chaos/node", "internal/brokertest", "internal/embed", "peltontest"},
		"github.com/danielgtaylor/huma/v2": {"api"},
		"github.com/spf13/cobra":           {"internal/cli"},
	} {
		var homes []string
		for _, r := range table {
			if slices.Contains(r.libraries, library) {
				homes = append(homes, r.pkg)
			}
		}
		slices.Sort(homes)
		if diff := cmp.Diff(want, homes); diff != "" {
			t.Errorf("homes of %s: %s", library, diff)
		}
	}
}

// The check can fail: each of these imports is one that the table forbids.
func TestViolationsAreFound(t *testing.T) {
	t.Parallel()
	for _, file := range []source{
		{".", "task.go", []string{natsClient}},
		{".", "task.go", []string{module + "/internal/broker"}},
		{".", "task_test.go", []string{module + "/worker"}},
		{"producer", "client.go", []string{module + "/worker"}},
		{"worker", "worker.go", []string{module + "/producer"}},
		{"worker", "worker.go", []string{module + "/internal/brokertest"}},
		{"worker", "worker.go", []string{natsServer + "/server"}},
		{"internal/broker", "broker.go", []string{module + "/worker"}},
		{"internal/broker", "broker.go", []string{module + "/internal/embed"}},
		{"internal/embed", "server.go", []string{module}},
		{"api", "api.go", []string{natsClient + "/jetstream"}},
		{"api", "api.go", []string{module + "/producer"}},
		{"internal/cli", "serve.go", []string{"github.com/danielgtaylor/huma/v2"}},
		{"internal/cli", "serve.go", []string{module + "/peltontest"}},
		{"cmd/pelton", "main.go", []string{"github.com/spf13/cobra"}},
		{"cmd/pelton", "main.go", []string{module + "/api"}},
		{"worker", "worker.go", []string{"github.com/google/uuidx"}}, // no prefix of a name is the name
		{"worker", "worker.go", []string{"example.com/new"}},
		{"worker", "worker_test.go", []string{"example.com/new"}},
	} {
		want := []string{path.Join(file.pkg, file.name) + " imports " + file.imports[0]}
		if diff := cmp.Diff(want, violations(table, []source{file})); diff != "" {
			t.Error(diff)
		}
	}

	unknown := []source{{"internal/util", "a.go", nil}, {"internal/util", "b.go", []string{"fmt"}}}
	if diff := cmp.Diff([]string{"package internal/util is not in the table"}, violations(table, unknown)); diff != "" {
		t.Error(diff)
	}
}

func TestAllowedImportsPass(t *testing.T) {
	t.Parallel()
	got := violations(table, []source{
		{".", "id.go", []string{"fmt", "encoding/json", uuid}},
		{".", "id_test.go", []string{module, "pgregory.net/rapid", "github.com/google/go-cmp/cmp"}},
		{"producer", "client.go", []string{module, module + "/internal/broker", natsClient + "/jetstream"}},
		{"producer", "client_test.go", []string{module + "/producer", module + "/worker", module + "/internal/brokertest"}},
		{"internal/embed", "server.go", []string{natsServer + "/server"}},
		{"cmd/pelton", "main.go", []string{module + "/internal/cli"}},
	})
	if len(got) > 0 {
		t.Error(got)
	}
}

// All that the walk must see, and must pass over.
func TestSources(t *testing.T) {
	t.Parallel()
	tree := fstest.MapFS{}
	for name, text := range map[string]string{
		"go.mod":                  "module x",
		"a.go":                    "package x\nimport (\n\t\"fmt\"\n\t_ \"example.com/a\"\n)\n",
		"b/c/d_windows.go":        "//go:build windows\n\npackage c\nimport d \"example.com/d\"\n",
		"b/c/d_test.go":           "package c_test\nimport . \"example.com/t\"\n",
		"b/README.md":             "import \"example.com/text\"",
		"other/go.mod":            "module other",
		"other/o.go":              "package o\nimport \"example.com/o\"\n",
		"b/testdata/t.go":         "not Go",
		".hidden/h.go":            "not Go",
		"_off/o.go":               "not Go",
		"vendor/example.com/v.go": "not Go",
	} {
		tree[name] = &fstest.MapFile{Data: []byte(text)}
	}
	got, err := sources(tree)
	if err != nil {
		t.Fatal(err)
	}
	want := []source{
		{".", "a.go", []string{"fmt", "example.com/a"}},
		{"b/c", "d_test.go", []string{"example.com/t"}},
		{"b/c", "d_windows.go", []string{"example.com/d"}},
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(source{})); diff != "" {
		t.Error(diff)
	}

	tree["broken.go"] = &fstest.MapFile{Data: []byte("not Go")}
	if _, err := sources(tree); err == nil || !strings.Contains(err.Error(), "broken.go") {
		t.Errorf("a file that does not parse: %v", err)
	}
}
