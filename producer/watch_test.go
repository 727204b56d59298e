package producer_test

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/brokertest"
	"github.com/peltonq/pelton/producer"
	"github.com/peltonq/pelton/worker"
)

func TestWatch(t *testing.T) {
	t.Parallel()
	nc := brokertest.Start(t)
	client := open(t, nc)
	mux := worker.NewMux()
	goOn := make(chan struct{})
	mux.Handle("k", handler(func(ctx context.Context, task *pelton.Task) (json.RawMessage, error) {
		worker.Progress(ctx, int64(task.Attempt), 2, "half")
		<-goOn
		if task.Attempt == 1 {
			return nil, pelton.RetryAfter(0, errBoom)
		}
		return json.RawMessage(`7`), nil
	}))
	task := enqueue(t, client, "k")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var states []pelton.State
	var last *pelton.Task
	for seen, err := range client.Watch(ctx, task.ID) {
		if err != nil {
			t.Fatal(err)
		}
		if last == nil {
			serve(t, nc, mux, worker.Config{}) // nothing happens before the first look
		} else if seen.Revision < last.Revision {
			t.Errorf("revision %d after %d", seen.Revision, last.Revision)
		}
		if len(states) == 0 || states[len(states)-1] != seen.State {
			states = append(states, seen.State)
		}
		if seen.State == pelton.Running && seen.Progress != nil && (last == nil || last.Progress == nil || last.Attempt != seen.Attempt) {
			goOn <- struct{}{} // it goes on when its progress was seen here
		}
		last = seen
	}
	// What lies between two attempts may be too quick to be seen.
	if states[0] != pelton.Queued || !slices.Contains(states, pelton.Running) || last.State != pelton.Succeeded {
		t.Errorf("states = %v", states)
	}
	if string(last.Result) != "7" || last.Attempt != 2 || last.Progress == nil || last.Progress.Done != 2 {
		t.Errorf("last = %+v", last)
	}
}

func TestWatchEnds(t *testing.T) {
	t.Parallel()
	nc := brokertest.Start(t)
	client := open(t, nc)

	for task, err := range client.Watch(t.Context(), pelton.NewID(time.Now(), 0)) {
		if task != nil || !errors.Is(err, pelton.ErrNotFound) {
			t.Errorf("unknown task: %+v, %v", task, err)
		}
	}

	task := enqueue(t, client, "k", pelton.WithDelay(time.Hour))
	for seen, err := range client.Watch(t.Context(), task.ID) {
		if err != nil || seen.Revision != task.Revision {
			t.Errorf("first = %+v, %v", seen, err)
		}
		break // and nothing stays behind
	}

	why := errors.New("enough")
	ctx, stop := context.WithCancelCause(t.Context())
	defer stop(nil)
	var errs []error
	for seen, err := range client.Watch(ctx, task.ID) {
		if seen == nil || seen.State != pelton.Scheduled {
			t.Errorf("seen = %+v", seen)
		}
		errs = append(errs, err)
		stop(why)
	}
	if len(errs) != 2 || errs[0] != nil || !errors.Is(errs[1], why) {
		t.Errorf("errors = %v", errs)
	}

	if _, err := client.Cancel(t.Context(), task.ID); err != nil {
		t.Fatal(err)
	}
	n := 0
	for seen, err := range client.Watch(t.Context(), task.ID) {
		if n++; err != nil || seen.State != pelton.Cancelled {
			t.Errorf("cancelled task: %+v, %v", seen, err)
		}
	}
	if n != 1 {
		t.Errorf("%d looks at a task that is over", n)
	}

	client.Close()
	for _, err := range client.Watch(t.Context(), task.ID) {
		if !errors.Is(err, pelton.ErrClosed) {
			t.Errorf("closed client: %v", err)
		}
	}
	nc.Close()
}

// TestWatchIsTold learns of changes at once, and not by reading again, which would be
// every two seconds.
func TestWatchIsTold(t *testing.T) {
	t.Parallel()
	nc := brokertest.Start(t)
	client := open(t, nc)
	began := time.Now()
	const n = 10
	for range n {
		watchCancelled(t, nc, client)
	}
	if took := time.Since(began); took > n*time.Second {
		t.Errorf("%d changes one after the other were seen after %s", n, took)
	}
}

