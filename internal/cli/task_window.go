package cli

import (
	"context"
	"errors"
	"io"
	"slices"
	"time"
)

// drainGrace is how long batches that are on their way may go on after the user
// has interrupted the command.
const drainGrace = 5 * time.Second

// bulk is one run of enqueueLines: it reads chunks, sends up to window of them at
// the same time, and takes in the answers in the order of the lines. That bounds what
// it holds: the chunks in the window, their answers, and one more chunk.
type bulk struct {
	app      *app
	lines    *lineReader
	sender   sender
	window   int
	list     *printer[*taskAnswer]
	progress *progress
	state    *lineState // nil without --resume

	flying  []*flight  // in the order of the lines
	pending *readChunk // waits until none is flying
	sawEOF  bool

	codes     tally
	refused   int
	settled   int // all lines up to this one are enqueued or refused
	failed    []failedBatch
	scattered bool // lines after settled may be enqueued
	failure   error
	ended     bool // the input was sent to its end
}

// failedBatch are lines that were not taken, or of which nobody knows, for a reason
// that others would meet too.
type failedBatch struct {
	first, last int
	err         error
}

// readChunk is what was read at a time.
type readChunk struct {
	lines []taskLine
	read  int64 // bytes of the input up to here
	err   error // io.EOF after the last
}

// flight is a chunk on its way.
type flight struct {
	readChunk
	done chan struct{} // closed when results and failed are there
	// results are one for each line, in order.
	results []lineResult
	failed  error
}

// lineResult is how a line came out; neither of them means that nobody knows.
type lineResult struct {
	task *taskAnswer
	err  error // it was refused
}

// run sends the input to its end, or to the first thing that later lines would meet
// too. When ctx ends nothing more is sent, and what is on its way has drainGrace.
// The error is that of the output.
func (b *bulk) run(ctx context.Context) error {
	sending, giveUp := context.WithCancelCause(context.WithoutCancel(ctx))
	defer func() {
		giveUp(nil)
		for _, f := range b.flying { // only after an error
			<-f.done
		}
	}()
	defer context.AfterFunc(ctx, func() {
		timer := time.NewTimer(drainGrace)
		defer timer.Stop()
		select {
		case <-timer.C:
			giveUp(context.Cause(ctx))
		case <-sending.Done():
		}
	})()
	reading, stopReading := context.WithCancel(ctx)
	defer stopReading()
	chunks := make(chan readChunk)
	// A read of the input cannot be cut short. When ctx ends first, the process does
	// too, and the goroutine with it.
	go b.read(reading, chunks)

	for {
		var next <-chan readChunk
		if reading.Err() == nil && b.hasRoom() {
			next = chunks
		}
		if len(b.flying) == 0 && next == nil {
			b.ended = b.sawEOF && len(b.failed) == 0 && b.pending == nil
			return nil
		}
		select {
		case c := <-next:
			b.take(sending, c)
		case <-b.landed():
			failed := b.flying[0].failed
			if err := b.land(); err != nil {
				return err
			}
			if failed != nil {
				stopReading()
			} else if b.pending != nil && len(b.flying) == 0 && reading.Err() == nil {
				b.launch(sending, *b.pending)
				b.pending = nil
			}
		case <-stopped(reading, next != nil):
		}
	}
}

// stopped is closed when nothing more is to be read, if something would be.
func stopped(reading context.Context, wanted bool) <-chan struct{} {
	if !wanted {
		return nil
	}
	return reading.Done()
}

// read reads chunks until the input or ctx ends.
func (b *bulk) read(ctx context.Context, chunks chan<- readChunk) {
	for {
		lines, err := b.lines.chunk()
		select {
		case chunks <- readChunk{lines, b.lines.read, err}:
		case <-ctx.Done():
			return
		}
		if err != nil {
			return
		}
	}
}

// hasRoom reports whether a chunk can be sent, or looked at, now.
func (b *bulk) hasRoom() bool {
	switch {
	case b.sawEOF, b.failure != nil, b.pending != nil, len(b.failed) > 0:
		return false
	case len(b.flying) == 0:
		return true
	default:
		// Until the server has answered, one at a time: it may not be there.
		return len(b.flying) < b.window && b.sender.reached.Load() && !ordered(b.flying[len(b.flying)-1].lines)
	}
}

// take sends a chunk, or keeps it until those before it have landed.
func (b *bulk) take(ctx context.Context, c readChunk) {
	switch {
	case errors.Is(c.err, io.EOF):
		b.sawEOF = true
	case c.err != nil:
		b.failure = c.err
	}
	switch {
	case len(c.lines) == 0:
	case len(b.flying) > 0 && ordered(c.lines):
		b.pending = &c
	default:
		b.launch(ctx, c)
	}
}

// ordered reports whether the place of a line among the others counts.
func ordered(lines []taskLine) bool {
	return slices.ContainsFunc(lines, func(l taskLine) bool { return l.traits.ordered })
}

func (b *bulk) launch(ctx context.Context, c readChunk) {
	f := &flight{readChunk: c, done: make(chan struct{})}
	b.flying = append(b.flying, f)
	go func() {
		defer close(f.done)
		f.results, f.failed = b.sender.send(ctx, f.lines)
	}()
}

// landed is closed when the first chunk on its way has come out.
func (b *bulk) landed() <-chan struct{} {
	if len(b.flying) == 0 {
		return nil
	}
	return b.flying[0].done
}

// land takes in the chunk that came out: prints what was accepted, tells what was
// refused, and notes how far the input is settled. After a crash before the note the
// next run sends the lines again under the same keys, and prints them again.
func (b *bulk) land() error {
	f := b.flying[0]
	b.flying = b.flying[1:]
	accepted, first, last := false, 0, 0
	for i, r := range f.results {
		number := f.lines[i].number
		switch {
		case r.task != nil:
			accepted = true
			b.codes.add(exitOK, 1)
			if err := b.list.add(r.task); err != nil {
				return err
			}
		case r.err != nil:
			b.refused++
			b.codes.add(exitCode(r.err), 1)
			b.app.warnf("line %d: %s", number, r.err)
		default:
			if last = number; first == 0 {
				first = number
			}
		}
	}
	if err := b.list.flush(); err != nil {
		return err
	}
	if f.failed != nil {
		b.failed = append(b.failed, failedBatch{first, last, f.failed})
	}
	b.scattered = b.scattered || accepted && len(b.failed) > 0 || f.failed != nil && exitCode(f.failed) == exitFailure
	b.progress.at(b.codes.codes[exitOK], f.read)
	if len(b.failed) > 0 {
		return nil
	}
	end := f.lines[len(f.lines)-1]
	b.settled = end.number
	return b.state.advance(end.number, end.chain, b.codes.codes[exitOK], b.refused)
}
