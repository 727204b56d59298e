package command

import (
	"errors"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/peltonq/pelton"
	"pgregory.net/rapid"
)

func TestSplit(t *testing.T) {
	t.Parallel()
	sh, err := exec.LookPath("sh")
	if err != nil {
		t.Fatalf("these tests need sh: %v", err)
	}
	for line, want := range map[string][]string{
		`cat`:                      {"cat"},
		`  python3	x.py  -v `:      {"python3", "x.py", "-v"},
		`a ''`:                     {"a", ""},
		`a "" b`:                   {"a", "", "b"},
		`'a b' c`:                  {"a b", "c"},
		`a'b'"c"d`:                 {"abcd"},
		`'a\b'`:                    {`a\b`},
		`"a\b"`:                    {`a\b`},
		`"a\"b\\c\$d"`:             {`a"b\c$d`},
		"\"a\\`b\"":                {"a`b"},
		"\"a\\\nb\"":               {"ab"},
		`a\ b\'c\"d`:               {`a b'c"d`},
		"a\\\nb c \\\n d":          {"ab", "c", "d"},
		`'$HOME' '*' '|' "it's"`:   {"$HOME", "*", "|", "it's"},
		`"naïve €" '日本'`:           {"naïve €", "日本"},
		`\a\b`:                     {"ab"},
		`"tab	inside" new`:         {"tab	inside", "new"},
		`--flag="two words" --x=1`: {"--flag=two words", "--x=1"},
	} {
		got, err := split(line)
		if err != nil {
			t.Errorf("split(%q): %v", line, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("split(%q) (-want +got):\n%s", line, diff)
		}
		// The table must not be our own opinion of what a shell does.
		out, err := exec.CommandContext(t.Context(), sh, "-c", `printf '%s\0' `+line).Output()
		if err != nil {
			t.Fatalf("sh on %q: %v", line, err)
		}
		words := strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00")
		if diff := cmp.Diff(words, got); diff != "" {
			t.Errorf("split(%q) (-sh +got):\n%s", line, diff)
		}
	}
}

func TestSplitDoesNotExpand(t *testing.T) {
	t.Parallel()
	got, err := split("echo $HOME *.go ~ | wc -l > x; a&b #c\nd\te")
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"echo", "$HOME", "*.go", "~", "|", "wc", "-l", ">", "x;", "a&b", "#c", "d", "e"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestSplitQuoted: whatever the words are, quoting and splitting gives them back.
func TestSplitQuoted(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		words := rapid.SliceOf(rapid.StringMatching(`[^\x00]*`)).Draw(t, "words")
		style := rapid.SampledFrom([]func(string) string{quoteSingle, quoteDouble}).Draw(t, "style")
		quoted := make([]string, len(words))
		for i, word := range words {
			quoted[i] = style(word)
		}
		line := strings.Join(quoted, " ")
		got, err := split(line)
		if err != nil {
			t.Fatalf("split(%q): %v", line, err)
		}
		if len(words)+len(got) > 0 && !cmp.Equal(words, got) {
			t.Fatalf("split(%q): %s", line, cmp.Diff(words, got))
		}
	})
}

func quoteSingle(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

func quoteDouble(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "$", `\$`, "`", "\\`").Replace(s) + `"`
}

func TestParse(t *testing.T) {
	t.Parallel()
	kind, argv, err := Parse(`report.daily=python3 'my report.py' --mode=fast`)
	if err != nil {
		t.Fatal(err)
	}
	if kind != "report.daily" {
		t.Errorf("kind %q", kind)
	}
	if diff := cmp.Diff([]string{"python3", "my report.py", "--mode=fast"}, argv); diff != "" {
		t.Errorf("argv (-want +got):\n%s", diff)
	}

	for flag, want := range map[string]string{
		"":            "is not KIND=CMD",
		"report":      "is not KIND=CMD",
		"=cat":        "kind",
		"two words=x": "kind",
		"a=":          "names no program",
		"a=  \t ":     "names no program",
		"a='' x":      "names no program",
		"a='open":     "quote ' is not closed",
		`a="open`:     `quote " is not closed`,
		`a="open\"`:   `quote " is not closed`,
		`a=cat \`:     "ends in a backslash",
		"a=c\x00t":    "NUL",
		"a=c\\\x00t":  "NUL",
	} {
		_, _, err := Parse(flag)
		if err == nil || !errors.Is(err, pelton.ErrInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("Parse(%q): %v, want ErrInvalid with %q", flag, err, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{"a=b", `a=b 'c d' "e\"f" g\ h`, "a='", `a=\`, "=", "a=\x00"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, flag string) {
		kind, argv, err := Parse(flag)
		if err != nil {
			if !errors.Is(err, pelton.ErrInvalid) {
				t.Errorf("%v is not ErrInvalid", err)
			}
			return
		}
		if pelton.ValidateKind(kind) != nil || len(argv) == 0 || argv[0] == "" {
			t.Errorf("accepted kind %q and argv %q", kind, argv)
		}
		quoted := make([]string, len(argv))
		for i, word := range argv {
			quoted[i] = quoteSingle(word)
		}
		again, err := split(strings.Join(quoted, "\t"))
		if err != nil || !cmp.Equal(argv, again) {
			t.Errorf("%q quoted and split again: %q, %v", argv, again, err)
		}
	})
}
