package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/term"
)

// confirmation asks before something that cannot be undone.
type confirmation struct {
	app  *app
	yes  bool   // there is no need to
	verb string // what it does: delete when empty
}

// text is the verb with an ending: s or d.
func (c *confirmation) text(ending string) string {
	if c.verb == "" {
		return "delete" + ending
	}
	return c.verb + ending
}

// possible is a usage error when nobody is there to be asked.
func (c *confirmation) possible() error {
	f, ok := c.app.stdin.(*os.File)
	if !c.yes && (!ok || !term.IsTerminal(int(f.Fd()))) {
		return usagef("this %s, and there is no terminal to ask on: say --yes (-y)", c.text("s"))
	}
	return nil
}

// ask is nil when the answer is yes. It ends with ctx.
func (c *confirmation) ask(ctx context.Context, question string) error {
	if c.yes {
		return nil
	}
	if _, err := fmt.Fprintf(c.app.stderr, "%s [y/N] ", question); err != nil {
		return fmt.Errorf("ask: %w", err)
	}
	type line struct {
		text string
		err  error
	}
	lines := make(chan line, 1)
	// A read from a terminal cannot be cut short. When ctx ends first, the process
	// does too, and the goroutine with it.
	go func() {
		text, err := bufio.NewReader(c.app.stdin).ReadString('\n')
		lines <- line{text, err}
	}()
	select {
	case l := <-lines:
		if l.err != nil && !errors.Is(l.err, io.EOF) {
			return fmt.Errorf("read the answer: %w", l.err)
		}
		switch strings.ToLower(strings.TrimSpace(l.text)) {
		case "y", "yes":
			return nil
		default:
			return &codeError{exitFailure, errors.New("not confirmed; nothing was " + c.text("d"))}
		}
	case <-ctx.Done():
		return fmt.Errorf("interrupted: %w", context.Cause(ctx))
	}
}
