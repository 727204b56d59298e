package broker

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/peltonq/pelton"
)

// Delivery is one hand-over of a task by the broker to a worker.
type Delivery struct {
	Lane     Lane
	Envelope *Envelope // nil when Err is set
	Err      error     // why the message could not be read: ErrMalformed or ErrNewer
	Seq      uint64    // stream sequence: the carrier of the run
	Arrived  time.Time
	// Published is when the message came into the stream, by the broker's clock:
	// when the task became ready.
	Published time.Time

	// Fresh says that nobody can have started the task before: see horizon.go.
	Fresh bool

	relayed bool
	conn    *conn
	times   uint64 // that the broker has handed it over; starts anew with the broker
	subject string // of the message
	data    []byte // until it is decoded; that of arrivals and ticks
	ack     string // subject that takes +ACK, -NAK, +WPI
}

// PullEnd is the end of a pull request: whatever it was to bring has come.
type PullEnd struct {
	// Err is nil for an end in good order: nothing (more) there, or the time is up.
	Err error
	// Left is how many deliveries the request was still for, where the broker says so: when its
	// time was up.
	Left int
}

// Puller asks one lane for deliveries with pull requests of its own making. It
// exists because nats.go's consumers ask for more than a worker can run, stall
// in rare cases, and leave messages behind when they stop.
type Puller struct {
	b     *Broker
	lane  Lane
	next  string // subject of pull requests
	inbox string
	sub   *nats.Subscription
	done  chan struct{}
	once  sync.Once
}

// OpenPuller subscribes to what the lane's pull requests will bring. deliver and
// end are called one at a time, and must not block for long: end once per
// request, unless the connection was lost in between.
func (b *Broker) OpenPuller(lane Lane, deliver func(*Delivery), end func(PullEnd)) (*Puller, error) {
	p, err := b.openPuller(lane, b.tasks(lane.Shard), laneConsumer(lane.Queue, lane.Priority), deliver, end)
	if err != nil {
		return nil, fmt.Errorf("open lane %s/%s: %w", lane.Queue, lane.Priority, err)
	}
	return p, nil
}

