package api

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/peltonq/pelton"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeTasks keeps tasks in memory and accepts what a real implementation would.
type fakeTasks struct {
	err     error             // answered by every call when set
	manyErr error             // answered by EnqueueMany as a whole when set
	changes chan *pelton.Task // what Watch gives
	outcome pelton.Enqueued   // what Submit says besides the task

	mu    sync.Mutex
	specs []pelton.Spec // what was accepted, in order
	tasks map[pelton.ID]*pelton.Task
	ended map[pelton.ID]chan struct{}
}

func newFakeTasks() *fakeTasks {
	return &fakeTasks{tasks: make(map[pelton.ID]*pelton.Task), ended: make(map[pelton.ID]chan struct{})}
}

func (f *fakeTasks) enqueue(_ context.Context, spec pelton.Spec, opts ...pelton.Option) (*pelton.Task, error) {
	if f.err != nil {
		return nil, f.err
	}
	spec.Apply(opts...)
	now := time.Now()
	n, err := spec.Normalized(now)
	if err != nil {
		return nil, err
	}
	task := &pelton.Task{
		ID: pelton.NewID(now, 0), Kind: n.Kind, Queue: n.Queue, Priority: n.Priority, State: pelton.Queued, Payload: n.Payload,
		MaxAttempts: n.MaxAttempts, Timeout: n.Timeout, Retention: n.Retention, Revision: 1, CreatedAt: now.UTC(),
		RunAt: n.RunAt, ExpiresAt: n.ExpiresAt, Unique: n.Unique, RateKey: n.RateKey, Labels: n.Labels,
	}
	if !n.RunAt.IsZero() {
		task.State = pelton.Scheduled
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.specs = append(f.specs, spec)
	f.tasks[task.ID], f.ended[task.ID] = task, make(chan struct{})
	return copyOf(task), nil
}

func (f *fakeTasks) Submit(ctx context.Context, spec pelton.Spec, opts ...pelton.Option) (pelton.Enqueued, error) {
	task, err := f.enqueue(ctx, spec, opts...)
	return pelton.Enqueued{Task: task, Existing: f.outcome.Existing, Replayed: f.outcome.Replayed}, err
}

func (f *fakeTasks) EnqueueMany(ctx context.Context, specs []pelton.Spec) ([]pelton.Enqueued, error) {
	if f.manyErr != nil {
		return nil, f.manyErr
	}
	results := make([]pelton.Enqueued, len(specs))
	for i, spec := range specs {
		var err error
		results[i], err = f.Submit(ctx, spec)
		results[i].Err = err
	}
	return results, nil
}

func (f *fakeTasks) Get(_ context.Context, id pelton.ID) (*pelton.Task, error) {
	if f.err != nil {
		return nil, f.err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if task, ok := f.tasks[id]; ok {
		return copyOf(task), nil
	}
	return nil, fmt.Errorf("get task %s: %w", id, pelton.ErrNotFound)
}

func (f *fakeTasks) Wait(ctx context.Context, id pelton.ID) (*pelton.Task, error) {
	f.mu.Lock()
	ended := f.ended[id]
	f.mu.Unlock()
	var err error
	select {
	case <-ended:
	case <-ctx.Done():
		err = ctx.Err()
	}
	task, getErr := f.Get(ctx, id)
	if getErr != nil {
		return nil, getErr
	}
	return task, err
}

func (f *fakeTasks) Cancel(_ context.Context, id pelton.ID) (*pelton.Task, error) {
	if f.err != nil {
		return nil, f.err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	task, ok := f.tasks[id]
	switch {
	case !ok:
		return nil, fmt.Errorf("cancel task %s: %w", id, pelton.ErrNotFound)
	case task.State == pelton.Cancelled:
		return copyOf(task), nil
	case task.State.Terminal():
		return nil, fmt.Errorf("cancel task %s: %w: it is %s", id, pelton.ErrConflict, task.State)
	}
	f.endLocked(task, pelton.Cancelled, nil)
	return copyOf(task), nil
}

func (f *fakeTasks) Retry(_ context.Context, id pelton.ID) (*pelton.Task, error) {
	if f.err != nil {
		return nil, f.err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	task, ok := f.tasks[id]
	switch {
	case !ok:
		return nil, fmt.Errorf("requeue task %s: %w", id, pelton.ErrNotFound)
	case !task.State.Terminal():
		return copyOf(task), fmt.Errorf("requeue task %s: %w: it is %s", id, pelton.ErrConflict, task.State)
	}
	task.State, task.Result, task.FinishedAt = pelton.Queued, nil, time.Time{}
	task.Revision++
	f.ended[id] = make(chan struct{})
	return copyOf(task), nil
}

func (f *fakeTasks) Run(_ context.Context, id pelton.ID) (*pelton.Task, error) {
	if f.err != nil {
		return nil, f.err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	task, ok := f.tasks[id]
	switch {
	case !ok:
		return nil, fmt.Errorf("run: load record of task %s: %w", id, pelton.ErrNotFound)
	case task.State == pelton.Running || task.State.Terminal():
		return copyOf(task), fmt.Errorf("run task %s: %w: it is %s", id, pelton.ErrConflict, task.State)
	}
	task.State, task.RunAt = pelton.Queued, time.Now().UTC()
	task.Revision++
	return copyOf(task), nil
}

// Watch gives what the test sends, until a terminal state or an error.
func (f *fakeTasks) Watch(ctx context.Context, _ pelton.ID) iter.Seq2[*pelton.Task, error] {
	return func(yield func(*pelton.Task, error) bool) {
		for {
			select {
			case task := <-f.changes:
				if task == nil {
					yield(nil, pelton.ErrNotFound)
					return
				}
				if !yield(task, nil) || task.State.Terminal() {
					return
				}
			case <-ctx.Done():
				yield(nil, context.Cause(ctx))
				return
			}
		}
	}
}

// end lets a task succeed.
func (f *fakeTasks) end(id pelton.ID, result string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.endLocked(f.tasks[id], pelton.Succeeded, json.RawMessage(result))
}

func (f *fakeTasks) endLocked(task *pelton.Task, state pelton.State, result json.RawMessage) {
	task.State, task.Result, task.FinishedAt = state, result, time.Now().UTC()
	task.Revision++
	close(f.ended[task.ID])
}

// put stores a task as it is.
func (f *fakeTasks) put(task *pelton.Task) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.tasks[task.ID], f.ended[task.ID] = task, make(chan struct{})
	if task.State.Terminal() {
		close(f.ended[task.ID])
	}
}

// accepted is what was enqueued so far.
func (f *fakeTasks) accepted() []pelton.Spec {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]pelton.Spec(nil), f.specs...)
}

func copyOf(task *pelton.Task) *pelton.Task {
	c := *task
	return &c
}

type fakeQueues struct {
	queues []pelton.Queue
	err    error
	purged pelton.Purged
	asked  []string // what was changed
}

func (f *fakeQueues) Queues(context.Context) ([]pelton.Queue, error) { return f.queues, f.err }

func (f *fakeQueues) Queue(_ context.Context, name string) (*pelton.Queue, error) {
	for _, q := range f.queues {
		if q.Name == name {
			return &q, f.err
		}
	}
	if f.err != nil {
		return nil, f.err
	}
	return nil, fmt.Errorf("get queue %s: %w", name, pelton.ErrNotFound)
}

func (f *fakeQueues) PatchQueue(_ context.Context, name string, patch []byte) (*pelton.Queue, error) {
	f.asked = append(f.asked, "patch "+name)
	q := pelton.Queue{Name: name}
	for _, known := range f.queues {
		if known.Name == name {
			q = known
		}
	}
	var err error
	if q.Settings, err = q.Settings.Merge(patch); err != nil {
		return nil, err
	}
	if q.Settings.Rate != nil {
		return nil, fmt.Errorf("rate: %w", pelton.ErrNotSupported)
	}
	return &q, f.err
}

func (f *fakeQueues) Pause(ctx context.Context, name string, p pelton.Priority) (*pelton.Queue, error) {
	f.asked = append(f.asked, "pause "+name+" "+string(p))
	return f.Queue(ctx, name)
}

func (f *fakeQueues) Resume(ctx context.Context, name string, p pelton.Priority) (*pelton.Queue, error) {
	f.asked = append(f.asked, "resume "+name+" "+string(p))
	return f.Queue(ctx, name)
}

func (f *fakeQueues) Purge(ctx context.Context, name string, p pelton.Priority, cursor string) (*pelton.Purged, error) {
	f.asked = append(f.asked, "purge "+name+" "+string(p)+" "+cursor)
	if cursor == "bad" {
		return nil, &pelton.ValidationError{Fields: []pelton.FieldError{{Field: "cursor", Message: "is not one of an answer"}}}
	}
	if _, err := f.Queue(ctx, name); err != nil {
		return nil, err
	}
	return &f.purged, nil
}

// serve is the API over fakes; change may set more of the Config.
func serve(t testing.TB, tasks *fakeTasks, change func(*Config)) http.Handler {
	t.Helper()
	cfg := Config{Tasks: tasks, Lists: &fakeLister{}, Why: &fakeWhy{}, Queues: &fakeQueues{}, Dead: &fakeDead{}, Locks: &fakeLocks{}, Limits: &fakeLimits{}, Workers: &fakeWorkers{}, Schedules: newFakeSchedules(), Version: "v1.2.3"}
	if change != nil {
		change(&cfg)
	}
	h, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// call makes one request. headers are pairs; a body is sent as JSON unless they
// say otherwise.
func call(t *testing.T, h http.Handler, method, target, body string, headers ...string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), method, target, strings.NewReader(body))
	r.Host = "localhost:7420"
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for pair := range slices.Chunk(headers, 2) {
		switch name, value := pair[0], pair[1]; name {
		case "Host":
			r.Host = value
		case "Content-Type":
			r.Header.Set(name, value)
		default:
			r.Header.Add(name, value)
		}
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func decodeTask(t *testing.T, w *httptest.ResponseRecorder) pelton.Task {
	t.Helper()
	if got := w.Header().Get("Content-Type"); got != "application/json" {
		t.Errorf("Content-Type = %q", got)
	}
	var task pelton.Task
	if err := json.Unmarshal(w.Body.Bytes(), &task); err != nil {
		t.Fatalf("decode task: %v\n%s", err, w.Body)
	}
	return task
}

// wantProblem checks that w is a whole problem, and returns it.
func wantProblem(t *testing.T, w *httptest.ResponseRecorder, status int, k kind) problem {
	t.Helper()
	var p problem
	if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil {
		t.Fatalf("decode problem: %v\n%s", err, w.Body)
	}
	if w.Code != status || p.Status != status || p.Type != k {
		t.Errorf("status = %d, problem %+v; want %d %s", w.Code, p, status, k)
	}
	if p.Title == "" || p.Detail == "" {
		t.Errorf("problem %+v lacks a title or a detail", p)
	}
	if got := w.Header().Get("Content-Type"); got != problemMediaType {
		t.Errorf("Content-Type = %q", got)
	}
	if got := w.Header().Get("Cache-Control"); got != "no-store" {
		t.Errorf("Cache-Control = %q", got)
	}
	return p
}

func TestNewNeedsTasksAndQueues(t *testing.T) {
	t.Parallel()
	for name, cfg := range map[string]Config{
		"tasks":       {Why: &fakeWhy{}, Queues: &fakeQueues{}, Dead: &fakeDead{}, Locks: &fakeLocks{}, Limits: &fakeLimits{}, Workers: &fakeWorkers{}, Schedules: newFakeSchedules()},
		"queues":      {Why: &fakeWhy{}, Tasks: newFakeTasks(), Dead: &fakeDead{}, Locks: &fakeLocks{}, Limits: &fakeLimits{}, Workers: &fakeWorkers{}, Schedules: newFakeSchedules()},
		"dead":        {Why: &fakeWhy{}, Tasks: newFakeTasks(), Queues: &fakeQueues{}, Locks: &fakeLocks{}, Limits: &fakeLimits{}, Workers: &fakeWorkers{}, Schedules: newFakeSchedules()},
		"locks":       {Why: &fakeWhy{}, Tasks: newFakeTasks(), Queues: &fakeQueues{}, Dead: &fakeDead{}, Limits: &fakeLimits{}, Workers: &fakeWorkers{}, Schedules: newFakeSchedules()},
		"empty host":  {Why: &fakeWhy{}, Tasks: newFakeTasks(), Queues: &fakeQueues{}, Dead: &fakeDead{}, Locks: &fakeLocks{}, Limits: &fakeLimits{}, Workers: &fakeWorkers{}, Schedules: newFakeSchedules(), AllowedHosts: []string{""}},
		"limits":      {Why: &fakeWhy{}, Tasks: newFakeTasks(), Queues: &fakeQueues{}, Dead: &fakeDead{}, Locks: &fakeLocks{}, Workers: &fakeWorkers{}, Schedules: newFakeSchedules()},
		"workers":     {Why: &fakeWhy{}, Tasks: newFakeTasks(), Queues: &fakeQueues{}, Dead: &fakeDead{}, Locks: &fakeLocks{}, Limits: &fakeLimits{}, Schedules: newFakeSchedules()},
		"why":         {Tasks: newFakeTasks(), Queues: &fakeQueues{}, Dead: &fakeDead{}, Locks: &fakeLocks{}, Limits: &fakeLimits{}, Workers: &fakeWorkers{}, Schedules: newFakeSchedules()},
		"schedules":   {Why: &fakeWhy{}, Tasks: newFakeTasks(), Queues: &fakeQueues{}, Dead: &fakeDead{}, Locks: &fakeLocks{}, Limits: &fakeLimits{}, Workers: &fakeWorkers{}},
		"memory":      {Why: &fakeWhy{}, Tasks: newFakeTasks(), Queues: &fakeQueues{}, Dead: &fakeDead{}, Locks: &fakeLocks{}, Limits: &fakeLimits{}, Workers: &fakeWorkers{}, Schedules: newFakeSchedules(), Memory: NewBudget(MinMemory - 1)},
		"nothing set": {},
	} {
		if _, err := New(cfg); err == nil {
			t.Errorf("%s: New accepted a config that lacks it", name)
		}
	}
}
