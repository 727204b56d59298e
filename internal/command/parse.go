package command

import (
	"fmt"
	"strings"

	"github.com/peltonq/pelton"
)

// Parse reads the value of an --exec flag, "KIND=CMD". The command is split
// into words as a shell splits them: white space separates, single quotes keep
// everything, double quotes keep everything but a backslash in front of
// $ ` " \ or a newline, and a backslash elsewhere keeps the next character.
// Nothing is expanded and no character has another meaning: $HOME, * and | reach
// the program as they are. Errors wrap pelton.ErrInvalid.
func Parse(flag string) (kind string, argv []string, err error) {
	kind, line, found := strings.Cut(flag, "=")
	if !found {
		return "", nil, fmt.Errorf("%w: --exec %q is not KIND=CMD", pelton.ErrInvalid, flag)
	}
	if err := pelton.ValidateKind(kind); err != nil {
		return "", nil, fmt.Errorf("--exec %q: %w", flag, err)
	}
	argv, err = split(line)
	if err != nil {
		return "", nil, fmt.Errorf("%w: --exec %q: %w", pelton.ErrInvalid, flag, err)
	}
	if len(argv) == 0 || argv[0] == "" {
		return "", nil, fmt.Errorf("%w: --exec %q names no program after %q", pelton.ErrInvalid, flag, kind+"=")
	}
	return kind, argv, nil
}

// inDoubleQuotes are the characters that a backslash escapes between double
// quotes; in front of any other it stands for itself.
const inDoubleQuotes = "$`\"\\\n"

// split cuts line into words by the rules of Parse.
func split(line string) ([]string, error) {
	var (
		words  []string
		word   strings.Builder
		inWord bool // also true for a word that is empty so far: ''
		quote  byte // the quote that is open, or 0
	)
	for i := 0; i < len(line); i++ {
		c := line[i]
		switch {
		case c == 0:
			return nil, fmt.Errorf("the command contains a NUL byte at %d", i)
		case quote != 0 && c == quote:
			quote = 0
		case quote == '\'':
			word.WriteByte(c)
		case c == '\\':
			if i+1 == len(line) {
				return nil, fmt.Errorf("the command ends in a backslash")
			}
			next := line[i+1]
			if quote == '"' && !strings.ContainsRune(inDoubleQuotes, rune(next)) {
				word.WriteByte(c) // stands for itself
				continue
			}
			i++
			if next == 0 {
				return nil, fmt.Errorf("the command contains a NUL byte at %d", i)
			}
			if next != '\n' { // an escaped newline continues the line
				word.WriteByte(next)
				inWord = true
			}
		case quote == '"':
			word.WriteByte(c)
		case c == '\'' || c == '"':
			quote, inWord = c, true
		case c == ' ' || c == '\t' || c == '\n':
			if inWord {
				words = append(words, word.String())
				word.Reset()
				inWord = false
			}
		default:
			word.WriteByte(c)
			inWord = true
		}
	}
	if quote != 0 {
		return nil, fmt.Errorf("the quote %c is not closed", quote)
	}
	if inWord {
		words = append(words, word.String())
	}
	return words, nil
}