func (b *Broker) openPuller(lane Lane, stream, consumer string, deliver func(*Delivery), end func(PullEnd)) (*Puller, error) {
	p := &Puller{
		b:     b,
		lane:  lane,
		next:  "$JS.API.CONSUMER.MSG.NEXT." + stream + "." + consumer,
		inbox: b.conn.nc.NewInbox(), // not NewRespInbox: its subjects are covered by the connection itself, so interest would never end
		done:  make(chan struct{}),
	}
	sub, err := b.conn.nc.Subscribe(p.inbox, func(msg *nats.Msg) {
		if d := p.delivery(msg); d != nil {
			deliver(d)
		} else if e, over := pullEnd(msg); over {
			end(e)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("subscribe to pulls: %w: %w", pelton.ErrUnavailable, err)
	}
	// What is on its way is bounded by the requests. The client's own bound would
	// drop deliveries, and each would be stranded until its lease is over.
	if err := sub.SetPendingLimits(-1, -1); err != nil {
		return nil, fmt.Errorf("subscribe to pulls: %w: %w", pelton.ErrUnavailable, err)
	}
	sub.SetClosedHandler(func(string) { p.once.Do(func() { close(p.done) }) })
	p.sub = sub
	return p, nil
}

// Pull asks for up to batch deliveries. wait 0 means those that are ready now;
// otherwise the request stays open for that long until there is one, and then
// brings what is ready at once. A Puller has one request open at a time, or several of
// Stand; the end of each is announced to end, unless it brought all it was for.
func (p *Puller) Pull(batch int, wait time.Duration) error {
	// no_wait with expires is a one-shot: wait for the first, take what is there,
	// end (nats-server 2.15, consumer.go, processNextMsgRequest). For one delivery a
	// plain request does that too, and is not refused because others wait already.
	return p.request(batch, wait == 0 || batch > 1, wait)
}

// Stand asks for the next batch deliveries, each as it comes, until wait is over, which alone
// is announced to end. If several workers do so, they get them in turns.
func (p *Puller) Stand(batch int, wait time.Duration) error { return p.request(batch, false, wait) }

func (p *Puller) request(batch int, noWait bool, wait time.Duration) error {
	body, err := json.Marshal(struct {
		Batch   int           `json:"batch"`
		NoWait  bool          `json:"no_wait"`
		Expires time.Duration `json:"expires,omitempty"`
	}{batch, noWait, wait})
	if err != nil {
		return fmt.Errorf("encode pull: %w", err)
	}
	if !p.b.conn.nc.IsConnected() {
		return fmt.Errorf("%w: not connected", pelton.ErrUnavailable)
	}
	if err := p.b.conn.nc.PublishRequest(p.next, p.inbox, body); err != nil {
		return fmt.Errorf("%w: pull: %w", pelton.ErrUnavailable, err)
	}
	return nil
}

// Close takes back the open request. What was already on its way is still handed
// to deliver before Close returns, so that the caller can nak it: drain, flush,
// read the rest strands nothing, a plain unsubscribe does. ctx bounds the wait.
func (p *Puller) Close(ctx context.Context) {
	if err := p.sub.Drain(); err != nil { // the connection is gone, and the requests with it
		return
	}
	select {
	case <-p.done:
	case <-ctx.Done():
	}
}

func (p *Puller) delivery(msg *nats.Msg) *Delivery {
	if len(msg.Reply) == 0 {
		return nil
	}
	d := &Delivery{Lane: p.lane, Arrived: time.Now(), conn: p.b.conn, subject: msg.Subject, data: msg.Data, ack: msg.Reply}
	meta, err := msg.Metadata()
	if err != nil {
		d.Err = fmt.Errorf("%w: acknowledgement subject: %w", ErrMalformed, err)
		return d
	}
	d.Seq, d.Published, d.times = meta.Sequence.Stream, meta.Timestamp, meta.NumDelivered
	if p.lane != (Lane{}) { // an arrival is decoded when it has to be
		d.decode()
		d.Fresh = d.Err == nil && p.b.fresh(d)
	}
	return d
}

func (d *Delivery) decode() {
	if d.Err == nil && d.Envelope == nil {
		d.Envelope, d.Err = decodeMessage(d.data, d.Seq)
	}
	d.data = nil
}

// pullEnd reads a status message. Heartbeats are not an end.
func pullEnd(msg *nats.Msg) (PullEnd, bool) {
	switch status := msg.Header.Get("Status"); status {
	case "404", "408": // nothing (more), or the time is up
		left, _ := strconv.Atoi(msg.Header.Get("Nats-Pending-Messages")) // 0 without
		return PullEnd{Left: left}, true
	case "100", "":
		return PullEnd{}, false
	case "503":
		return PullEnd{Err: fmt.Errorf("%w: the lane's consumer does not answer: JetStream is not up, or it was deleted", pelton.ErrUnavailable)}, true
	default: // 409: consumer deleted, leadership change, server shutdown
		return PullEnd{Err: fmt.Errorf("%w: pull ended: %s %s", pelton.ErrUnavailable, status, msg.Header.Get("Description"))}, true
	}
}

// As is the delivery as one of another task, which runs by the same message: see Relay.
func (d *Delivery) As(r *Record) *Delivery {
	as := *d
	as.Envelope, as.Published, as.Fresh, as.times, as.relayed = r.Envelope(), time.Now(), false, 2, true
	return &as
}

// InRelay reports whether the delivery is that of another task: see As.
func (d *Delivery) InRelay() bool { return d.relayed }

// First reports whether the broker hands the message over for the first time, as far as
// it remembers.
func (d *Delivery) First() bool { return d.times == 1 }

// again reports whether it was surely handed over before.
func (d *Delivery) again() bool { return d.times > 1 }

// Ack takes the message out of the stream. It is not awaited: an ack that gets
// lost makes a redelivery, which admission drops.
func (d *Delivery) Ack() error { return d.signal("+ACK") }

// Nak gives the message back; the broker hands it out again at once, first.
func (d *Delivery) Nak() error { return d.signal("-NAK") }

// NakWithDelay gives the message back for later. Meanwhile it counts against the
// lane's bound, so this is for messages that cannot be read, not for retries.
func (d *Delivery) NakWithDelay(delay time.Duration) error {
	return d.signal(fmt.Sprintf(`-NAK {"delay": %d}`, delay.Nanoseconds()))
}

func (d *Delivery) signal(verb string) error {
	if err := d.conn.nc.Publish(d.ack, []byte(verb)); err != nil {
		return fmt.Errorf("%w: %s: %w", pelton.ErrUnavailable, verb, err)
	}
	return nil
}

// Extend starts the lease anew and waits for the broker's reply, which proves
// contact. It does not prove ownership: the broker also answers for a message
// that is gone or held by another worker. pelton.ErrUnavailable means no reply.
func (d *Delivery) Extend(ctx context.Context) error {
	_, err := d.conn.call(ctx, &nats.Msg{Subject: d.ack, Data: []byte("+WPI")})
	if err != nil {
		return fmt.Errorf("extend lease: %w", readError(err))
	}
	return nil
}
