package e2e_test

import (
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var (
	aLink    = regexp.MustCompile(`\]\(([^()\s]+(?:\([^()\s]*\))?)\)`)
	aHeading = regexp.MustCompile(`(?m)^#{1,6} (.+)$`)
	fenced   = regexp.MustCompile("(?ms)^```.*?^```$")
	inline   = regexp.MustCompile("`[^`\n]*`")
	notSlug  = regexp.MustCompile(`[^\p{L}\p{N}_ -]+`)
)

// documents are the Markdown files of the repository, by their paths from its root.
func documents(t *testing.T, root string) map[string]string {
	t.Helper()
	all := make(map[string]string)
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && (entry.Name() == ".git" || entry.Name() == "node_modules" || entry.Name() == "testdata") {
			return filepath.SkipDir
		}
		if filepath.Ext(path) != ".md" {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, path)
		all[filepath.ToSlash(name)] = string(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// anchors are the fragments by which the headings of a document can be linked to,
// as GitHub makes them.
func anchors(text string) []string {
	var all []string
	for _, m := range aHeading.FindAllStringSubmatch(fenced.ReplaceAllString(text, ""), -1) {
		heading := aLink.ReplaceAllString(strings.ReplaceAll(m[1], "[", ""), "")
		slug := strings.ReplaceAll(notSlug.ReplaceAllString(strings.ToLower(heading), ""), " ", "-")
		for n := 1; slices.Contains(all, slug); n++ {
			slug = fmt.Sprintf("%s-%d", strings.TrimSuffix(slug, fmt.Sprintf("-%d", n-1)), n)
		}
		all = append(all, slug)
	}
	return all
}

// deadLinks are the links of a document to files and headings that are not there.
func deadLinks(root, name, text string) []string {
	var dead []string
	text = inline.ReplaceAllString(fenced.ReplaceAllString(text, ""), "``")
	for _, m := range aLink.FindAllStringSubmatch(text, -1) {
		link, err := url.Parse(m[1])
		if err != nil {
			dead = append(dead, m[1])
			continue
		}
		if link.IsAbs() {
			continue // another site, which a test does not ask
		}
		target := filepath.Join(root, filepath.FromSlash(name))
		if link.Path != "" {
			target = filepath.Join(filepath.Dir(target), filepath.FromSlash(link.Path))
		}
		info, err := os.Stat(target)
		if err != nil {
			dead = append(dead, m[1])
			continue
		}
		if link.Fragment == "" {
			continue
		}
		content, err := os.ReadFile(target)
		if info.IsDir() || err != nil || !slices.Contains(anchors(string(content)), link.Fragment) {
			dead = append(dead, m[1])
		}
	}
	return dead
}

func TestLinksBetweenDocuments(t *testing.T) {
	t.Parallel()
	all := documents(t, "..")
	if len(all) < 20 {
		t.Fatalf("only %d documents", len(all))
	}
	for name, text := range all {
		for _, link := range deadLinks("..", name, text) {
			t.Errorf("%s links to %s, which is not there", name, link)
		}
	}
}

func TestEveryDocumentIsInTheIndex(t *testing.T) {
	t.Parallel()
	all := documents(t, "../docs")
	linked := make(map[string]int)
	for _, m := range aLink.FindAllStringSubmatch(all["README.md"], -1) {
		linked[m[1]]++
	}
	for name := range all {
		if name != "README.md" && linked[name] != 1 {
			t.Errorf("docs/%s stands %d times in docs/README.md: add one line to the table of its kind", name, linked[name])
		}
	}
	if readme := documents(t, "..")["README.md"]; !strings.Contains(readme, "](docs/README.md)") {
		t.Error("README.md does not link to the index, docs/README.md")
	}
}

func TestDeadLinksAreNoticed(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("b/c.md", "# It's `--exec`, [here](d.md): Why?\n\n## Twice\n\n## Twice\n\n```sh\n# not a heading\n```\n")
	text := "[a](b/c.md) [a](b/) [a](b/c.md#its---exec-here-why) [a](b/c.md#twice-1) [a](#here) [a](https://example.com/x) `[a](code.md)`\n\n# Here\n\n```md\n[a](fenced.md)\n```\n" +
		"[a](gone.md) [a](b/c.md#nowhere) [a](#nowhere) [a](b/c.md#not-a-heading) [a](c.md)"
	write("a.md", text)
	want := []string{"gone.md", "b/c.md#nowhere", "#nowhere", "b/c.md#not-a-heading", "c.md"}
	if got := deadLinks(root, "a.md", text); !slices.Equal(got, want) {
		t.Errorf("dead: %q, want %q", got, want)
	}
}
