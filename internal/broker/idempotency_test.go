package broker

import (
	"errors"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/brokertest"
)

func aRequest(key string) Idempotency {
	return Idempotency{Scope: "s", Key: key, Fingerprint: "asked for this"}
}

// messages counts what the stream holds of a task.
func messagesOf(t *testing.T, b *Broker, id pelton.ID) (n int) {
	t.Helper()
	for _, e := range readyOf(t, b) {
		if e.ID == id {
			n++
		}
	}
	return n
}

// mismatched fails the test unless another request with the key is refused.
func mismatched(t *testing.T, b *Broker, idem Idempotency) {
	t.Helper()
	idem.Fingerprint = "asked for that"
	_, err := b.EnqueueOnce(t.Context(), aRecord("q", pelton.Normal), idem)
	var invalid *pelton.ValidationError
	if !errors.As(err, &invalid) || invalid.Fields[0].Field != "idempotency_key" {
		t.Errorf("another request with the key: %v, want a ValidationError", err)
	}
}

// A request dies between any two of its writes, with and without a unique key: what
// a repeat is answered right away, and some seconds later.
func TestIdempotencyCrashWindows(t *testing.T) {
	t.Parallel()
	srv := brokertest.StartServer(t)
	dying := openOn(t, brokertest.Connect(t, srv), Config{})
	const inFlight, replayed, fresh = "in flight", "replayed", "fresh"
	for _, tc := range []struct {
		after       string
		unique      bool
		soon, later string
		messages    int // after all repeats
	}{
		{"lock", false, inFlight, fresh, 2}, // one of them a copy, which admission drops
		{"lock", true, inFlight, fresh, 2},
		{"unique lock", true, inFlight, fresh, 2},
		{"record", false, replayed, replayed, 1},
		{"record", true, replayed, replayed, 1},
		{"message", false, replayed, replayed, 2},
		{"message", true, replayed, replayed, 2},
	} {
		t.Run(tc.after+"/"+strconv.FormatBool(tc.unique), func(t *testing.T) {
			t.Parallel()
			ctx := t.Context()
			idem := aRequest(t.Name())
			request := func() *Record {
				r := aRecord("q", pelton.Normal)
				if tc.unique {
					r.Unique = &pelton.Unique{Key: t.Name(), Until: pelton.UntilFinished, OnConflict: pelton.ConflictReject}
				}
				return r
			}
			first := request()
			must(t, dying.ensure(ctx, first))
			first.keepUntil(first.CreatedAt.Add(pelton.IdempotencyTTL))
			_, replay, err := dying.claimKey(ctx, first, idem)
			if err != nil || replay != nil {
				t.Fatalf("claim = %+v, %v", replay, err)
			}
			if tc.unique && tc.after != "lock" {
				must(t, dying.takeKey(ctx, first, 0))
			}
			if tc.after == "record" || tc.after == "message" {
				must(t, dying.SaveRecord(ctx, first))
			}
			if tc.after == "message" {
				must(t, dying.Publish(ctx, first))
			}

			check := func(when, want string, out Once, err error) {
				t.Helper()
				got := fresh
				switch {
				case errors.Is(err, pelton.ErrInFlight) && errors.Is(err, pelton.ErrConflict):
					got = inFlight
				case err != nil:
					t.Fatalf("%s: %v", when, err)
				case out.Replayed:
					got = replayed
				}
				if got != want {
					t.Errorf("%s: %s, want %s", when, got, want)
				}
				if err == nil && out.Record.ID != first.ID {
					t.Errorf("%s: task %s, want %s", when, out.Record.ID, first.ID)
				}
			}
			b := openOn(t, brokertest.Connect(t, srv), Config{})
			b.keyGrace = time.Hour
			out, err := b.EnqueueOnce(ctx, request(), idem)
			check("soon", tc.soon, out, err)
			if tc.soon == replayed && messagesOf(t, b, first.ID) == 0 {
				t.Error("a repeat was answered with a task that has no message")
			}
			mismatched(t, b, idem)
			b.keyGrace = 0
			out, err = b.EnqueueOnce(ctx, request(), idem)
			check("later", tc.later, out, err)
			out, err = b.EnqueueOnce(ctx, request(), idem)
			check("once more", replayed, out, err)
			mismatched(t, b, idem)
			out, err = b.EnqueueOnce(ctx, request(), idem)
			check("at last", replayed, out, err)
			if n := messagesOf(t, b, first.ID); n != tc.messages {
				t.Errorf("%d messages, want %d", n, tc.messages)
			}
		})
	}
}

