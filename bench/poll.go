package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/peltonq/pelton"
)

// polled are the states of the task that 64 connections ask for.
var polled = []pelton.State{pelton.Queued, pelton.Running, pelton.Succeeded}

func polls(state pelton.State) string { return "GET of one task by 64 connections, " + string(state) }

func pollReads(state pelton.State) string { return "reads of the broker meanwhile, " + string(state) }

// pollMode has 64 connections ask for one task by its id for a while, and counts the
// reads that reach the broker.
var pollMode = func() mode {
	m := mode{name: "poll", only: ownPelton, once: true, run: withPelton(runPoll)}
	for _, state := range polled {
		m.metrics = append(m.metrics, metric{Name: polls(state), Unit: "polls/s"}, metric{Name: pollReads(state), Unit: "reads/s", Less: true})
	}
	return m
}()

func runPoll(ctx context.Context, p *peltonTCP, s scale) (_ []measured, err error) {
	const queue, nobodys = "polled", "polled-by-nobody"
	w, err := start(ctx, p.binary, "worker", "run", "--nats", p.server.nats, "--demo", "--queues", queue, "--grace", "1s", "--log-format", "json")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, w.stop()) }()
	tap, err := tapReads(p.server.nats)
	if err != nil {
		return nil, err
	}
	defer tap.nc.Close()
	asker := httpClient()
	defer asker.CloseIdleConnections()
	var got []measured
	for _, state := range polled {
		spec := pelton.Spec{Kind: "demo.echo", Queue: queue, Payload: payload}
		if state == pelton.Queued {
			spec.Queue = nobodys
		}
		if state == pelton.Running {
			spec.Kind, spec.Payload = "demo.sleep", json.RawMessage(`{"ms":600000}`)
		}
		task, err := p.client.Enqueue(ctx, spec)
		if err != nil {
			return nil, err
		}
		url := p.server.http + "/tasks/" + task.ID.String()
		if err := become(ctx, asker, url, state); err != nil {
			return nil, err
		}
		n, took, reads, err := tap.during(ctx, func() (int, time.Duration, error) { return pollFor(ctx, asker, url, state, s.Poll) })
		if err != nil {
			return nil, err
		}
		got = append(got, measured{polls(state), perSecond(n, took)}, measured{pollReads(state), perSecond(reads, took)})
		if state == pelton.Running {
			if err := request(ctx, http.MethodPost, url+"/cancel"); err != nil {
				return nil, err
			}
		}
	}
	return got, nil
}

// pollFor asks with 64 connections as often as it can, and wants the state each time.
func pollFor(ctx context.Context, asker *http.Client, url string, state pelton.State, window time.Duration) (int, time.Duration, error) {
	return repeat(ctx, load{callers: 64, n: million * batchSize, within: window}, 1, func(ctx context.Context) error {
		return ask(ctx, asker, url, state)
	})
}

// become waits until the task is in a state.
func become(ctx context.Context, asker *http.Client, url string, state pelton.State) error {
	ctx, cancel := context.WithTimeout(ctx, callWithin)
	defer cancel()
	for {
		err := ask(ctx, asker, url, state)
		if err == nil {
			return nil
		}
		if wait(ctx, 20*time.Millisecond) != nil {
			return err
		}
	}
}

// ask reads a task, which is to be in a state.
func ask(ctx context.Context, asker *http.Client, url string, state pelton.State) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return err
	}
	resp, err := asker.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err == nil && (resp.StatusCode != http.StatusOK || !bytes.Contains(answer, []byte(`"state":"`+string(state)+`"`))) {
		err = fmt.Errorf("GET %s: %s, not %s: %s", url, resp.Status, state, answer[:min(len(answer), 500)])
	}
	return err
}

// tap hears every read that a program asks the broker for: the requests for messages
// of a stream, and so for keys of a bucket. Other connections' requests reach
// whoever subscribes to their subjects.
type tap struct {
	nc    *nats.Conn
	subs  []*nats.Subscription
	heard atomic.Int64
}

func tapReads(url string) (*tap, error) {
	nc, err := nats.Connect(url)
	if err != nil {
		return nil, err
	}
	t := &tap{nc: nc}
	for _, subject := range []string{"$JS.API.DIRECT.GET.>", "$JS.API.STREAM.MSG.GET.>"} {
		var sub *nats.Subscription
		if sub, err = nc.Subscribe(subject, func(*nats.Msg) { t.heard.Add(1) }); err == nil {
			t.subs = append(t.subs, sub)
			err = sub.SetPendingLimits(-1, -1)
		}
		if err != nil {
			nc.Close()
			return nil, err
		}
	}
	return t, nc.Flush()
}

// during counts the reads while something is done so often.
func (t *tap) during(ctx context.Context, do func() (n int, took time.Duration, err error)) (n int, took time.Duration, reads int, err error) {
	before := t.heard.Load()
	if n, took, err = do(); err == nil {
		err = t.settle(ctx)
	}
	return n, took, int(t.heard.Load() - before), err
}

// settle waits until what the broker has sent so far is counted.
func (t *tap) settle(ctx context.Context) error {
	if err := t.nc.FlushTimeout(callWithin); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, callWithin)
	defer cancel()
	for _, sub := range t.subs {
		for { // a message is pending until its callback has returned
			left, _, err := sub.Pending()
			if err != nil {
				return err
			}
			if left == 0 {
				break
			}
			if err := wait(ctx, time.Millisecond); err != nil {
				return fmt.Errorf("%d reads are not counted: %w", left, err)
			}
		}
	}
	return nil
}
