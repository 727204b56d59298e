package chaos_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/chaos/history"
)

var client = &http.Client{
	Transport: &http.Transport{MaxIdleConnsPerHost: 64, ResponseHeaderTimeout: 60 * time.Second},
	Timeout:   90 * time.Second,
}

// call makes a request and gives status and body; err is of the transport. headers are
// names and values in turn.
func call(ctx context.Context, method, url, body string, headers ...string) (int, []byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewBufferString(body))
	if err != nil {
		return 0, nil, err
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for header := range slices.Chunk(headers, 2) {
		req.Header.Set(header[0], header[1])
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	return resp.StatusCode, answer, err
}

// order is a task to enqueue.
type order struct {
	kind    string
	ms      int
	times   int
	mib     int
	timeout time.Duration
	wait    time.Duration // after a failed attempt
	delay   time.Duration
	at      time.Time
	// priority of the task; empty is the default.
	priority pelton.Priority
	pad      int // bytes of ballast in the payload

	key         string // concurrency key
	unique      string // key among the tasks of the kind
	conflict    pelton.OnConflict
	until       pelton.UniqueUntil
	window      time.Duration // of the unique key
	idempotency string        // key of the request
	lock        string        // what it works under
	slots       int           // of the lock
	bare        bool          // its runs do not ask for their fence
	queue       string        // empty is the default
}

// body is the request that enqueues the order under a name.
func (o *order) body(ref string) ([]byte, error) {
	body := map[string]any{
		"kind": o.kind, "retention": "1h", "max_attempts": 10,
		"payload": map[string]any{
			"ref": ref, "ms": o.ms, "times": o.times, "mib": o.mib, "wait_ms": o.wait.Milliseconds(), "pad": strings.Repeat("x", o.pad),
			"lock": o.lock, "slots": o.slots, "bare": o.bare,
		},
	}
	if o.timeout > 0 {
		body["timeout"] = pelton.FormatDuration(o.timeout)
	}
	if o.delay > 0 {
		body["delay"] = pelton.FormatDuration(o.delay)
	}
	if !o.at.IsZero() {
		body["run_at"] = o.at.UTC()
	}
	if o.queue != "" {
		body["queue"] = o.queue
	}
	if o.priority != "" {
		body["priority"] = o.priority
	}
	if o.key != "" {
		body["concurrency_key"] = o.key
	}
	if o.unique != "" {
		body["unique"] = o.terms()
	}
	return json.Marshal(body)
}

// terms are what is asked for with a unique key.
func (o *order) terms() *pelton.Unique {
	return &pelton.Unique{Key: o.unique, Until: o.until, Window: o.window, OnConflict: o.conflict}
}

// uniqueKey names a unique key in the history: it belongs to its kind.
func uniqueKey(kind, key string) string { return kind + "/" + key }

// producer enqueues over HTTP, reads and cancels, and writes down what it was told.
type producer struct {
	s    *suite
	log  *history.Log
	base string // http://HOST:PORT of the API

	mu    sync.Mutex
	n     int
	ids   []pelton.ID // accepted
	known map[pelton.ID]bool
}

func newProducer(s *suite) *producer {
	return &producer{s: s, log: s.actor("producer"), base: "http://" + s.server.http.here, known: make(map[pelton.ID]bool)}
}

func (p *producer) url(path string) string { return p.base + path }

// name gives a name for a request.
func (p *producer) name() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.n++
	return fmt.Sprintf("t%d", p.n)
}

// enqueue sends an order once, under a name of its own, and gives the id if it was
// accepted.
func (p *producer) enqueue(o order) (id pelton.ID, accepted bool) {
	e := p.post(p.name(), o)
	return e.Task, e.Kind == history.EnqueueOK
}

// post sends an order once and gives what it wrote down of the answer.
func (p *producer) post(ref string, o order) history.Event {
	e := history.Event{Kind: history.EnqueueSent, Ref: ref, Key: history.LineOf(o.kind, o.key), Idempotency: o.idempotency}
	if o.unique != "" {
		e.Unique, e.Terms = uniqueKey(o.kind, o.unique), o.terms()
	}
	text, err := o.body(ref)
	if err != nil {
		p.s.Error(err)
		return e
	}
	var headers []string
	if o.idempotency != "" {
		headers = []string{"Idempotency-Key", o.idempotency}
	}
	sent := e
	sent.Note = o.kind
	p.s.write(p.log, sent)
	e.Began = history.Now()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	status, answer, err := call(ctx, http.MethodPost, p.url("/tasks"), string(text), headers...)
	var task pelton.Task
	switch {
	case err == nil && status == http.StatusAccepted && json.Unmarshal(answer, &task) == nil:
		e.Kind, e.Task, e.Retention, e.Record = history.EnqueueOK, task.ID, time.Hour, view(&task)
	case err == nil && status == http.StatusOK && json.Unmarshal(answer, &task) == nil:
		e.Kind, e.Task, e.Record = history.EnqueueExisting, task.ID, view(&task)
	case err == nil && !strings.Contains(string(answer), "unknown-outcome") && status >= 400:
		e.Kind, e.Note, e.Task = history.EnqueueRefused, fmt.Sprintf("%d %s", status, answer), holderOf(answer)
	case isDial(err):
		e.Kind, e.Note = history.EnqueueRefused, err.Error()
	default:
		e.Kind, e.Note = history.EnqueueUnknown, fmt.Sprintf("%d %s %v", status, answer, err)
	}
	p.s.write(p.log, e)
	if e.Kind == history.EnqueueOK {
		p.mu.Lock()
		defer p.mu.Unlock()
		if !p.known[e.Task] {
			p.known[e.Task] = true
			p.ids = append(p.ids, e.Task)
		}
	}
	return e
}

