package broker

import (
	"bytes"
	"context"
	"errors"
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/peltonq/pelton"
)

// ended is how a started write ended.
type ended struct {
	seq uint64
	err error
}

func TestStartedWrites(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	results := make(chan ended, 1)
	done := func(seq uint64, err error) { results <- ended{seq, err} }
	r := aRecord("q", pelton.Low)
	w, err := b.recordWrite(r)
	must(t, err)
	tooLarge := write{subject: w.subject, data: make([]byte, b.conn.nc.MaxPayload()+1), expect: anyRevision}
	for _, tt := range []struct {
		name string
		w    write
		want error
	}{
		{"a first one", w, nil},
		{"one that expects another revision", w, ErrStale},
		{"one that no stream takes", write{subject: "pelton.nobody", expect: anyRevision}, pelton.ErrUnavailable},
		{"one that is too large", tooLarge, pelton.ErrInvalid},
	} {
		must(t, b.start(t.Context(), tt.w, done))
		got := wait(t, results, "end of the write")
		if !errors.Is(got.err, tt.want) || (got.err == nil) != (got.seq > 0) || errors.Is(got.err, pelton.ErrUnknownOutcome) {
			t.Errorf("%s: %+v, want %v", tt.name, got, tt.want)
		}
	}
	if _, err := b.LoadRecord(t.Context(), r.ID); err != nil {
		t.Errorf("the record that was written: %v", err)
	}

	over, cancel := context.WithCancel(t.Context())
	cancel()
	if err := b.start(over, w, done); !errors.Is(err, pelton.ErrUnavailable) || !errors.Is(err, context.Canceled) {
		t.Errorf("start with an ended ctx = %v, want ErrUnavailable", err)
	}
	subject, taken := silence(t, b.conn.nc)
	must(t, b.start(t.Context(), write{subject: subject, expect: anyRevision}, done))
	wait(t, taken, "request")
	b.Close()
	if got := wait(t, results, "end of the open write"); !errors.Is(got.err, pelton.ErrUnknownOutcome) {
		t.Errorf("write that was open at the close: %v, want ErrUnknownOutcome", got.err)
	}
	if err := b.start(t.Context(), w, done); !errors.Is(err, pelton.ErrClosed) {
		t.Errorf("start after the close = %v, want ErrClosed", err)
	}
	if len(results) != 0 {
		t.Error("done was called for a write that start had refused")
	}
}

// A call that nobody answers ends by itself, not before its time, though its
// caller has gone.
func TestCallsEndByThemselves(t *testing.T) {
	t.Parallel()
	b := openQuiet(t)
	subject, taken := silence(t, b.conn.nc)
	results := make(chan error, 2)
	done := func(_ *nats.Msg, err error) { results <- err }
	ctx, cancel := context.WithCancel(t.Context())
	began := time.Now()
	_, err := b.conn.begin(ctx, nats.NewMsg(subject), callTick, done)
	must(t, err)
	cancel()
	_, err = b.conn.begin(t.Context(), nats.NewMsg(subject), time.Hour, done)
	must(t, err)
	wait(t, taken, "request")
	wait(t, taken, "request")
	if err := wait(t, results, "end of the call"); !errors.Is(err, errSent) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the call ended with %v, want errSent", err)
	}
	if took := time.Since(began); took < callTick {
		t.Errorf("the call ended after %s, before its time", took)
	}
	if n := b.conn.inFlight(); n != 1 || len(b.conn.slots) != 1 {
		t.Errorf("%d calls and %d places in use, want the one that has an hour", n, len(b.conn.slots))
	}
}

