package broker

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/brokertest"
)

// pullRaw makes a pull request by hand and gives what it is answered with.
func pullRaw(t *testing.T, b *Broker, queue string, p pelton.Priority, body map[string]any) <-chan *nats.Msg {
	t.Helper()
	answers := make(chan *nats.Msg, 16)
	inbox := b.conn.nc.NewInbox()
	sub, err := b.conn.nc.ChanSubscribe(inbox, answers)
	must(t, err)
	t.Cleanup(func() { _ = sub.Unsubscribe() })
	data, err := json.Marshal(body)
	must(t, err)
	must(t, b.conn.nc.PublishRequest("$JS.API.CONSUMER.MSG.NEXT."+b.tasks(0)+"."+laneConsumer(queue, p), inbox, data))
	return answers
}

func noAnswer(t *testing.T, answers <-chan *nats.Msg, what string) {
	t.Helper()
	select {
	case msg := <-answers:
		t.Errorf("%s: answered with %v %s", what, msg.Header, msg.Data)
	case <-time.After(150 * time.Millisecond):
	}
}

// At its MaxAckPending a lane does not answer a request for what is ready now: this
// is why the dispatcher never probes a bounded lane.
func TestFactABoundedLaneKeepsNoWaitRequests(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	set(t, b, "q", `{"max_running":{"low":1}}`)
	enqueue(t, b, "q", pelton.Low)
	enqueue(t, b, "q", pelton.Low)
	shows(t, b, b.tasks(0), laneConsumer("q", pelton.Low), 2)
	held := wait(t, pullRaw(t, b, "q", pelton.Low, map[string]any{"batch": 1, "no_wait": true}), "delivery")
	answers := pullRaw(t, b, "q", pelton.Low, map[string]any{"batch": 1, "no_wait": true})
	noAnswer(t, answers, "a probe at the bound")
	must(t, held.Respond([]byte("+ACK")))
	if msg := wait(t, answers, "delivery"); len(msg.Data) == 0 {
		t.Errorf("answered with %v", msg.Header)
	}
}

// A pause keeps waiting requests and answers new probes with "nothing there"; at its
// end the waiting ones are served, also those that were made while it lasted.
func TestFactPause(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	srv := brokertest.StartServer(t, brokertest.In(dir))
	nc := brokertest.Connect(t, srv)
	b := openOn(t, nc, Config{})
	must(t, b.EnsureLane(t.Context(), Lane{Queue: "q", Priority: pelton.Low}))
	before := pullRaw(t, b, "q", pelton.Low, map[string]any{"batch": 1, "expires": time.Minute})
	setPaused(t, b, "q", true, pelton.Low)
	enqueue(t, b, "q", pelton.Low)
	enqueue(t, b, "q", pelton.Low)
	noAnswer(t, before, "a request from before the pause")
	if msg := wait(t, pullRaw(t, b, "q", pelton.Low, map[string]any{"batch": 1, "no_wait": true}), "answer"); msg.Header.Get("Status") != "404" {
		t.Errorf("a probe while paused: %v", msg.Header)
	}
	during := pullRaw(t, b, "q", pelton.Low, map[string]any{"batch": 1, "expires": time.Minute})
	noAnswer(t, during, "a request from during the pause")
	setPaused(t, b, "q", false, pelton.Low)
	for _, answers := range []<-chan *nats.Msg{before, during} {
		if msg := wait(t, answers, "delivery"); len(msg.Data) == 0 {
			t.Errorf("answered with %v", msg.Header)
		}
	}

	// It survives a restart of the server.
	setPaused(t, b, "q", true, pelton.Low)
	b.Close()
	nc.Close()
	brokertest.Stop(t, srv)
	b = openOn(t, brokertest.Connect(t, brokertest.StartServer(t, brokertest.In(dir))), Config{})
	if info := laneInfo(t, b, "q", pelton.Low); !isPaused(info) {
		t.Errorf("after a restart: %+v", info)
	}
}

// A shorter AckWait holds for what is out already: this is why workers come first.
func TestFactAckWaitHoldsForWhatIsOut(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	enqueue(t, b, "q", pelton.Low)
	shows(t, b, b.tasks(0), laneConsumer("q", pelton.Low), 1)
	first := wait(t, pullRaw(t, b, "q", pelton.Low, map[string]any{"batch": 1, "no_wait": true}), "delivery")
	again := pullRaw(t, b, "q", pelton.Low, map[string]any{"batch": 1, "expires": time.Minute})
	cfg := laneInfo(t, b, "q", pelton.Low).Config
	cfg.AckWait = time.Second
	_, err := b.js.UpdateConsumer(t.Context(), b.tasks(0), cfg)
	must(t, err)
	// Which waits for 10 s: by the AckWait that it was handed out under it would be 30.
	if msg := wait(t, again, "redelivery"); string(msg.Data) != string(first.Data) {
		t.Errorf("%v", msg.Header)
	}
}