// holderOf is the task that a refusal names.
func holderOf(problem []byte) pelton.ID {
	var named struct {
		TaskID pelton.ID `json:"task_id"`
	}
	_ = json.Unmarshal(problem, &named) // most name none
	return named.TaskID
}

// isDial reports whether a request failed before anything of it was sent.
func isDial(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}

// must enqueues until it is accepted.
func (p *producer) must(o order) pelton.ID {
	for {
		if id, ok := p.enqueue(o); ok {
			return id
		}
		p.s.pause(50 * time.Millisecond)
	}
}

// flood enqueues what next gives, one order per tick, until it gives no more or ctx
// ends, and waits for the answers. No more than 16 are under way.
func (p *producer) flood(ctx context.Context, tick time.Duration, next func() (order, bool)) {
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	places := make(chan struct{}, 16)
	var flooding sync.WaitGroup
	defer flooding.Wait()
	for {
		o, more := next()
		if !more {
			return
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		places <- struct{}{}
		flooding.Go(func() {
			defer func() { <-places }()
			p.must(o)
		})
	}
}

// view is what the checker looks at in a task.
func view(t *pelton.Task) *history.Record {
	r := &history.Record{
		State: t.State, Revision: t.Revision, Attempt: t.Attempt, Crashes: t.Crashes, Worker: t.Worker,
		RunAt: t.RunAt, StartedAt: t.StartedAt, FinishedAt: t.FinishedAt,
	}
	r.ResultRun, r.ResultFence = runOf(t.Result)
	if t.Error != nil {
		r.Reason = t.Error.Reason
	}
	return r
}

// runOf is the run that an actor's result names, and its token.
func runOf(result []byte) (run string, fence uint64) {
	var named struct {
		Run   string `json:"run"`
		Fence uint64 `json:"fence"`
	}
	_ = json.Unmarshal(result, &named) // no result names none
	return named.Run, named.Fence
}

// get reads a task and writes down what came; nil if no record did.
func (p *producer) get(id pelton.ID, wait string) *pelton.Task { return p.getFrom(p.base, id, wait) }

// getFrom is get from another server.
func (p *producer) getFrom(base string, id pelton.ID, wait string) *pelton.Task {
	path := "/tasks/" + id.String()
	if wait != "" {
		path += "?wait=" + wait
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	began := history.Now()
	status, answer, err := call(ctx, http.MethodGet, base+path, "")
	e := history.Event{Began: began, Task: id}
	var task pelton.Task
	switch {
	case err == nil && status == http.StatusNotFound:
		e.Kind = history.Missing
	case err == nil && status == http.StatusOK && json.Unmarshal(answer, &task) == nil:
		e.Kind, e.Record = history.Observe, view(&task)
	default:
		return nil // the server is away
	}
	p.s.write(p.log, e)
	if e.Record == nil {
		return nil
	}
	return &task
}

// retry asks for a task that is over to run again.
func (p *producer) retry(id pelton.ID) {
	p.s.write(p.log, history.Event{Kind: history.RetrySent, Task: id})
	ctx, stop := context.WithTimeout(context.Background(), 10*time.Second)
	defer stop()
	_, _, _ = call(ctx, http.MethodPost, p.url("/tasks/"+id.String()+"/retry"), "") // the record tells
}

// accepted lists the tasks so far.
func (p *producer) accepted() []pelton.ID {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.ids)
}

// drain reads every accepted task until it is over, or the time is. Those that are
// not are the checker's to find.
func (p *producer) drain(within time.Duration) {
	deadline := time.Now().Add(within)
	ids := make(chan pelton.ID)
	var readers sync.WaitGroup
	for range 16 {
		readers.Go(func() {
			for id := range ids {
				for {
					task := p.get(id, "5s")
					if task != nil && task.State.Terminal() || time.Now().After(deadline) {
						break
					}
					if task == nil {
						p.s.pause(100 * time.Millisecond)
					}
				}
			}
		})
	}
	for _, id := range p.accepted() {
		ids <- id
	}
	close(ids)
	readers.Wait()
}

// finish waits until these tasks are over.
func (p *producer) finish(within time.Duration, ids ...pelton.ID) {
	p.s.Helper()
	deadline := time.Now().Add(within)
	for _, id := range ids {
		for {
			task := p.get(id, "2s")
			if task != nil && task.State.Terminal() {
				break
			}
			if time.Now().After(deadline) {
				p.s.Errorf("task %s is not over after %s: %+v", id, within, task)
				return
			}
		}
	}
}

// browse reads random tasks, or does with them what pick says, until ctx ends.
func (p *producer) browse(ctx context.Context, pick func(n int) (i int, do *verb)) {
	again := time.NewTicker(10 * time.Millisecond)
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-again.C:
		}
		ids := p.accepted()
		if len(ids) == 0 {
			continue
		}
		i, do := pick(len(ids))
		if do != nil {
			p.act(*do, ids[i])
		} else {
			p.get(ids[i], "")
		}
	}
}