// Writes of one goroutine arrive in its order, whoever sends them: the first of
// a burst goes out alone, the others with the writer, in a rush all alone again.
func TestCallsKeepTheirOrder(t *testing.T) {
	t.Parallel()
	b := openQuiet(t)
	const n = 3000
	arrived := make(chan string, n)
	_, err := b.conn.nc.Subscribe("order", func(msg *nats.Msg) { arrived <- string(msg.Data) })
	must(t, err)
	must(t, b.conn.nc.Flush())
	for i := range n {
		switch i {
		case n / 3:
			b.conn.rush(time.Hour)
		case 2 * n / 3:
			b.conn.calm.Store(0)
		}
		must(t, b.start(t.Context(), write{subject: "order", data: []byte(formatSeq(uint64(i))), expect: anyRevision}, func(uint64, error) {}))
	}
	for i := range n {
		if got := wait(t, arrived, "message"); got != formatSeq(uint64(i)) {
			t.Fatalf("message %s arrived as number %d", got, i)
		}
	}
}

// What has been given up before it was sent is not sent, and an answer to a call
// that has ended is nobody else's.
func TestEndedCallsStayEnded(t *testing.T) {
	t.Parallel()
	b := openQuiet(t)
	arrived := make(chan string, 2)
	_, err := b.conn.nc.Subscribe("ended", func(msg *nats.Msg) { arrived <- string(msg.Data) })
	must(t, err)
	message := func(text string) *nats.Msg { return &nats.Msg{Subject: "ended", Data: []byte(text)} }
	wrong := func(*nats.Msg, error) { t.Error("a forgotten call ended again") }
	forgotten, queued, err := b.conn.enter(message("forgotten"), b.conn.after(time.Hour), false, wrong)
	must(t, err)
	if queued {
		t.Fatal("a call without others was left to the writer")
	}
	b.conn.slots <- struct{}{}
	if !b.conn.forget(forgotten.call) {
		t.Fatal("an open call could not be forgotten")
	}
	b.conn.publish(forgotten)

	results := make(chan error, 1)
	next, err := b.conn.begin(t.Context(), message("next"), time.Hour, func(_ *nats.Msg, err error) { results <- err })
	must(t, err)
	if next%window != forgotten.call%window {
		t.Fatal("the entry was not used again, the test shows nothing")
	}
	if got := wait(t, arrived, "message"); got != "next" {
		t.Errorf("the %s call was sent", got)
	}
	b.conn.reply(&nats.Msg{Subject: b.conn.prefix + strconv.FormatUint(forgotten.call, 36)})
	b.conn.reply(&nats.Msg{Subject: b.conn.prefix + "no.one"})
	if len(results) != 0 {
		t.Error("a late answer ended the next call")
	}
	b.conn.reply(&nats.Msg{Subject: b.conn.prefix + strconv.FormatUint(next, 36)})
	must(t, wait(t, results, "answer"))
}

// Messages are used again: what one carried must not travel with the next.
func TestMessagesStartBlank(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	received := make(chan *nats.Msg, 1)
	_, err := b.conn.nc.Subscribe("blank", func(msg *nats.Msg) { received <- msg; _ = msg.Respond([]byte(`{"stream":"S","seq":7}`)) })
	must(t, err)
	must(t, b.conn.nc.Flush())
	custom := nats.Header{"Custom": {"x"}}
	for _, tt := range []struct {
		w       write
		headers int
	}{
		{write{subject: "blank", data: []byte("long"), expect: 3, expectOn: "a.*", ttl: 1500 * time.Millisecond, header: custom}, 4},
		{write{subject: "blank", data: []byte("x"), expect: anyRevision}, 0},
		{write{subject: "blank", expect: 0}, 1},
		{write{subject: "blank", expect: anyRevision, header: custom}, 1},
	} {
		if seq, err := b.do(t.Context(), tt.w); err != nil || seq != 7 {
			t.Errorf("do = %d, %v", seq, err)
		}
		got := wait(t, received, "message")
		if len(got.Header) != tt.headers || !bytes.Equal(got.Data, tt.w.data) {
			t.Errorf("%q with %v arrived, want %q with %d headers", got.Data, got.Header, tt.w.data, tt.headers)
		}
	}
	if len(custom) != 1 {
		t.Errorf("the caller's headers are now %v", custom)
	}
}
