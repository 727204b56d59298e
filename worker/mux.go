package worker

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/peltonq/pelton"
)

// Handler runs one attempt of a task. The bytes it returns must be one JSON
// value of at most pelton.MaxPayload bytes, or nothing; they are the task's
// result. Its ctx ends with cause pelton.ErrTimeout, pelton.ErrCancelled,
// pelton.ErrFenced or pelton.ErrShutdown.
//
// nil ends the task well, an error leads to a retry, and pelton.Discard,
// pelton.RetryAfter and pelton.Snooze say otherwise.
type Handler interface {
	ServeTask(ctx context.Context, task *pelton.Task) (json.RawMessage, error)
}

// HandlerFunc lets a function be a Handler.
type HandlerFunc func(ctx context.Context, task *pelton.Task) (json.RawMessage, error)

// ServeTask calls f.
func (f HandlerFunc) ServeTask(ctx context.Context, task *pelton.Task) (json.RawMessage, error) {
	return f(ctx, task)
}

// Mux selects the handler of a task by its kind, as http.ServeMux does by path.
// Register everything before the Worker is made; a Mux is not safe for changes
// while it serves.
type Mux struct {
	entries    map[string]entry
	middleware []func(Handler) Handler
	locks      *localLocks // of handlers that it serves without a worker
}

type entry struct {
	handler  Handler
	cpuBound bool
}

// HandleOption says something about one registration.
type HandleOption func(*entry)

// CPUBound marks a kind whose handler computes more than it waits. Such handlers
// run at most GOMAXPROCS at a time in a process, so that they starve neither
// handlers that wait for I/O nor the worker's own heartbeats.
func CPUBound() HandleOption { return func(e *entry) { e.cpuBound = true } }

// NewMux is an empty Mux.
func NewMux() *Mux { return &Mux{entries: make(map[string]entry), locks: newLocalLocks()} }

// Use adds middleware around every handler, those registered before included.
// The first one added is the outermost.
func (m *Mux) Use(middleware ...func(next Handler) Handler) {
	m.middleware = append(m.middleware, middleware...)
}

// Handle registers h for a kind by its name, without Go types. It panics on an
// invalid or repeated kind: that is a mistake in the program.
func (m *Mux) Handle(kind string, h Handler, opts ...HandleOption) {
	if err := pelton.ValidateKind(kind); err != nil {
		panic("worker: " + err.Error())
	}
	if _, taken := m.entries[kind]; taken {
		panic("worker: two handlers for kind " + kind)
	}
	e := entry{handler: h}
	for _, opt := range opts {
		opt(&e)
	}
	m.entries[kind] = e
}

// Handle registers a typed handler. A payload that does not decode into P fails
// the attempt with reason payload, which is retried: deploys skew. A task
// without a payload is the zero value of P.
func Handle[P, R any](m *Mux, kind pelton.Kind[P, R], fn func(context.Context, P) (R, error), opts ...HandleOption) {
	m.Handle(kind.Name(), HandlerFunc(func(ctx context.Context, task *pelton.Task) (json.RawMessage, error) {
		payload, err := decode[P](task.Payload)
		if err != nil {
			return nil, err
		}
		result, err := fn(ctx, payload)
		if err != nil {
			return nil, err
		}
		return encode(result)
	}), opts...)
}

// HandleFunc registers a typed handler of a kind whose tasks have no result.
func HandleFunc[P, R any](m *Mux, kind pelton.Kind[P, R], fn func(context.Context, P) error, opts ...HandleOption) {
	m.Handle(kind.Name(), HandlerFunc(func(ctx context.Context, task *pelton.Task) (json.RawMessage, error) {
		payload, err := decode[P](task.Payload)
		if err != nil {
			return nil, err
		}
		return nil, fn(ctx, payload)
	}), opts...)
}

// Kinds lists the registered kinds, sorted.
func (m *Mux) Kinds() []string { return slices.Sorted(maps.Keys(m.entries)) }

// ServeTask runs the handler of the task's kind inside all middleware; a kind that
// is not registered is pelton.ErrNotFound. It makes a Mux a Handler, so that
// handlers can be tested without a broker.
func (m *Mux) ServeTask(ctx context.Context, task *pelton.Task) (json.RawMessage, error) {
	e, ok := m.lookup(task.Kind)
	if !ok {
		return nil, fmt.Errorf("kind %s: %w", task.Kind, pelton.ErrNotFound)
	}
	if v, _ := ctx.Value(contextKey{}).(contextValue); v.task != nil && v.run == nil { // WithTask
		ctx = withLocks(ctx, v.task, m.locks)
		v, _ = ctx.Value(contextKey{}).(contextValue)
		defer func() { v.locks.close()() }() // whatever ends the handler
	}
	return e.handler.ServeTask(ctx, task)
}

// lookup gives the kind's handler inside all middleware.
func (m *Mux) lookup(kind string) (entry, bool) {
	e, ok := m.entries[kind]
	if !ok {
		return entry{}, false
	}
	for _, wrap := range slices.Backward(m.middleware) {
		e.handler = wrap(e.handler)
	}
	return e, true
}

func decode[P any](payload json.RawMessage) (P, error) {
	var p P
	if len(payload) == 0 {
		return p, nil
	}
	if err := json.Unmarshal(payload, &p); err != nil {
		return p, WithReason(pelton.ReasonPayload, fmt.Errorf("decode payload into %T: %w", p, err))
	}
	return p, nil
}

func encode[R any](result R) (json.RawMessage, error) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(result); err != nil {
		return nil, WithReason(pelton.ReasonResult, fmt.Errorf("encode result of %T: %w", result, err))
	}
	return bytes.TrimSuffix(buf.Bytes(), []byte{'\n'}), nil
}