// watchCancelled watches a task that is cancelled as soon as somebody watches it.
func watchCancelled(t *testing.T, nc *nats.Conn, client *producer.Client) {
	t.Helper()
	task := enqueue(t, client, "k", pelton.WithDelay(time.Hour))
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	subscribed, sent := nc.NumSubscriptions()+1, nc.Stats().OutMsgs
	go func() {
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for nc.NumSubscriptions() < subscribed || nc.Stats().OutMsgs == sent { // it listens, and reads
			<-tick.C
		}
		_, _ = client.Cancel(ctx, task.ID)
	}()
	var last *pelton.Task
	for seen, err := range client.Watch(ctx, task.ID) {
		if err != nil {
			t.Fatal(err)
		}
		last = seen
	}
	if last.State != pelton.Cancelled {
		t.Errorf("last seen %s", last.State)
	}
	if n := nc.NumSubscriptions(); n >= subscribed {
		t.Errorf("%d subscriptions left, want fewer than %d", n, subscribed)
	}
}

// TestWatchSeesATimeCome reads again without an event: nobody writes when a delay
// is over.
func TestWatchSeesATimeCome(t *testing.T) {
	t.Parallel()
	nc := brokertest.Start(t)
	client := open(t, nc)
	task := enqueue(t, client, "k", pelton.WithDelay(50*time.Millisecond))
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for seen, err := range client.Watch(ctx, task.ID) {
		if err != nil {
			t.Fatal(err)
		}
		if seen.State == pelton.Queued {
			if seen.Revision != task.Revision {
				t.Errorf("revision %d, want %d: nobody wrote", seen.Revision, task.Revision)
			}
			return
		}
	}
	t.Error("the task never read queued")
}

// TestWaitersAreCheap holds many waiters for one task: they share a subscription, and
// each costs a read at the start, and less than one every two seconds.
func TestWaitersAreCheap(t *testing.T) {
	t.Parallel()
	nc := brokertest.Start(t)
	client := open(t, nc)
	task := enqueue(t, client, "k", pelton.WithDelay(time.Hour))
	const waiters = 50
	ctx, stop := context.WithCancel(t.Context())
	subscriptions, sent := nc.NumSubscriptions(), nc.Stats().OutMsgs
	var waiting sync.WaitGroup
	for range waiters {
		waiting.Go(func() {
			if _, err := client.Wait(ctx, task.ID); !errors.Is(err, context.Canceled) {
				t.Errorf("Wait = %v", err)
			}
		})
	}
	began := time.Now()
	eventually(t, "each waiter has read", func() bool { return nc.Stats().OutMsgs-sent >= waiters })
	<-time.After(3 * time.Second)
	if n := nc.NumSubscriptions() - subscriptions; n != 1 {
		t.Errorf("%d subscriptions for %d waiters", n, waiters)
	}
	n := nc.Stats().OutMsgs - sent
	each := 2 + uint64(time.Since(began)/(2*time.Second)) // the first read, and one that may be on its way
	if n < waiters || n > waiters*each {
		t.Errorf("%d messages to the broker for %d waiters, want at most %d each", n, waiters, each)
	}
	stop()
	waiting.Wait()
	if n := nc.NumSubscriptions(); n != subscriptions {
		t.Errorf("%d subscriptions left", n-subscriptions)
	}
}

// Waiters for many tasks share one subscription from the 129th task on, and their looks
// without an event are 100 a second, however many they are. All are told at once.
func TestManyWaitedForCostNoMore(t *testing.T) {
	t.Parallel()
	nc := brokertest.Start(t)
	client := open(t, nc)
	const n = 900
	var tasks []*pelton.Task
	for range n {
		tasks = append(tasks, enqueue(t, client, "k", pelton.WithDelay(time.Hour)))
	}
	subscriptions, sent := nc.NumSubscriptions(), nc.Stats().OutMsgs
	var waiting sync.WaitGroup
	for _, task := range tasks {
		waiting.Go(func() {
			ended, err := client.Wait(t.Context(), task.ID)
			if err != nil || ended.State != pelton.Cancelled {
				t.Errorf("Wait = %+v, %v", ended, err)
			}
		})
	}
	eventually(t, "all wait", func() bool { return nc.Stats().OutMsgs-sent >= 2*n && nc.NumSubscriptions()-subscriptions == 129 })
	sent = nc.Stats().OutMsgs
	began := time.Now()
	<-time.After(5 * time.Second)
	if got, most := float64(nc.Stats().OutMsgs-sent), 100*time.Since(began).Seconds()+300; got > most {
		t.Errorf("%d waiters send %v messages in %s, want at most %v", n, got, time.Since(began), most)
	}
	began = time.Now()
	for _, task := range tasks {
		if _, err := client.Cancel(t.Context(), task.ID); err != nil {
			t.Fatal(err)
		}
	}
	cancelled := time.Now()
	waiting.Wait()
	if took := time.Since(cancelled); took > 2*time.Second {
		t.Errorf("the last waiter was told after %s (%s of cancelling)", took, cancelled.Sub(began))
	}
	eventually(t, "all subscriptions have gone", func() bool { return nc.NumSubscriptions() == subscriptions })
}
