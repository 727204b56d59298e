package migration

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hibiken/asynq"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/redistest"
	"github.com/peltonq/pelton/peltontest"
	"github.com/peltonq/pelton/producer"
)

// mailer counts; the user 13 has no mailbox at first.
type mailer struct {
	sent, refused atomic.Int64
	done          chan struct{} // gets one for each that was sent
}

func newMailer() *mailer { return &mailer{done: make(chan struct{}, 100)} }

func (m *mailer) Welcome(_ context.Context, user int) error {
	if user == 13 && m.refused.Add(1) == 1 {
		return errors.New("no mailbox")
	}
	m.sent.Add(1)
	m.done <- struct{}{}
	return nil
}

func (m *mailer) wait(t *testing.T) {
	t.Helper()
	select {
	case <-m.done:
	case <-time.After(20 * time.Second):
		t.Fatal("nothing was sent within 20 s")
	}
}

func newClient(t *testing.T) *producer.Client {
	t.Helper()
	client, err := producer.New(t.Context(), peltontest.Start(t), producer.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client
}

func TestBefore(t *testing.T) {
	t.Parallel()
	redis := asynq.RedisClientOpt{Addr: strings.TrimPrefix(redistest.Start(t).URL, "redis://")}
	client := asynq.NewClient(redis)
	t.Cleanup(func() { _ = client.Close() })
	if _, err := EnqueueAsynq(t.Context(), client, 7); err != nil {
		t.Fatal(err)
	}
	if _, err := EnqueueAsynq(t.Context(), client, 7); !errors.Is(err, asynq.ErrDuplicateTask) {
		t.Errorf("the second one: %v", err)
	}
	m := newMailer()
	server := asynq.NewServer(redis, asynq.Config{Queues: map[string]int{"emails": 1}, LogLevel: asynq.FatalLevel})
	if err := server.Start(AsynqMux(m)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Shutdown)
	m.wait(t)
}

func TestAfter(t *testing.T) {
	t.Parallel()
	nc := peltontest.Start(t)
	client, err := producer.New(t.Context(), nc, producer.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	if _, err := EnqueuePelton(t.Context(), client, 7); err != nil {
		t.Fatal(err)
	}
	var held *pelton.UniqueError
	if _, err := EnqueuePelton(t.Context(), client, 7); !errors.As(err, &held) {
		t.Errorf("the second one: %v", err)
	}
	m := newMailer()
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- WorkPelton(ctx, nc, m) }()
	m.wait(t)
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// A task of asynq's that is handed over twice is one task, and its payload is the
// same.
func TestForward(t *testing.T) {
	t.Parallel()
	redis := asynq.RedisClientOpt{Addr: strings.TrimPrefix(redistest.Start(t).URL, "redis://")}
	nc := peltontest.Start(t)
	client, err := producer.New(t.Context(), nc, producer.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	old := asynq.NewClient(redis)
	t.Cleanup(func() { _ = old.Close() })
	if _, err := EnqueueAsynq(t.Context(), old, 7); err != nil {
		t.Fatal(err)
	}

	// The first run is not known to have worked, so asynq repeats it.
	runs := make(chan struct{}, 10)
	handler := Forward(client, "emails")
	server := asynq.NewServer(redis, asynq.Config{
		Queues: map[string]int{"emails": 1}, LogLevel: asynq.FatalLevel, DelayedTaskCheckInterval: 100 * time.Millisecond,
		RetryDelayFunc: func(int, error, *asynq.Task) time.Duration { return 0 },
	})
	if err := server.Start(asynq.HandlerFunc(func(ctx context.Context, task *asynq.Task) error {
		err := handler.ProcessTask(ctx, task)
		if n, _ := asynq.GetRetryCount(ctx); err == nil && n == 0 {
			err = errors.New("the answer got lost")
		}
		runs <- struct{}{}
		return err
	})); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		select {
		case <-runs:
		case <-time.After(20 * time.Second):
			t.Fatal("asynq did not run it twice within 20 s")
		}
	}
	server.Shutdown()

	tasks, err := client.Unfinished(t.Context(), typeWelcome)
	if err != nil || len(tasks) != 1 {
		t.Fatalf("%d tasks, %v, want one", len(tasks), err)
	}
	m := newMailer()
	peltontest.Drain(t, nc, PeltonMux(m))
	if task, err := client.Get(t.Context(), tasks[0].ID); err != nil || task.State != pelton.Succeeded || m.sent.Load() != 1 {
		t.Errorf("%+v, %v; sent %d", task, err, m.sent.Load())
	}
}

// What Pelton would refuse stays with asynq, in its archive.
func TestForwardRefused(t *testing.T) {
	t.Parallel()
	client := newClient(t)
	err := forwardOne(t, client, []byte("not JSON"))
	if !errors.Is(err, asynq.SkipRetry) || !errors.Is(err, pelton.ErrInvalid) {
		t.Errorf("%v, want SkipRetry", err)
	}
}

// forwardOne lets asynq run Forward on one task and gives its error.
func forwardOne(t *testing.T, client *producer.Client, payload []byte) error {
	t.Helper()
	redis := asynq.RedisClientOpt{Addr: strings.TrimPrefix(redistest.Start(t).URL, "redis://")}
	old := asynq.NewClient(redis)
	t.Cleanup(func() { _ = old.Close() })
	if _, err := old.EnqueueContext(t.Context(), asynq.NewTask(typeWelcome, payload)); err != nil {
		t.Fatal(err)
	}
	result := make(chan error, 1)
	server := asynq.NewServer(redis, asynq.Config{LogLevel: asynq.FatalLevel})
	if err := server.Start(asynq.HandlerFunc(func(ctx context.Context, task *asynq.Task) error {
		err := Forward(client, "emails").ProcessTask(ctx, task)
		result <- err
		return err
	})); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Shutdown)
	select {
	case err := <-result:
		return err
	case <-time.After(20 * time.Second):
		t.Fatal("asynq did not run it within 20 s")
		return nil
	}
}
