package admin_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/admin"
	"github.com/peltonq/pelton/internal/brokertest"
	"github.com/peltonq/pelton/producer"
	"github.com/peltonq/pelton/worker"
)

// dying runs a worker whose handlers fail for good, with the task's kind as their
// error, until allow is called; after that they succeed.
func dying(t *testing.T, nc *nats.Conn, queues ...string) (allow func()) {
	t.Helper()
	healed := make(chan struct{})
	mux := worker.NewMux()
	for _, kind := range []string{"a", "b"} {
		mux.Handle(kind, worker.HandlerFunc(func(context.Context, *pelton.Task) (json.RawMessage, error) {
			select {
			case <-healed:
				return json.RawMessage(`"ok"`), nil
			default:
				return nil, pelton.Discard(errors.New("kind " + kind + " is broken"))
			}
		}))
	}
	w, err := worker.New(nc, mux, worker.Config{Queues: queues})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("worker: %v", err)
		}
	})
	return sync.OnceFunc(func() { close(healed) })
}

// die enqueues a task and waits until it has failed and left its letter, which
// is written after its record.
func die(t *testing.T, client *admin.Client, producing *producer.Client, kind, queue string) *pelton.Task {
	t.Helper()
	task, err := producing.Enqueue(t.Context(), pelton.Spec{Kind: kind, Queue: queue, Payload: json.RawMessage(`{"n": 1}`)})
	if err != nil {
		t.Fatal(err)
	}
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.After(20 * time.Second); ; {
		if _, err := client.DeadLetter(t.Context(), task.ID); err == nil {
			return task
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("no dead letter")
		}
	}
}

func ids(tasks []*pelton.Task) []string {
	out := []string{}
	for _, task := range tasks {
		out = append(out, task.ID.String())
	}
	return out
}

func TestDeadLetters(t *testing.T) {
	t.Parallel()
	nc := brokertest.Start(t)
	client, producing := open(t, nc)
	dying(t, nc, "x", "y")
	first := die(t, client, producing, "a", "x")
	second := die(t, client, producing, "b", "x")
	third := die(t, client, producing, "a", "y")

	letter, err := client.DeadLetter(t.Context(), first.ID)
	if err != nil || letter.ID != first.ID || letter.State != pelton.Failed || letter.Queue != "x" || letter.Worker == "" || string(letter.Payload) != `{"n": 1}` {
		t.Fatalf("DeadLetter = %+v, %v", letter, err)
	}
	if letter.Error == nil || letter.Error.Message != "kind a is broken" || letter.Error.Reason != pelton.ReasonDiscarded || len(letter.Errors) != 1 {
		t.Errorf("errors = %+v", letter.Errors)
	}

	for _, tc := range []struct {
		filter pelton.DeadFilter
		want   []*pelton.Task
	}{
		{pelton.DeadFilter{}, []*pelton.Task{third, second, first}},
		{pelton.DeadFilter{Queue: "x"}, []*pelton.Task{second, first}},
		{pelton.DeadFilter{Kind: "a"}, []*pelton.Task{third, first}},
		{pelton.DeadFilter{Queue: "x", Kind: "a"}, []*pelton.Task{first}},
		{pelton.DeadFilter{Error: "kind b"}, []*pelton.Task{second}},
		{pelton.DeadFilter{Error: "discarded: kind"}, []*pelton.Task{third, second, first}},
		{pelton.DeadFilter{Error: "Kind"}, nil},
		{pelton.DeadFilter{Queue: "nowhere"}, nil},
	} {
		page, err := client.DeadLetters(t.Context(), pelton.DeadQuery{DeadFilter: tc.filter})
		if err != nil || page.NextCursor != "" {
			t.Errorf("%+v: %+v, %v", tc.filter, page, err)
			continue
		}
		if diff := cmp.Diff(ids(tc.want), ids(page.Items)); diff != "" {
			t.Errorf("%+v (-want +got):\n%s", tc.filter, diff)
		}
	}

	// Page by page.
	var got []*pelton.Task
	q := pelton.DeadQuery{Limit: 1}
	for range 3 {
		page, err := client.DeadLetters(t.Context(), q)
		if err != nil || len(page.Items) != 1 {
			t.Fatalf("page = %+v, %v", page, err)
		}
		got, q.Cursor = append(got, page.Items...), page.NextCursor
	}
	if diff := cmp.Diff(ids([]*pelton.Task{third, second, first}), ids(got)); diff != "" || q.Cursor != "" {
		t.Errorf("pages end with %q (-want +got):\n%s", q.Cursor, diff)
	}

	if err := client.DeleteDeadLetter(t.Context(), second.ID); err != nil {
		t.Fatal(err)
	}
	for name, err := range map[string]error{
		"DeadLetter":       second3(client.DeadLetter(t.Context(), second.ID)),
		"DeleteDeadLetter": client.DeleteDeadLetter(t.Context(), second.ID),
		"RetryDeadLetter":  second3(client.RetryDeadLetter(t.Context(), second.ID)),
	} {
		if !errors.Is(err, pelton.ErrNotFound) {
			t.Errorf("%s of a letter that is gone = %v, want ErrNotFound", name, err)
		}
	}
	if task, err := producing.Get(t.Context(), second.ID); err != nil || task.State != pelton.Failed {
		t.Errorf("the record of a deleted letter = %+v, %v", task, err)
	}
}

