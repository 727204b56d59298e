package admin_test

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/admin"
	"github.com/peltonq/pelton/internal/brokertest"
	"github.com/peltonq/pelton/worker"
)

// listAll lists what a query selects, page by page.
func listAll(t *testing.T, client *admin.Client, q pelton.TaskQuery) (tasks []*pelton.Task) {
	t.Helper()
	for range 200 {
		page, err := client.Tasks(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		if q.Limit > 0 && len(page.Items) > q.Limit {
			t.Errorf("a page of %d tasks, want at most %d", len(page.Items), q.Limit)
		}
		if tasks = append(tasks, page.Items...); page.NextCursor == "" {
			return tasks
		}
		q.Cursor = page.NextCursor
	}
	t.Fatal("the list does not end")
	return nil
}

// zoo has tasks of every state, newest last.
type zoo struct {
	client *admin.Client
	all    map[pelton.State][]string
	at     map[string]time.Time // after a task reached its state
}

func (z *zoo) note(state pelton.State, id pelton.ID) {
	z.all[state] = append(z.all[state], id.String())
	z.at[id.String()] = time.Now()
}

// newest are the ids of a state as a list has them.
func (z *zoo) newest(state pelton.State) []string {
	out := slices.Clone(z.all[state])
	// Running tasks of one millisecond come in no order, and those of a line become ready
	// when they are called.
	if state == pelton.Running || state == pelton.Queued {
		slices.Sort(out)
	}
	slices.Reverse(out)
	return out
}

func newZoo(t *testing.T) *zoo {
	t.Helper()
	nc := brokertest.Start(t)
	client, producing := open(t, nc)
	z := &zoo{client: client, all: map[pelton.State][]string{}, at: map[string]time.Time{}}
	mux := worker.NewMux()
	mux.Handle("ok", worker.HandlerFunc(func(context.Context, *pelton.Task) (json.RawMessage, error) { return json.RawMessage(`{"r": 1}`), nil }))
	mux.Handle("bad", worker.HandlerFunc(func(context.Context, *pelton.Task) (json.RawMessage, error) {
		return nil, pelton.Discard(errors.New("boo"))
	}))
	mux.Handle("hold", worker.HandlerFunc(func(ctx context.Context, _ *pelton.Task) (json.RawMessage, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}))
	w, err := worker.New(nc, mux, worker.Config{Queues: []string{"served"}, Grace: time.Nanosecond})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil && !errors.Is(err, pelton.ErrGraceExceeded) {
			t.Errorf("worker: %v", err)
		}
	})
	enqueue := func(spec pelton.Spec, opts ...pelton.Option) *pelton.Task {
		t.Helper()
		task, err := producing.Enqueue(t.Context(), spec, opts...)
		if err != nil {
			t.Fatal(err)
		}
		return task
	}
	for range 5 {
		task := enqueue(pelton.Spec{Kind: "ok", Queue: "served", Labels: map[string]string{"tenant": "acme"}})
		if _, err := producing.Wait(t.Context(), task.ID); err != nil {
			t.Fatal(err)
		}
		z.note(pelton.Succeeded, task.ID)
	}
	for range 4 {
		z.note(pelton.Failed, die(t, client, producing, "bad", "served").ID)
	}
	for range 3 {
		task := enqueue(pelton.Spec{Kind: "k", Queue: "idle"})
		if _, err := producing.Cancel(t.Context(), task.ID); err != nil {
			t.Fatal(err)
		}
		z.note(pelton.Cancelled, task.ID)
	}
	for i := range 7 {
		spec := pelton.Spec{Kind: "k", Queue: "idle", Priority: pelton.Priorities()[i%2], Payload: json.RawMessage(`{"a": 1.0}`)}
		if i == 0 || i == 2 {
			spec.ConcurrencyKey = "line" // the first is called, at some time, the second waits in the line
		}
		if i%2 == 1 {
			spec.Labels = map[string]string{"tenant": "acme", "odd": "yes"}
		}
		z.note(pelton.Queued, enqueue(spec).ID)
	}
	for range 2 {
		z.note(pelton.Running, enqueue(pelton.Spec{Kind: "hold", Queue: "served"}).ID)
	}
	z.note(pelton.Scheduled, enqueue(pelton.Spec{Kind: "k", Queue: "idle"}, pelton.WithDelay(time.Hour)).ID)
	z.waitRunning(t)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the first of the line is called", func() bool {
		places, err := js.Stream(t.Context(), "pelton_KEYED_0")
		return err == nil && places.CachedInfo().State.Msgs == 1
	})
	return z
}

// waitRunning waits until the worker has said what it runs.
func (z *zoo) waitRunning(t *testing.T) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.After(20 * time.Second); ; {
		page, err := z.client.Tasks(t.Context(), pelton.TaskQuery{TaskFilter: pelton.TaskFilter{State: pelton.Running}})
		if err == nil && len(page.Items) == len(z.all[pelton.Running]) {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("running tasks: %+v, %v", page, err)
		}
	}
}

