package cli

import (
	"fmt"
	"strings"
	"unicode"
)

// clip shortens s to at most most bytes, on a rune boundary.
func clip(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}

// lineMode says what printable does with line feeds.
type lineMode bool

const (
	oneLine   lineMode = false // for a cell of a table
	keepLines lineMode = true  // for a message
)

// printable makes text from elsewhere safe for a terminal: handlers and servers
// write it, and a control sequence in it must not reach the screen.
func printable(s string, lines lineMode) string {
	var b strings.Builder
	for _, r := range s {
		switch {
		case unicode.IsPrint(r), r == '\n' && lines == keepLines:
			b.WriteRune(r)
		case unicode.IsSpace(r):
			b.WriteByte(' ')
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	return b.String()
}
