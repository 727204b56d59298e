package main

import (
	"context"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// A tap hears each read of a key and of a message that another connection asks for,
// whoever answers it, and no writes.
func TestTapHearsReads(t *testing.T) {
	t.Parallel()
	s, err := runNATS(natsOptions(t.TempDir(), false, false))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	nc, err := nats.Connect(s.ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	bucket, err := js.CreateKeyValue(ctx, jetstream.KeyValueConfig{Bucket: "B"})
	if err != nil {
		t.Fatal(err)
	}
	slow, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}}) // no direct reads
	if err != nil {
		t.Fatal(err)
	}
	tap, err := tapReads(s.ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(tap.nc.Close)
	const reads = 10
	_, _, heard, err := tap.during(ctx, func() (int, time.Duration, error) {
		for range reads {
			if _, err := bucket.Put(ctx, "k", payload); err != nil {
				return 0, 0, err
			}
			if _, err := bucket.Get(ctx, "k"); err != nil {
				return 0, 0, err
			}
			ack, err := js.Publish(ctx, "s", payload)
			if err != nil {
				return 0, 0, err
			}
			if _, err := slow.GetMsg(ctx, ack.Sequence); err != nil {
				return 0, 0, err
			}
		}
		return reads, 0, nil
	})
	if err != nil || heard != 2*reads {
		t.Errorf("heard %d of %d reads, %v", heard, 2*reads, err)
	}
}