// listed are the ids of a list, as newest has them.
func listed(state pelton.State, tasks []*pelton.Task) []string {
	out := ids(tasks)
	if state == pelton.Queued {
		slices.Sort(out)
		slices.Reverse(out)
	}
	return out
}

func TestTasksOfEveryState(t *testing.T) {
	t.Parallel()
	z := newZoo(t)
	for _, state := range []pelton.State{pelton.Queued, pelton.Running, pelton.Succeeded, pelton.Failed, pelton.Cancelled, pelton.Expired, pelton.Scheduled} {
		for _, limit := range []int{0, 1, 3} {
			got := listAll(t, z.client, pelton.TaskQuery{TaskFilter: pelton.TaskFilter{State: state}, Limit: limit})
			if diff := cmp.Diff(z.newest(state), listed(state, got), cmp.Transformer("nil", func(s []string) []string { return append([]string{}, s...) })); diff != "" {
				t.Errorf("%s, %d a page (-want +got):\n%s", state, limit, diff)
			}
			for _, task := range got {
				read, err := z.client.Tasks(t.Context(), pelton.TaskQuery{TaskFilter: pelton.TaskFilter{State: state}, Limit: 500})
				if err != nil || task.State != state || !slices.ContainsFunc(read.Items, func(o *pelton.Task) bool { return o.ID == task.ID && o.Revision == task.Revision }) {
					t.Errorf("listed as %s: %+v, %v", state, task, err)
				}
			}
		}
	}
	var every []string
	for _, ids := range z.all {
		every = append(every, ids...)
	}
	slices.Sort(every)
	for _, limit := range []int{0, 1, 4} {
		got := ids(listAll(t, z.client, pelton.TaskQuery{Limit: limit}))
		if first, want := got[len(got)-1], z.all[pelton.Succeeded][0]; first != want {
			t.Errorf("all tasks: the oldest change is of %s, want %s", first, want)
		}
		slices.Sort(got)
		if diff := cmp.Diff(every, got); diff != "" {
			t.Errorf("all tasks, %d a page (-want +got):\n%s", limit, diff)
		}
	}
}

func TestTaskFilters(t *testing.T) {
	t.Parallel()
	z := newZoo(t)
	made := z.all[pelton.Queued]
	odd := []string{made[5], made[3], made[1]}
	failed, over := z.newest(pelton.Failed), z.newest(pelton.Succeeded)
	cut := z.at[z.all[pelton.Succeeded][2]] // after the third
	for name, tt := range map[string]struct {
		f    pelton.TaskFilter
		want []string
	}{
		"priority":        {pelton.TaskFilter{State: pelton.Queued, Priority: pelton.High}, odd},
		"label":           {pelton.TaskFilter{State: pelton.Queued, Labels: map[string]string{"odd": "yes", "tenant": "acme"}}, odd},
		"another label":   {pelton.TaskFilter{State: pelton.Queued, Labels: map[string]string{"odd": "no"}}, []string{}},
		"queue":           {pelton.TaskFilter{State: pelton.Queued, Queue: "served"}, []string{}},
		"error":           {pelton.TaskFilter{Error: "discarded: boo"}, failed},
		"no such error":   {pelton.TaskFilter{State: pelton.Failed, Error: "timeout"}, []string{}},
		"kind":            {pelton.TaskFilter{Kind: "ok"}, over},
		"since":           {pelton.TaskFilter{State: pelton.Succeeded, Since: cut}, over[:2]},
		"until":           {pelton.TaskFilter{State: pelton.Succeeded, Until: cut}, over[2:]},
		"since, of all":   {pelton.TaskFilter{Kind: "ok", Since: cut}, over[:2]},
		"until, of all":   {pelton.TaskFilter{Until: cut}, over[2:]},
		"ready since":     {pelton.TaskFilter{State: pelton.Queued, Since: cut, Labels: map[string]string{"odd": "yes"}}, odd},
		"ready until":     {pelton.TaskFilter{State: pelton.Queued, Until: cut}, []string{}},
		"failed until":    {pelton.TaskFilter{State: pelton.Failed, Until: cut}, []string{}},
		"started since":   {pelton.TaskFilter{State: pelton.Running, Since: time.Now()}, []string{}},
		"started until":   {pelton.TaskFilter{State: pelton.Running, Until: time.Now()}, z.newest(pelton.Running)},
		"scheduled until": {pelton.TaskFilter{State: pelton.Scheduled, Until: time.Now().Add(time.Minute)}, []string{}},
		"scheduled since": {pelton.TaskFilter{State: pelton.Scheduled, Since: time.Now().Add(time.Minute)}, z.all[pelton.Scheduled]},
	} {
		for _, limit := range []int{1, 50} {
			if diff := cmp.Diff(tt.want, ids(listAll(t, z.client, pelton.TaskQuery{TaskFilter: tt.f, Limit: limit}))); diff != "" {
				t.Errorf("%s, %d a page (-want +got):\n%s", name, limit, diff)
			}
		}
	}
}

