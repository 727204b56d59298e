package producer

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"

	"github.com/peltonq/pelton"
)

// Enqueue encodes payload as JSON and enqueues a task of the kind, with the
// kind's defaults and then opts. Errors are those of Client.Enqueue; a payload
// that does not encode is a *pelton.ValidationError.
func Enqueue[P, R any](ctx context.Context, c *Client, kind pelton.Kind[P, R], payload P, opts ...pelton.Option) (*pelton.Task, error) {
	spec := kind.Spec(opts...)
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(payload); err != nil {
		return nil, &pelton.ValidationError{Fields: []pelton.FieldError{{Field: "payload", Message: fmt.Sprintf("encode %T: %v", payload, err)}}}
	}
	spec.Payload = bytes.TrimSuffix(buf.Bytes(), []byte{'\n'})
	return c.Enqueue(ctx, spec)
}

// Await waits for a task of the kind and decodes its result. A task that ended
// otherwise is a *pelton.TaskError, which errors.Is pelton.ErrFailed,
// pelton.ErrCancelled or pelton.ErrExpired. A task without a result gives the
// zero value of R. When ctx ends first, the error wraps its cause.
func Await[P, R any](ctx context.Context, c *Client, kind pelton.Kind[P, R], id pelton.ID) (R, error) {
	var result R
	task, err := c.Wait(ctx, id)
	if err != nil {
		return result, err
	}
	if task.Kind != kind.Name() {
		return result, fmt.Errorf("%w: task %s is of kind %s, not %s", pelton.ErrInvalid, id, task.Kind, kind.Name())
	}
	if err := task.Err(); err != nil {
		return result, err
	}
	if len(task.Result) == 0 {
		return result, nil
	}
	if err := json.Unmarshal(task.Result, &result); err != nil {
		return result, fmt.Errorf("decode result of task %s into %T: %w", id, result, err)
	}
	return result, nil
}