// Requests with one key that come together make one task.
func TestIdempotentRequestsTogether(t *testing.T) {
	t.Parallel()
	srv := brokertest.StartServer(t)
	var brokers []*Broker
	for range 4 {
		brokers = append(brokers, openOn(t, brokertest.Connect(t, srv), Config{}))
	}
	for n := range 20 {
		grace := time.Hour
		if n%2 == 1 { // without one they go on in each other's place
			grace = 0
		}
		request := func() *Record {
			if n%4 < 2 {
				return aRecord("q", pelton.Normal)
			}
			return aUnique(pelton.Unique{Key: strconv.Itoa(n)})
		}
		idem := aRequest(strconv.Itoa(n))
		var asking sync.WaitGroup
		outs, errs := make([]Once, 64), make([]error, 64)
		for _, b := range brokers {
			b.keyGrace = grace
		}
		for i := range outs {
			asking.Go(func() {
				outs[i], errs[i] = brokers[i%4].EnqueueOnce(t.Context(), request(), idem)
			})
		}
		asking.Wait()
		var id pelton.ID
		made := 0
		for i, out := range outs {
			switch {
			case errors.Is(errs[i], pelton.ErrInFlight):
				continue
			case errs[i] != nil:
				t.Fatal(errs[i])
			case id.IsZero():
				id = out.Record.ID
			case id != out.Record.ID:
				t.Fatalf("two tasks for one key: %s and %s", id, out.Record.ID)
			}
			if !out.Replayed {
				made++
			}
		}
		if made != 1 {
			t.Errorf("%d requests made a task", made)
		}
		if out, err := brokers[0].EnqueueOnce(t.Context(), request(), idem); err != nil || out.Record.ID != id {
			t.Errorf("later: %+v, %v", out, err)
		}
	}
}

// A request that stalls after its first write, and whose place a repeat took, finds
// that repeat's task.
func TestIdempotentRequestStalls(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	b.keyGrace = 0
	ctx := t.Context()
	first := aRecord("q", pelton.Normal)
	must(t, b.ensure(ctx, first))
	idem := aRequest("k")
	claim, _, err := b.claimKey(ctx, first, idem)
	must(t, err)
	repeat, err := b.EnqueueOnce(ctx, aRecord("q", pelton.Normal), idem)
	must(t, err)
	if repeat.Record.ID != first.ID || repeat.Replayed {
		t.Errorf("repeat = %+v, want the locked id", repeat)
	}
	stalled := onceEnqueue{b: b, r: first, claim: claim}
	if out, err := stalled.run(ctx); err != nil || out.Record.ID != first.ID || !out.Replayed {
		t.Errorf("stalled = %+v, %v", out, err)
	}
	// It must not give back a key that it does not have alone any more.
	if err := b.abandon(ctx, claim, errMismatch()); !errors.Is(err, pelton.ErrInvalid) {
		t.Errorf("abandon = %v, want the cause", err)
	}
	if out, err := b.EnqueueOnce(ctx, aRecord("q", pelton.Normal), idem); err != nil || out.Record.ID != first.ID {
		t.Errorf("after the stalled request gave up: %+v, %v", out, err)
	}
}

// A task whose id was fenced because its unique key went to another gets a new id,
// and its idempotency key stands for that.
func TestIdempotentRequestFenced(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	b.keyGrace = 0
	ctx := t.Context()
	u := pelton.Unique{Key: "k"}
	for _, who := range []string{"itself", "a repeat"} {
		first, idem := aUnique(u), aRequest(who)
		must(t, b.ensure(ctx, first))
		claim, _, err := b.claimKey(ctx, first, idem)
		must(t, err)
		must(t, b.takeKey(ctx, first, 0))
		burnt := first.ID
		end(t, b, once(t, b, aUnique(u)).Record.ID, pelton.Succeeded, true)

		var out Once
		if who == "itself" {
			out, err = (&onceEnqueue{b: b, r: first, claim: claim}).run(ctx)
		} else {
			out, err = b.EnqueueOnce(ctx, aUnique(u), idem)
		}
		if err != nil || out.Record.ID == burnt || out.Replayed {
			t.Fatalf("%s: %+v, %v", who, out, err)
		}
		again, err := b.EnqueueOnce(ctx, aUnique(u), idem)
		if err != nil || again.Record.ID != out.Record.ID || !again.Replayed {
			t.Errorf("%s again: %+v, %v", who, again, err)
		}
		if who == "a repeat" { // the first wakes: its key is not its own any more
			if _, err := (&onceEnqueue{b: b, r: first, claim: claim}).run(ctx); !errors.Is(err, pelton.ErrConflict) {
				t.Errorf("stalled = %v, want ErrConflict", err)
			}
		}
		end(t, b, out.Record.ID, pelton.Succeeded, true)
	}
}