// bulkAll makes a call by filter until nothing is left.
func bulkAll(t *testing.T, call func(context.Context, pelton.TaskQuery, bool) (*pelton.BulkResult, error), q pelton.TaskQuery, dryRun bool) (total pelton.BulkResult) {
	t.Helper()
	for range 100 {
		got, err := call(t.Context(), q, dryRun)
		if err != nil {
			t.Fatal(err)
		}
		if q.Limit > 0 && got.Matched > q.Limit {
			t.Errorf("a call matched %d, want at most %d", got.Matched, q.Limit)
		}
		total.Matched, total.Done, total.Failed = total.Matched+got.Matched, total.Done+got.Done, total.Failed+got.Failed
		if q.Cursor = got.NextCursor; q.Cursor == "" {
			return total
		}
	}
	t.Fatal("the calls do not end")
	return total
}

func TestCancelAndRetryByFilter(t *testing.T) {
	t.Parallel()
	z := newZoo(t)
	if got := bulkAll(t, z.client.CancelTasks, pelton.TaskQuery{Limit: 3}, true); got != (pelton.BulkResult{Matched: 10}) {
		t.Errorf("a dry run = %+v, want 1 scheduled, 7 queued and 2 running", got)
	}
	acme := pelton.TaskFilter{Labels: map[string]string{"tenant": "acme"}}
	if got := bulkAll(t, z.client.CancelTasks, pelton.TaskQuery{TaskFilter: acme, Limit: 2}, false); got != (pelton.BulkResult{Matched: 3, Done: 3}) {
		t.Errorf("by label = %+v", got)
	}
	if got := bulkAll(t, z.client.CancelTasks, pelton.TaskQuery{Limit: 4}, false); got != (pelton.BulkResult{Matched: 7, Done: 7}) {
		t.Errorf("the rest = %+v", got)
	}
	if got := listAll(t, z.client, pelton.TaskQuery{TaskFilter: pelton.TaskFilter{State: pelton.Cancelled}}); len(got) != 13 {
		t.Errorf("%d are cancelled, want 13", len(got))
	}
	for _, state := range []pelton.State{pelton.Scheduled, pelton.Queued, pelton.Running} {
		if got := listAll(t, z.client, pelton.TaskQuery{TaskFilter: pelton.TaskFilter{State: state}}); len(got) > 0 {
			t.Errorf("still %s: %v", state, ids(got))
		}
	}

	if got := bulkAll(t, z.client.RetryTasks, pelton.TaskQuery{}, true); got != (pelton.BulkResult{Matched: 4}) {
		t.Errorf("a dry run of a retry = %+v, want the failed ones", got)
	}
	idle := pelton.TaskQuery{TaskFilter: pelton.TaskFilter{State: pelton.Cancelled, Queue: "idle"}, Limit: 4}
	if got := bulkAll(t, z.client.RetryTasks, idle, false); got != (pelton.BulkResult{Matched: 11, Done: 11}) {
		t.Errorf("retry of cancelled ones = %+v", got)
	}
	if got := listAll(t, z.client, pelton.TaskQuery{TaskFilter: pelton.TaskFilter{State: pelton.Queued}}); len(got) != 11 {
		t.Errorf("%d are queued, want 11", len(got))
	}
	for name, call := range map[string]func() error{
		"state": func() error {
			_, err := z.client.CancelTasks(t.Context(), pelton.TaskQuery{TaskFilter: pelton.TaskFilter{State: pelton.Failed}}, true)
			return err
		},
		"limit": func() error {
			_, err := z.client.RetryTasks(t.Context(), pelton.TaskQuery{Limit: 1001}, true)
			return err
		},
		"cursor": func() error {
			_, err := z.client.RetryTasks(t.Context(), pelton.TaskQuery{Cursor: "failed:q1.1"}, true)
			return err
		},
	} {
		var invalid *pelton.ValidationError
		if err := call(); !errors.As(err, &invalid) || len(invalid.Fields) != 1 || invalid.Fields[0].Field != name {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Tasks go from a line to a lane while they are cancelled, a few with each call: none is missed.
func TestCancelByFilterMeetsWhatMovesOn(t *testing.T) {
	t.Parallel()
	nc := brokertest.Start(t)
	client, producing := open(t, nc)
	stop := working(t, nc)
	defer stop()
	for range 200 {
		enqueue(t, producing, pelton.Spec{Kind: "rests", ConcurrencyKey: "k"})
	}
	got := bulkAll(t, client.CancelTasks, pelton.TaskQuery{TaskFilter: pelton.TaskFilter{State: pelton.Queued}, Limit: 10}, false)
	over := len(listAll(t, client, pelton.TaskQuery{TaskFilter: pelton.TaskFilter{State: pelton.Cancelled}}))
	if over != got.Done || over == 0 {
		t.Errorf("%d tasks are cancelled, want %d", over, got.Done)
	}
	stop() // what was missed stays behind
	if left := listAll(t, client, pelton.TaskQuery{TaskFilter: pelton.TaskFilter{State: pelton.Queued}}); len(left) > 0 {
		t.Errorf("still queued: %v", ids(left))
	}
}
