package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"

	"github.com/peltonq/pelton"
)

// enqueueLines enqueues every line of the input in batches, one at a time. What
// was accepted is printed batch by batch.
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

	b := &bulk{app: a, c: c, lines: newLineReader(in, defaults), list: a.taskList(&f.out)}
	b.lines.key = f.idempotencyKey
	failed := b.run(ctx)
	if err := b.list.close(); err != nil {
		return err
	}
	code := b.codes.code()
	if failed != nil {
		a.warnf("%s", failed)
		if code = exitCode(failed); b.codes.codes[exitOK] > 0 {
			code = exitPartly
		}
	}
	if code != exitOK {
		a.warnf("%d tasks enqueued, %d lines refused", b.codes.codes[exitOK], b.refused)
	}
	return told(code)
}

// bulk is one run of enqueueLines.
type bulk struct {
	app     *app
	c       *client
	lines   *lineReader
	list    *printer[*taskAnswer]
	codes   tally
	refused int
}

// run ends with the input, or with an error that later lines would meet too.
func (b *bulk) run(ctx context.Context) error {
	for {
		chunk, err := b.lines.chunk()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if sendErr := b.send(ctx, chunk); sendErr != nil {
			return sendErr
		}
		if err != nil {
			return fmt.Errorf("stopped after line %d: %w", b.lines.number, err)
		}
	}
}

func (b *bulk) refuse(number, code int, err error) {
	b.refused++
	b.codes.add(code, 1)
	b.app.warnf("line %d: %s", number, err)
}

// batchItem is one answer of POST /tasks/batch.
type batchItem struct {
	Status  int             `json:"status"`
	Task    json.RawMessage `json:"task"`
	Problem *problemError   `json:"problem"`
}

func (b *bulk) send(ctx context.Context, chunk []taskLine) error {
	var sent []taskLine
	for _, line := range chunk {
		if line.err != nil {
			b.refuse(line.number, exitUsage, line.err)
		} else {
			sent = append(sent, line)
		}
	}
	if len(sent) == 0 {
		return nil
	}
	return b.post(ctx, sent)
}

// post sends tasks as one batch. A batch that is refused as a whole, because one
// of its tasks is not even strict JSON, is sent again in halves until the line is
// found: nothing of a refused batch was enqueued.
func (b *bulk) post(ctx context.Context, sent []taskLine) error {
	body := []byte(`{"tasks":[`)
	for i, line := range sent {
		if i > 0 {
			body = append(body, ',')
		}
		body = append(body, line.body...)
	}
	body = append(body, `]}`...)

	answer, err := b.c.do(ctx, request{
		method: http.MethodPost, path: []string{"tasks", "batch"}, body: body, timeout: batchTimeout, once: b.lines.key == "",
	})
	first, last := sent[0].number, sent[len(sent)-1].number
	switch {
	case err == nil:
		return b.items(sent, answer)
	case !refusesInput(err):
		return fmt.Errorf("stopped at lines %d to %d: %w", first, last, err)
	case len(sent) == 1:
		b.refuse(first, exitCode(err), err)
		return nil
	}
	half := len(sent) / 2
	if err := b.post(ctx, sent[:half]); err != nil {
		return err
	}
	return b.post(ctx, sent[half:])
}

// refusesInput reports whether the server found fault with what was sent.
func refusesInput(err error) bool {
	var problem *problemError
	return errors.As(err, &problem) && problem.Type != "" && problem.exitCode() == exitUsage
}

// items takes in the answer to a batch.
func (b *bulk) items(sent []taskLine, answer []byte) error {
	first, last := sent[0].number, sent[len(sent)-1].number
	var items struct {
		Items []batchItem `json:"items"`
	}
	if err := json.Unmarshal(answer, &items); err != nil || len(items.Items) != len(sent) {
		return fmt.Errorf("stopped at lines %d to %d: the server's answer is not one item for each task", first, last)
	}
	for i, item := range items.Items {
		if err := b.item(sent[i].number, item); err != nil {
			return err
		}
	}
	return b.list.flush()
}

func (b *bulk) item(number int, item batchItem) error {
	if item.Problem != nil {
		item.Problem.Errors = withoutIndex(item.Problem.Errors)
		b.refuse(number, exitCode(item.Problem), item.Problem)
		return nil //nolint:nilerr // the line's error, which does not end the run.
	}
	task, err := parseTask(bytes.Clone(item.Task))
	if err != nil {
		return fmt.Errorf("stopped at line %d: %w", number, err)
	}
	b.codes.add(exitOK, 1)
	return b.list.add(task)
}

// withoutIndex drops "body.tasks[3]." from locations: the line's number says it.
func withoutIndex(errs []inputError) []inputError {
	for i := range errs {
		if rest, found := strings.CutPrefix(errs[i].Location, "body.tasks["); found {
			if _, name, found := strings.Cut(rest, "]."); found {
				errs[i].Location = name
			}
		}
	}
	return errs
}
