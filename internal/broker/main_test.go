package broker

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/brokertest"
)

func TestMain(m *testing.M) {
	// A generator makes its name when that is first asked for, while others read it (rapid 1.3.0):
	// those that several tests draw from have theirs before these begin.
	for _, shared := range []fmt.Stringer{queueGen, kindGen, priorityGen, bodyGen, timeGen, metaGen, failureGen} {
		_ = shared.String()
	}
	goleak.VerifyTestMain(m)
}

// openOn is an installation on nc, closed with the test.
func openOn(t *testing.T, nc *nats.Conn, cfg Config) *Broker {
	t.Helper()
	b, err := Open(t.Context(), nc, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	return b
}

// openNew is an installation on a broker of the test's own.
func openNew(t *testing.T) *Broker {
	t.Helper()
	return openOn(t, brokertest.Start(t), Config{})
}

// openQuiet is openNew without what a Broker does by itself: all calls on its conn are the test's.
func openQuiet(t *testing.T) *Broker {
	t.Helper()
	b := openNew(t)
	b.stop()
	b.background.Wait()
	return b
}

func aMeta(queue string, p pelton.Priority) Meta {
	now := time.Now().UTC().Truncate(time.Millisecond)
	return Meta{
		Version: version, ID: pelton.NewID(now, 0), Kind: "test.kind", Queue: queue, Priority: p, MaxAttempts: 3,
		Timeout: time.Minute, Retention: time.Hour, CreatedAt: now,
	}
}

func aRecord(queue string, p pelton.Priority) *Record {
	return &Record{Meta: aMeta(queue, p), State: pelton.Queued, Payload: []byte(`{"a": 1}`)}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wait receives from ch, or fails the test after 10 s.
func wait[T any](t *testing.T, ch <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(10 * time.Second):
		t.Fatalf("no %s within 10 s", what)
		panic("unreachable")
	}
}

// reaches polls a condition that the broker reaches by itself.
func reaches(t *testing.T, what string, cond func() bool) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not within 10 s: %s", what)
		}
	}
}

// pending is the NumPending of a consumer, read from the server.
func pending(t *testing.T, b *Broker, stream, consumer string) uint64 {
	t.Helper()
	info, err := b.consumer(t.Context(), stream, consumer)
	must(t, err)
	if info == nil {
		t.Fatalf("no consumer %s", consumer)
	}
	return info.NumPending
}

// shows waits until a counter shows want.
func shows(t *testing.T, b *Broker, stream, consumer string, want uint64) {
	t.Helper()
	reaches(t, consumer+" to count "+formatSeq(want), func() bool { return pending(t, b, stream, consumer) == want })
}

func streamState(t *testing.T, b *Broker, name string) *jetstream.StreamInfo {
	t.Helper()
	stream, err := b.js.Stream(t.Context(), name)
	must(t, err)
	return stream.CachedInfo()
}

func equalBytes(t *testing.T, what string, got, want []byte) {
	t.Helper()
	if !bytes.Equal(got, want) {
		t.Errorf("%s: %d bytes that differ from the %d written", what, len(got), len(want))
	}
}
