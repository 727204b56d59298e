package admin_test

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"go.uber.org/goleak"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/admin"
	"github.com/peltonq/pelton/internal/brokertest"
	"github.com/peltonq/pelton/producer"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t *testing.T, nc *nats.Conn) (*admin.Client, *producer.Client) {
	t.Helper()
	client, err := admin.New(t.Context(), nc, admin.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	producing, err := producer.New(t.Context(), nc, producer.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(producing.Close)
	return client, producing
}

func TestQueues(t *testing.T) {
	t.Parallel()
	client, producing := open(t, brokertest.Start(t))
	if queues, err := client.Queues(t.Context()); err != nil || len(queues) != 0 {
		t.Errorf("Queues of an empty installation = %+v, %v", queues, err)
	}
	if idle, err := client.Idle(t.Context()); err != nil || !idle {
		t.Errorf("Idle of an empty installation = %t, %v", idle, err)
	}
	for _, spec := range []pelton.Spec{
		{Kind: "k", Queue: "emails", Priority: pelton.High},
		{Kind: "k", Queue: "emails", Priority: pelton.High},
		{Kind: "k", Queue: "emails", Priority: pelton.Low},
		{Kind: "k", Queue: "emails", Delay: time.Hour},
		{Kind: "k", Queue: "a_b"},
	} {
		if _, err := producing.Enqueue(t.Context(), spec); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "what was enqueued is counted", func() bool { // a moment after it was acknowledged
		q, err := client.Queue(t.Context(), "emails")
		return err == nil && q.Ready == 3 && q.Scheduled == 1
	})
	queues, err := client.Queues(t.Context())
	if err != nil || len(queues) != 2 || queues[0].Name != "a_b" || queues[1].Name != "emails" {
		t.Fatalf("Queues = %+v, %v", queues, err)
	}
	one, err := client.Queue(t.Context(), "emails")
	if err != nil {
		t.Fatal(err)
	}
	for name, got := range map[string]pelton.Queue{"Queues": queues[1], "Queue": *one} {
		for p, depth := range got.Priorities {
			if depth.Ready > 0 != (depth.OldestReady > 0) {
				t.Errorf("%s: %s has %d ready, the oldest for %s", name, p, depth.Ready, depth.OldestReady)
			}
			depth.OldestReady = 0
			got.Priorities[p] = depth
		}
		want := pelton.Queue{Name: "emails", Ready: 3, Scheduled: 1, Priorities: map[pelton.Priority]pelton.Depth{
			pelton.Critical: {}, pelton.High: {Ready: 2}, pelton.Normal: {}, pelton.Low: {Ready: 1},
		}}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	if idle, err := client.Idle(t.Context()); err != nil || idle {
		t.Errorf("Idle with ready tasks = %t, %v", idle, err)
	}
}

func TestQueueErrors(t *testing.T) {
	t.Parallel()
	nc := brokertest.Start(t)
	client, _ := open(t, nc)
	if _, err := client.Queue(t.Context(), "nobody"); !errors.Is(err, pelton.ErrNotFound) {
		t.Errorf("unknown queue = %v, want ErrNotFound", err)
	}
	if _, err := client.Queue(t.Context(), "*"); !errors.Is(err, pelton.ErrInvalid) {
		t.Errorf("no queue's name = %v, want ErrInvalid", err)
	}
	if _, err := admin.New(t.Context(), nc, admin.Config{Replicas: 9}); !errors.Is(err, pelton.ErrInvalid) {
		t.Errorf("9 replicas = %v, want ErrInvalid", err)
	}
}

func TestProbe(t *testing.T) {
	t.Parallel()
	srv := brokertest.StartServer(t)
	nc := brokertest.Connect(t, srv)
	client, _ := open(t, nc)
	if err := client.Probe(t.Context()); err != nil {
		t.Errorf("Probe = %v", err)
	}
	if queues, err := client.Queues(t.Context()); err != nil || len(queues) != 0 {
		t.Errorf("a probe left queues: %+v, %v", queues, err)
	}
	nc.Close()
	began := time.Now()
	for name, call := range map[string]func() error{
		"Probe":  func() error { return client.Probe(t.Context()) },
		"Queues": func() error { _, err := client.Queues(t.Context()); return err },
		"Queue":  func() error { _, err := client.Queue(t.Context(), "q"); return err },
		"Idle":   func() error { _, err := client.Idle(t.Context()); return err },
	} {
		if err := call(); !errors.Is(err, pelton.ErrUnavailable) {
			t.Errorf("%s without a connection = %v, want ErrUnavailable", name, err)
		}
	}
	if took := time.Since(began); took > 4*time.Second { // each gives up after 5 s if it waits at all
		t.Errorf("it took %s to say so", took)
	}
}
