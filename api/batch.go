package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"

	"github.com/danielgtaylor/huma/v2"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/peltonq/pelton"
)

// batchItem is one task of a batch, or why it is none.
type batchItem struct {
	spec pelton.Spec
	err  error
}

// parseBatch reads {"tasks":[…]}. The error is a problem with the batch as a
// whole; a problem with one task is that item's.
func parseBatch(body []byte) ([]batchItem, error) {
	var (
		errs  []fieldError
		tasks jsontext.Value
	)
	err := eachField(body, "body", "batch", func(name string, value jsontext.Value) {
		switch {
		case name == "tasks" && value.Kind() == jsontext.KindBeginArray:
			tasks = value
		case name == "tasks":
			errs = append(errs, fieldError{"body.tasks", "must be an array, not " + describe(value)})
		case len(errs) < maxFieldErrors:
			errs = append(errs, fieldError{"body." + clip(name, 100), "is not a known field"})
		}
	})
	if err != nil {
		return nil, err
	}
	if len(errs) == 0 && tasks == nil {
		errs = append(errs, fieldError{"body.tasks", "is required"})
	}
	if len(errs) > 0 {
		return nil, fieldProblem(kindInvalid, errs...)
	}
	return parseItems(tasks)
}

func parseItems(tasks jsontext.Value) ([]batchItem, error) {
	var items []batchItem
	err := eachElement(tasks, func(i int, value jsontext.Value) bool {
		spec, err := parseTask(value, itemLocation(i), true)
		items = append(items, batchItem{spec, err})
		return len(items) <= pelton.MaxBatch
	})
	switch {
	case err != nil:
		return nil, fmt.Errorf("parse batch: %w", err)
	case len(items) == 0:
		return nil, fieldProblem(kindInvalid, fieldError{"body.tasks", "must have at least one task"})
	case len(items) > pelton.MaxBatch:
		return nil, fieldProblem(kindInvalid, fieldError{"body.tasks", fmt.Sprintf("has more than %d tasks", pelton.MaxBatch)})
	}
	return items, nil
}

func itemLocation(i int) string { return "body.tasks[" + strconv.Itoa(i) + "]" }

// batchInput is the request of POST /tasks/batch.
type batchInput struct {
	body []byte
	err  error
}

// Resolve reads the body.
func (in *batchInput) Resolve(ctx huma.Context) []error {
	if in.err = noIdempotencyKey(ctx); in.err == nil {
		in.body, in.err = readBody(ctx, maxBatchBody)
	}
	return nil
}

func (s *server) enqueueBatch(ctx context.Context, in *batchInput) (*answer, error) {
	if in.err != nil {
		return nil, in.err
	}
	items, err := parseBatch(in.body)
	if err != nil {
		return nil, err
	}
	in.body = nil // the tasks have what they need of it
	if err := claimOf(ctx).batch(len(items)); err != nil {
		return nil, err
	}
	results, err := s.enqueueItems(ctx, items)
	if err != nil {
		return nil, err
	}

	body := []byte(`{"items":[`)
	for i, result := range results {
		if i > 0 {
			body = append(body, ',')
		}
		if body, err = s.appendItem(ctx, body, i, result); err != nil {
			return nil, err
		}
	}
	return jsonAnswer(http.StatusOK, append(body, "]}\n"...)), nil
}

// enqueueItems enqueues those items that are tasks. It answers one result per
// item, in order.
func (s *server) enqueueItems(ctx context.Context, items []batchItem) ([]pelton.Enqueued, error) {
	results := make([]pelton.Enqueued, len(items))
	specs := make([]pelton.Spec, 0, len(items))
	places := make([]int, 0, len(items))
	for i, item := range items {
		if item.err == nil {
			item.err = mayEnqueue(ctx, item.spec)
		}
		if item.err != nil {
			results[i].Err = item.err
			continue
		}
		specs, places = append(specs, underKey(ctx, item.spec, item.spec.IdempotencyKey)), append(places, i)
	}
	if len(specs) == 0 {
		return results, nil
	}

	ctx, cancel := detached(ctx, batchTimeout)
	defer cancel()
	enqueued, err := s.Tasks.EnqueueMany(ctx, specs)
	if err != nil {
		return nil, unlessKnown(err)
	}
	if len(enqueued) != len(specs) {
		return nil, fmt.Errorf("enqueue %d tasks: got %d answers", len(specs), len(enqueued))
	}
	for i, result := range enqueued {
		if result.Err == nil && result.Existing { // which was enqueued by somebody else
			result.Err = mayQueue(ctx, result.Task.Queue)
		}
		results[places[i]] = result
	}
	return results, nil
}

func (s *server) appendItem(ctx context.Context, dst []byte, i int, result pelton.Enqueued) ([]byte, error) {
	if result.Err == nil {
		dst = fmt.Appendf(dst, `{"status":%d,`, statusOf(result))
		if result.Replayed {
			dst = append(dst, `"idempotent_replayed":true,`...)
		}
		dst = append(dst, `"task":`...)
		dst, err := result.Task.AppendJSON(dst)
		if err != nil {
			return nil, fmt.Errorf("write task %s: %w", result.Task.ID, err)
		}
		return append(dst, '}'), nil
	}
	p := s.problem(ctx, opEnqueueBatch, itemLocation(i), unlessKnown(result.Err))
	text, err := json.Marshal(p)
	if err != nil {
		return nil, fmt.Errorf("write the problem of item %d: %w", i, err)
	}
	dst = fmt.Appendf(dst, `{"status":%d,"problem":`, p.Status)
	return append(append(dst, text...), '}'), nil
}
