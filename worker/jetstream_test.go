package worker_test

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Looks at what the broker holds, and changes of it that no call would make.

func (r *rig) jetStream(t *testing.T) jetstream.JetStream {
	t.Helper()
	js, err := jetstream.New(r.nc)
	if err != nil {
		t.Fatal(err)
	}
	return js
}

// lastTask is the sequence of the last message in the tasks stream.
func (r *rig) lastTask(t *testing.T) uint64 {
	t.Helper()
	s, err := r.jetStream(t).Stream(t.Context(), "pelton_TASKS_0")
	if err != nil {
		t.Fatal(err)
	}
	return s.CachedInfo().State.LastSeq
}

// lagBehind writes a queue's entry as a process does that dies right after it.
func (r *rig) lagBehind(t *testing.T, entry string) {
	t.Helper()
	kv, err := r.jetStream(t).KeyValue(t.Context(), "pelton_CONFIG")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := kv.PutString(t.Context(), "queue.default", entry); err != nil {
		t.Fatal(err)
	}
}

// ackWait is what the default queue's normal lane waits for a sign of life.
func (r *rig) ackWait(t *testing.T) time.Duration {
	t.Helper()
	c, err := r.jetStream(t).Consumer(t.Context(), "pelton_TASKS_0", "r_default_normal")
	if err != nil {
		t.Fatal(err)
	}
	return c.CachedInfo().Config.AckWait
}
