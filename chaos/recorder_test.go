package chaos_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/chaos/history"
)

// record follows the bucket of a shard's records, once it is there, and writes down every revision that it gets
// to see, with the one that it replaced: the header of the compare-and-swap is kept
// with the message. It reads the layout that docs/architecture.md describes.
func (s *suite) record(ctx context.Context, shard int) {
	log := s.actor(fmt.Sprintf("recorder%d", shard))
	nc, err := nats.Connect("nats://"+s.server.nats.here, nats.Token(token), nats.Name("recorder"),
		nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond), nats.PingInterval(time.Second), nats.RetryOnFailedConnect(true))
	if err != nil {
		s.Error(err)
		return
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		s.Error(err)
		return
	}
	var records jetstream.Consumer
	for records == nil { // a cluster whose brokers come and go cannot always make one
		if records, err = js.OrderedConsumer(ctx, fmt.Sprintf("KV_pelton_STATE_%d", shard), jetstream.OrderedConsumerConfig{}); ctx.Err() != nil {
			return
		}
		if err != nil {
			if !errors.Is(err, jetstream.ErrStreamNotFound) {
				s.Logf("follow the records: %v", err)
			}
			select {
			case <-time.After(100 * time.Millisecond):
			case <-ctx.Done():
				return
			}
		}
	}
	following, err := records.Consume(func(msg jetstream.Msg) {
		for _, e := range stored(msg) {
			s.write(log, e)
		}
	}, jetstream.PullHeartbeat(500*time.Millisecond), jetstream.PullExpiry(2*time.Second))
	if err != nil {
		s.Errorf("follow the records: %v", err)
		return
	}
	<-ctx.Done()
	following.Stop()
	<-following.Closed()
}

// stored reads what is in an entry of the bucket: a record, or those of a page. Probes, seals and
// markers of deletion have none.
func stored(msg jetstream.Msg) (events []history.Event) {
	meta, err := msg.Metadata()
	if err != nil {
		return nil
	}
	previous, _ := strconv.ParseUint(msg.Headers().Get("Nats-Expected-Last-Subject-Sequence"), 10, 64) // absent is none
	parts := [][]byte{msg.Data()}
	if strings.Contains(msg.Subject(), ".page.") {
		parts = records(msg.Data())
	}
	for _, data := range parts {
		if e, ok := storedRecord(data, meta.Sequence.Stream, previous); ok {
			events = append(events, e)
		}
	}
	return events
}

// records are those of a page, which is a line of JSON with their lengths, then all of them.
func records(data []byte) (parts [][]byte) {
	var form struct {
		Lengths []int `json:"lengths"`
	}
	line, body, found := bytes.Cut(data, []byte{'\n'})
	if !found || json.Unmarshal(line, &form) != nil {
		return nil
	}
	for _, n := range form.Lengths {
		if n < 0 || n > len(body) {
			return nil
		}
		parts, body = append(parts, body[:n]), body[n:]
	}
	return parts
}

// storedRecord reads a record as the broker keeps it: a line of JSON, then the payload,
// then the result. previous is the revision that it replaced.
func storedRecord(data []byte, revision, previous uint64) (history.Event, bool) {
	var form struct {
		ID         pelton.ID        `json:"id"`
		Kind       string           `json:"kind"`
		Key        string           `json:"concurrency_key"`
		Unique     *pelton.Unique   `json:"unique"`
		Replaced   bool             `json:"replaced"`
		State      pelton.State     `json:"state"`
		PayloadLen int              `json:"payload_len"`
		RunAt      time.Time        `json:"run_at"`
		StartedAt  time.Time        `json:"started_at"`
		FinishedAt time.Time        `json:"finished_at"`
		Attempt    int              `json:"attempt"`
		Crashes    int              `json:"crashes"`
		Owner      string           `json:"owner"`
		Errors     []pelton.Failure `json:"errors"`
	}
	line, body, found := bytes.Cut(data, []byte{'\n'})
	if !found || json.Unmarshal(line, &form) != nil || form.ID.IsZero() || form.PayloadLen > len(body) {
		return history.Event{}, false
	}
	r := &history.Record{
		State: form.State, Revision: revision, Previous: previous, Stored: true, Attempt: form.Attempt, Crashes: form.Crashes, Worker: form.Owner,
		RunAt: form.RunAt, StartedAt: form.StartedAt, FinishedAt: form.FinishedAt, Replaced: form.Replaced,
	}
	r.ResultRun, r.ResultFence = runOf(body[form.PayloadLen:])
	if n := len(form.Errors); n > 0 {
		r.Reason = form.Errors[n-1].Reason
	}
	e := history.Event{Kind: history.Observe, Task: form.ID, Key: form.Key, Record: r}
	if form.Unique != nil {
		e.Unique, e.Terms = uniqueKey(form.Kind, form.Unique.Key), form.Unique
	}
	return e, true
}

// watchBroker asks the broker for something all the time until ctx ends, and writes a
// fault on everybody for every answer that took longer than a quarter of the lease: on a
// machine that is too busy the server may be the one that gets no processor.
func (s *suite) watchBroker(ctx context.Context) {
	log := s.actor("watcher")
	nc, err := nats.Connect("nats://"+s.server.nats.here, nats.Token(token), nats.Name("watcher"),
		nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond), nats.RetryOnFailedConnect(true))
	if err != nil {
		s.Error(err)
		return
	}
	defer nc.Close()
	again := time.NewTicker(s.lease / 20)
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-again.C:
		}
		asked := history.Now()
		asking, stop := context.WithTimeout(ctx, s.lease)
		_, _ = nc.RequestWithContext(asking, "$JS.API.INFO", nil) // an error after so long is an answer that took too long
		stop()
		answered := history.Now()
		if !nc.IsConnected() || ctx.Err() != nil || answered-asked < int64(s.lease/4) {
			continue // a server that died is the nemesis's to tell
		}
		s.write(log, history.Event{At: asked, Kind: history.FaultBegin, Fault: history.StallFault, Target: history.Everyone})
		s.write(log, history.Event{At: answered, Kind: history.FaultEnd, Fault: history.StallFault, Target: history.Everyone})
	}
}
