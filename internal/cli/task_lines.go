package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/peltonq/pelton"
)

const (
	defaultWindow   = 4
	maxWindow       = 32
	defaultRetryFor = 30 * time.Second
)

// lineFlags are the flags of "task enqueue --jsonl".
type lineFlags struct {
	resume   string
	fromLine int
	window   int
	retryFor durationValue
}

func (f *lineFlags) register(flags *pflag.FlagSet) {
	flags.StringVar(&f.resume, "resume", "", "with --jsonl: keep in `FILE` how far it came, and go on from there")
	flags.IntVar(&f.fromLine, "from-line", 1, "with --jsonl: begin with this `LINE` of the input; lines keep their numbers")
	flags.IntVar(&f.window, "window", defaultWindow, "with --jsonl: how many batches of up to 1,000 lines are on their way at a time")
	f.retryFor = durationValue(defaultRetryFor)
	flags.Var(&f.retryFor, "retry-for", "with --jsonl: how long to try again while the server is away or full, once it has answered")
}

func (f *lineFlags) check(jsonl bool, given func(string) bool) error {
	for _, flag := range []string{"resume", "from-line", "window", "retry-for"} {
		if given(flag) && !jsonl {
			return usagef("--%s needs --jsonl", flag)
		}
	}
	switch {
	case given("resume") && given("from-line"):
		return usagef("--resume and --from-line exclude each other")
	case given("resume") && f.resume == "":
		return usagef("--resume must not be empty")
	case f.fromLine < 1:
		return usagef("--from-line must be at least 1")
	case f.window < 1 || f.window > maxWindow:
		return usagef("--window %d is not between 1 and %d", f.window, maxWindow)
	}
	return nil
}

// enqueueLines enqueues every line of the input in batches. What was accepted is
// printed in the order of the lines.
func (a *app) enqueueLines(ctx context.Context, c *client, f *enqueueFlags, defaults []field, args []string) error {
	source := args[len(args)-1]
	file, isFile := strings.CutPrefix(source, "@")
	if !isFile && source != "-" {
		return usagef("--jsonl reads tasks from - (stdin) or @FILE, not from an argument")
	}
	if len(args) == 2 {
		if err := pelton.ValidateKind(args[0]); err != nil {
			return usagef("%s", plain(err))
		}
		defaults = slices.Insert(defaults, 0, field{"kind", args[0]})
	}
	in, _, err := a.open(file, source == "-")
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }() // only read

	b := &bulk{
		app: a, list: a.taskList(&f.out), window: f.lines.window, settled: f.lines.fromLine - 1,
		lines: newLineReader(in, defaults), sender: sender{c: c, retryFor: f.lines.retryFor.duration()},
	}
	b.lines.key = f.idempotencyKey
	if f.lines.resume != "" {
		done, err := b.goOn(f.lines.resume)
		if done || err != nil {
			return err
		}
	} else if err := b.lines.skipLines(b.settled); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	b.progress = a.newProgress("enqueued", inputSize(in))
	err = b.run(ctx)
	b.progress.hide()
	if err := errors.Join(err, b.state.finish(b.ended), b.list.close()); err != nil {
		return err
	}
	return b.report()
}

// inputSize is the length of a file, or 0 of what has none.
func inputSize(in io.Reader) int64 {
	if f, ok := in.(*os.File); ok {
		if info, err := f.Stat(); err == nil && info.Mode().IsRegular() {
			return info.Size()
		}
	}
	return 0
}

// goOn takes up where a file says that an earlier run ended, and keeps it. It is done
// when that run had come to its end.
func (b *bulk) goOn(path string) (done bool, err error) {
	state, err := openLineState(path, b.lines.key)
	if err != nil {
		return false, err
	}
	if state.Done {
		b.app.warnf("%s says that this was done at %s: %d tasks enqueued, %d lines refused; remove it to send all of them again",
			path, state.UpdatedAt.Format(time.RFC3339), state.Enqueued, state.Refused)
		return true, nil
	}
	b.lines.key, b.lines.chained = state.Key, true
	if err := b.lines.skipLines(state.Line); err != nil && !errors.Is(err, io.EOF) {
		return false, err
	}
	if b.lines.number != state.Line || b.lines.chain != state.chain() {
		return false, usagef("--resume: this is not the input that %s is about: its first %d lines were others", path, state.Line)
	}
	if state.Line > 0 {
		b.app.warnf("going on after line %d", state.Line)
	}
	b.state, b.settled = state, state.Line
	return false, state.save()
}

// report tells what did not come out well and how to go on, and gives the exit code.
func (b *bulk) report() error {
	done := b.codes.codes[exitOK]
	code := b.codes.code()
	stop := func(why int) {
		if code = why; done > 0 {
			code = exitPartly
		}
	}
	for _, failed := range b.failed {
		b.app.warnf("stopped at lines %d to %d: %s", failed.first, failed.last, failed.err)
		stop(exitCode(failed.err))
	}
	switch {
	case b.failure != nil:
		b.app.warnf("stopped after line %d: %s", b.settled, b.failure)
		stop(exitFailure)
	case !b.ended && len(b.failed) == 0:
		b.app.warnf("interrupted after line %d", b.settled)
		stop(exitFailure)
	}
	if code != exitOK {
		b.app.warnf("%d tasks enqueued, %d lines refused", done, b.refused)
	}
	if !b.ended && done > 0 {
		b.app.warnf("%s", b.howToGoOn())
	}
	return told(code)
}

// howToGoOn is what to do after a break.
func (b *bulk) howToGoOn() string {
	switch {
	case b.state != nil:
		return "the same command with the same input goes on from there"
	case b.lines.key != "":
		return "the same command with the same input can be repeated for 24 hours, and enqueues nothing twice"
	case b.scattered:
		return fmt.Sprintf("all lines up to %d are settled, and some after it may be enqueued; with --resume FILE it would be known", b.settled)
	default:
		return fmt.Sprintf("--from-line %d goes on from there", b.settled+1)
	}
}