func second3(_ *pelton.Task, err error) error { return err }

func TestDeadQueriesThatMakeNoSense(t *testing.T) {
	t.Parallel()
	client, _ := open(t, brokertest.Start(t))
	for field, q := range map[string]pelton.DeadQuery{
		"queue":  {DeadFilter: pelton.DeadFilter{Queue: "*"}},
		"kind":   {DeadFilter: pelton.DeadFilter{Kind: " "}},
		"limit":  {Limit: 1001},
		"cursor": {Cursor: "not one"},
	} {
		_, listed := client.DeadLetters(t.Context(), q)
		_, retried := client.RetryDeadLetters(t.Context(), q, false)
		_, purged := client.PurgeDeadLetters(t.Context(), q, true)
		for _, err := range []error{listed, retried, purged} {
			var invalid *pelton.ValidationError
			if !errors.As(err, &invalid) || len(invalid.Fields) != 1 || invalid.Fields[0].Field != field {
				t.Errorf("%+v: %v, want one about %s", q, err, field)
			}
		}
	}
	if _, err := client.DeadLetters(t.Context(), pelton.DeadQuery{Cursor: "0"}); !errors.Is(err, pelton.ErrInvalid) {
		t.Errorf("cursor 0: %v", err)
	}
}

func TestRetryDeadLetter(t *testing.T) {
	t.Parallel()
	nc := brokertest.Start(t)
	client, producing := open(t, nc)
	allow := dying(t, nc, pelton.DefaultQueue)
	dead := die(t, client, producing, "a", "")
	again, err := client.RetryDeadLetter(t.Context(), dead.ID)
	if err != nil || again.ID != dead.ID || again.Attempt != 0 || len(again.Errors) != 1 {
		t.Fatalf("RetryDeadLetter = %+v, %v", again, err)
	}
	// It dies again, with both failures in its history.
	eventually(t, "it is dead again", func() bool {
		letter, err := client.DeadLetter(t.Context(), dead.ID)
		return err == nil && len(letter.Errors) == 2
	})
	allow()
	if _, err := client.RetryDeadLetter(t.Context(), dead.ID); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	over, err := producing.Wait(ctx, dead.ID)
	if err != nil || over.State != pelton.Succeeded || over.Attempt != 1 || len(over.Errors) != 2 || over.Error != nil {
		t.Errorf("task = %+v, %v", over, err)
	}
	if _, err := client.DeadLetter(t.Context(), dead.ID); !errors.Is(err, pelton.ErrNotFound) {
		t.Errorf("letter of a task that succeeded: %v", err)
	}
}

func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.After(20 * time.Second); !cond(); {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not within 20 s: %s", what)
		}
	}
}

