package e2e_test

import (
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
)

// step is what a document does at one place: a fenced block, or a comment that a
// reader does not see.
//
// The line before a fence may be a comment that says what to do with the block:
//
//	<!-- doc: file=NAME -->      write it to that file
//	<!-- doc: from=PATH -->      it stands so in that file of the repository
//	<!-- doc: terminal=NAME -->  run it in another terminal, in the background
//	<!-- doc: exit=N -->         run it, it ends with that status
//	<!-- doc: not-run WHY -->    do nothing with it
//
// Without one, a block of language sh is run, and the block of language text or
// json after it is what it prints: "…" in it stands for any text, and alone on a
// line for any lines; ids, times, names of workers
// and revisions stand for any of them. What a
// terminal prints is waited for. Everything else must have a comment. And, on lines
// of their own:
//
//	<!-- stop: NAME -->          what that terminal runs ends by Ctrl-C
//	<!-- check: COMMAND -->      this holds; $OUTPUT is what the last block printed
type step struct {
	line   int    // of the fence or the comment, from 1
	verb   string // run, start, output, file, from, skip, stop, check
	lang   string
	arg    string // name of the file or the terminal, command, or why it is not run
	status int    // of run
	text   string // of the block, with a line feed at its end
}

var (
	fenceLine   = regexp.MustCompile("^(\\s*)(```+|~~~+)\\s*(\\S*)\\s*$")
	commentLine = regexp.MustCompile(`^<!-- (doc|stop|check): (.*) -->$`)
)

// steps reads a document. A block that nothing says what to do with is an error.
func steps(text string) ([]step, error) {
	var all []step
	mark := "" // of the next block
	lines := strings.Split(text, "\n")
	for i := 0; i < len(lines); i++ {
		if m := commentLine.FindStringSubmatch(lines[i]); m != nil {
			if m[1] == "doc" {
				mark = m[2]
			} else {
				all = append(all, step{line: i + 1, verb: m[1], arg: m[2]})
			}
			continue
		}
		m := fenceLine.FindStringSubmatch(lines[i])
		if m == nil {
			if mark != "" && lines[i] != "" {
				return nil, fmt.Errorf("line %d: no block follows the comment %q", i+1, mark)
			}
			continue
		}
		if m[1] != "" {
			return nil, fmt.Errorf("line %d: a block that is indented", i+1)
		}
		s := step{line: i + 1, lang: m[3]}
		for i++; i < len(lines) && lines[i] != m[2]; i++ {
			s.text += lines[i] + "\n"
		}
		if i == len(lines) {
			return nil, fmt.Errorf("line %d: a block without end", s.line)
		}
		if err := s.mark(mark, all); err != nil {
			return nil, fmt.Errorf("line %d: %w", s.line, err)
		}
		all, mark = append(all, s), ""
	}
	return all, nil
}

// mark decides what to do with a block, given the comment before it and all steps
// before it.
func (s *step) mark(comment string, before []step) error {
	word, rest, _ := strings.Cut(comment, " ")
	key, value, _ := strings.Cut(word, "=")
	switch {
	case key == "not-run" && rest != "":
		s.verb, s.arg = "skip", rest
	case key == "file" && filepath.IsLocal(value):
		s.verb, s.arg = "file", value
	case key == "from" && filepath.IsLocal(value):
		s.verb, s.arg = "from", value
	case key == "terminal" && value != "" && s.lang == "sh":
		s.verb, s.arg = "start", value
	case key == "exit" && s.lang == "sh":
		s.verb = "run"
		_, err := fmt.Sscan(value, &s.status)
		return err
	case comment != "":
		return fmt.Errorf("unknown comment %q", comment)
	case s.lang == "sh":
		s.verb = "run"
	case (s.lang == "text" || s.lang == "json") && len(before) > 0 && (before[len(before)-1].verb == "run" || before[len(before)-1].verb == "start"):
		s.verb, s.arg = "output", before[len(before)-1].arg
	default:
		return fmt.Errorf("nothing says what to do with a block of language %q", s.lang)
	}
	return nil
}

var (
	anID     = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}`)
	aTime    = regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z`)
	aWorker  = regexp.MustCompile(`[A-Za-z0-9-]+-\d+-[0-9a-f]{8}\b`)
	revision = regexp.MustCompile(`"revision":[1-9]\d*`)
	blanks   = regexp.MustCompile(`[ \t]+`)
	tableGap = regexp.MustCompile(` ?\n`)
)

// plain is text as it is compared: without widths of columns, ids, times, workers and
// revisions.
func plain(text string) string {
	text = anID.ReplaceAllString(text, "<id>")
	text = aTime.ReplaceAllString(text, "<time>")
	text = aWorker.ReplaceAllString(text, "<worker>")
	text = revision.ReplaceAllString(text, `"revision":<n>`)
	text = blanks.ReplaceAllString(text, " ")
	return strings.Trim(tableGap.ReplaceAllString(text, "\n"), " \n")
}

// whole matches plain output that is as a document shows it.
func whole(shown string) *regexp.Regexp {
	var b strings.Builder
	b.WriteString(`\A`)
	gap := "" // before the next line
	for line := range strings.SplitSeq(plain(shown), "\n") {
		if line == "…" {
			gap += `(?s:.*?)`
			continue
		}
		b.WriteString(gap + `(?m:^)` + oneLine(line) + `(?m:$)`)
		gap = `\n`
	}
	if gap != `\n` {
		b.WriteString(`(?s:.*)`)
	}
	b.WriteString(`\n*\z`)
	return regexp.MustCompile(b.String())
}

// hasLines reports whether all lines that a document shows are in what a terminal
// shows, in any order: programs that start are not done in a certain one.
func hasLines(text, shown string) bool {
	text = plain(text)
	for line := range strings.SplitSeq(plain(shown), "\n") {
		if !regexp.MustCompile(`(?m)^` + oneLine(line) + `$`).MatchString(text) {
			return false
		}
	}
	return true
}

func oneLine(line string) string { return strings.ReplaceAll(regexp.QuoteMeta(line), "…", ".*") }
