package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
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
	switch {
	case c.verb == "":
		return "delete" + ending
	case c.verb == "cancel" && ending == "d":
		return "cancelled"
	}
	return c.verb + ending
}

// possible is a usage error when nobody is there to be asked.
func (c *confirmation) possible() error {
	if f, ok := c.app.stdin.(*os.File); !ok || !term.IsTerminal(int(f.Fd())) {
		return usagef("this %s, and there is no terminal to ask on: say --yes (-y)", c.text("s"))
	}
	return nil
}

// register adds the flag that answers.
func (c *confirmation) register(cmd *cobra.Command) {
	cmd.Flags().BoolVarP(&c.yes, "yes", "y", false, "do not ask")
}

// confirm asks what question says, and is nil when the answer is yes or there is no
// need to ask. Whether somebody is there to be asked is known before question calls
// the server.
func (c *confirmation) confirm(ctx context.Context, question func() (string, error)) error {
	if c.yes {
		return nil
	}
	if err := c.possible(); err != nil {
		return err
	}
	text, err := question()
	if err != nil {
		return err
	}
	return c.ask(ctx, text)
}

// ask is nil when the answer is yes. It ends with ctx.
func (c *confirmation) ask(ctx context.Context, question string) error {
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