func TestBulk(t *testing.T) {
	t.Parallel()
	nc := brokertest.Start(t)
	client, producing := open(t, nc)
	allow := dying(t, nc, "x", "y")
	const n = 6
	for i := range n {
		die(t, client, producing, "a", []string{"x", "y"}[i%2])
	}
	x := pelton.DeadQuery{DeadFilter: pelton.DeadFilter{Queue: "x"}}
	check := func(what string, got *pelton.BulkResult, err error, want pelton.BulkResult) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if diff := cmp.Diff(want, *got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
	}
	dry, err := client.RetryDeadLetters(t.Context(), x, true)
	check("dry run", dry, err, pelton.BulkResult{Matched: n / 2})

	allow()
	// Two, then the rest from the cursor.
	two := x
	two.Limit = 2
	part, err := client.RetryDeadLetters(t.Context(), two, false)
	if err != nil || part.Matched != 2 || part.Done != 2 || part.NextCursor == "" {
		t.Fatalf("two of them: %+v, %v", part, err)
	}
	two.Cursor = part.NextCursor
	rest, err := client.RetryDeadLetters(t.Context(), two, false)
	check("the rest", rest, err, pelton.BulkResult{Matched: 1, Done: 1})
	eventually(t, "the retried ones are done", func() bool {
		idle, err := client.Idle(t.Context())
		return err == nil && idle
	})

	dry, err = client.PurgeDeadLetters(t.Context(), pelton.DeadQuery{}, true)
	check("dry purge", dry, err, pelton.BulkResult{Matched: n / 2})
	purged, err := client.PurgeDeadLetters(t.Context(), pelton.DeadQuery{}, false)
	check("purge", purged, err, pelton.BulkResult{Matched: n / 2, Done: n / 2})
	if page, err := client.DeadLetters(t.Context(), pelton.DeadQuery{}); err != nil || len(page.Items) != 0 {
		t.Errorf("left: %+v, %v", page, err)
	}
	eventually(t, "the counter follows", func() bool {
		queue, err := client.Queue(t.Context(), "y")
		return err == nil && queue.Dead == 0
	})
}

// TestBulkIsThrottled takes as long as the rate says.
func TestBulkIsThrottled(t *testing.T) {
	t.Parallel()
	nc := brokertest.Start(t)
	client, producing := open(t, nc)
	dying(t, nc, pelton.DefaultQueue)
	const n = 51
	specs := make([]pelton.Spec, n)
	for i := range specs {
		specs[i].Kind = "a"
	}
	if _, err := producing.EnqueueMany(t.Context(), specs); err != nil {
		t.Fatal(err)
	}
	eventually(t, "all are dead", func() bool {
		page, err := client.DeadLetters(t.Context(), pelton.DeadQuery{Limit: 500})
		return err == nil && len(page.Items) == n
	})
	began := time.Now()
	if purged, err := client.PurgeDeadLetters(t.Context(), pelton.DeadQuery{}, false); err != nil || purged.Done != n {
		t.Errorf("purge: %+v, %v", purged, err)
	}
	if took := time.Since(began); took < 100*time.Millisecond {
		t.Errorf("%d letters in %s are more than 500 a second", n, took)
	}
}

// TestBulkStopsWithItsCaller tells how far it came.
func TestBulkStopsWithItsCaller(t *testing.T) {
	t.Parallel()
	srv := brokertest.StartServer(t)
	nc := brokertest.Connect(t, srv)
	client, producing := open(t, nc)
	dying(t, brokertest.Connect(t, srv), pelton.DefaultQueue) // whose connection stays, so that it drains cleanly
	die(t, client, producing, "a", "")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if got, err := client.PurgeDeadLetters(ctx, pelton.DeadQuery{}, false); err == nil {
		t.Errorf("purge with a ctx that is over = %+v", got)
	}
	nc.Close()
	if got, err := client.RetryDeadLetters(t.Context(), pelton.DeadQuery{}, false); !errors.Is(err, pelton.ErrUnavailable) {
		t.Errorf("retry without a broker = %+v, %v", got, err)
	}
}

func ExampleClient_RetryDeadLetters() {
	var client *admin.Client // of admin.New
	retryBroken := func(ctx context.Context) error {
		q := pelton.DeadQuery{DeadFilter: pelton.DeadFilter{Queue: "emails", Error: "connection refused"}}
		for {
			result, err := client.RetryDeadLetters(ctx, q, false)
			if err != nil {
				return err
			}
			fmt.Println("retried", result.Done)
			if q.Cursor = result.NextCursor; q.Cursor == "" {
				return nil
			}
		}
	}
	_ = retryBroken
}