// What was refused does not take the key.
func TestRefusedRequestGivesItsKeyBack(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	ctx := t.Context()
	u := pelton.Unique{Key: "k"}
	holder := once(t, b, aUnique(u)).Record
	idem := aRequest("i")
	_, err := b.EnqueueOnce(ctx, aUnique(u), idem)
	heldBy(t, err, holder.ID)
	end(t, b, holder.ID, pelton.Succeeded, true)
	idem.Fingerprint = "something else"
	if out, err := b.EnqueueOnce(ctx, aUnique(u), idem); err != nil || out.Replayed {
		t.Errorf("another request with the key of one that was refused: %+v, %v", out, err)
	}
}

// An answer with the holder of a unique key is repeated, also when that is over.
func TestIdempotencyKeyOfAnExistingTask(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	b.keyGrace = 0
	ctx := t.Context()
	u := pelton.Unique{Key: "k", OnConflict: pelton.ConflictExisting}
	holder := once(t, b, aUnique(u)).Record
	idem := aRequest("i")
	out, err := b.EnqueueOnce(ctx, aUnique(u), idem)
	if err != nil || !out.Existing || out.Replayed || out.Record.ID != holder.ID {
		t.Fatalf("first = %+v, %v", out, err)
	}
	over := end(t, b, holder.ID, pelton.Succeeded, true)
	out, err = b.EnqueueOnce(ctx, aUnique(u), idem)
	if err != nil || !out.Replayed || !out.Existing || out.Record.ID != holder.ID || out.Record.State != pelton.Succeeded {
		t.Errorf("repeat = %+v, %v", out, err)
	}
	if n := messagesOf(t, b, holder.ID); n != 2 { // the first answer made sure of it
		t.Errorf("%d messages, want 2", n)
	}
	// That task's record need not outlive the key.
	must(t, b.DropRecord(ctx, over))
	if _, err := b.EnqueueOnce(ctx, aUnique(u), idem); !errors.Is(err, pelton.ErrConflict) || errors.Is(err, pelton.ErrInFlight) {
		t.Errorf("repeat after the task was forgotten = %v, want ErrConflict", err)
	}
}

// The lock ends after its time, however often it was written, and the record of its
// task outlives it.
func TestTimeOfAnIdempotencyKey(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	ctx := t.Context()
	now := time.Now()
	for at, want := range map[time.Duration]time.Duration{0: pelton.IdempotencyTTL, -23 * time.Hour: time.Hour, -25 * time.Hour: time.Second} {
		lock := idempotencyLock{At: now.Add(at)}
		if got := lock.ttl(now); got != want {
			t.Errorf("ttl of a key used %s ago = %s, want %s", at, got, want)
		}
	}
	r := aRecord("q", pelton.Normal)
	r.Retention = time.Second
	idem := aRequest("k")
	_, err := b.EnqueueOnce(ctx, r, idem)
	must(t, err)
	end(t, b, r.ID, pelton.Succeeded, false)
	seconds := func(stream, subject string) time.Duration {
		msg, err := b.get(ctx, stream, getRequest{LastFor: subject}, false)
		must(t, err)
		n, err := strconv.Atoi(msg.header.Get(headerTTL))
		must(t, err)
		return time.Duration(n) * time.Second
	}
	lock, record := seconds(bucketStream(b.locks()), b.idempotencyKey(idem)), seconds(bucketStream(b.state(0)), b.record(r.ID))
	if lock != pelton.IdempotencyTTL || record < lock {
		t.Errorf("the lock lives for %s, the record for %s", lock, record)
	}

	if got, err := b.Recall(ctx, idem); err != nil || got.Record.ID != r.ID || !got.Replayed || got.Existing {
		t.Errorf("Recall = %+v, %v", got, err)
	}
	idem.Fingerprint = "else"
	for _, other := range []Idempotency{idem, aRequest("nobody's")} {
		if _, err := b.Recall(ctx, other); !errors.Is(err, pelton.ErrNotFound) {
			t.Errorf("Recall(%+v) = %v, want ErrNotFound", other, err)
		}
	}
}
