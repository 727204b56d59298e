package broker

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/peltonq/pelton"
)

// DefaultNamespace prefixes every subject, stream and bucket, so that several
// installations can share one NATS.
const DefaultNamespace = "pelton"

const (
	// maxQueues bounds the queues of an installation: each holds up to eight
	// consumers (1,000 R3 consumers cost 700 MB at rest).
	maxQueuesR1 = 1000
	maxQueuesR3 = 200

	deadLetterAge  = pelton.FailedRetention
	markerTTL      = time.Minute // how long the place of an expired key is remembered
	laneMaxWaiting = 4096        // waiting pulls per lane, over all workers
)

var namespaceName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_-]{0,31}$`)

// names derives every name that lives in the broker from a namespace. Shard 0
// is the only one for now; the parameter is in every name that will need it.
type names struct{ ns string }

func (n names) tasks(shard uint8) string { return fmt.Sprintf("%s_TASKS_%d", n.ns, shard) }
func (n names) state(shard uint8) string { return n.ns + "_STATE_" + strconv.Itoa(int(shard)) }
func (n names) dead() string             { return n.ns + "_DEAD" }
func (n names) config() string           { return n.ns + "_CONFIG" }
func (n names) locks() string            { return n.ns + "_LOCKS" }
func (n names) workers() string          { return n.ns + "_WORKERS" }

func (n names) ticks() string { return n.ns + "_TICKS" }

func (n names) keyed(shard uint8) string { return fmt.Sprintf("%s_KEYED_%d", n.ns, shard) }
func (n names) keys() string             { return n.ns + "_KEYS_0" }

func (n names) dueIndex() string { return n.ns + "_DUE_0" }

func bucketStream(bucket string) string { return "KV_" + bucket }

func (n names) taskSubjects(shard uint8) string { return fmt.Sprintf("%s.t.%d.>", n.ns, shard) }

// ready has no id in it: a subject for each task would cost 20 to 40 % of the
// publish rate and far more of a sparse lane's drain rate.
func (n names) ready(shard uint8, queue string, p pelton.Priority) string {
	return n.readyPrefix(shard) + queue + "." + string(p)
}

// readyPrefix begins every ready subject of a shard.
func (n names) readyPrefix(shard uint8) string {
	return n.ns + ".t." + strconv.Itoa(int(shard)) + ".r."
}

func (n names) scheduled(shard uint8, queue string, p pelton.Priority, id pelton.ID, epoch uint32) string {
	return fmt.Sprintf("%s.t.%d.s.%s.%s.%s.%d", n.ns, shard, queue, p, id, epoch)
}

func (n names) scheduledOf(shard uint8, queue string, p pelton.Priority, id pelton.ID) string {
	return fmt.Sprintf("%s.t.%d.s.%s.%s.%s.*", n.ns, shard, queue, p, id)
}

func (n names) scheduledIn(shard uint8, queue string) string {
	return fmt.Sprintf("%s.t.%d.s.%s.>", n.ns, shard, queue)
}

func (n names) taskProbe(shard uint8) string { return fmt.Sprintf("%s.t.%d.probe", n.ns, shard) }

func (n names) record(id pelton.ID) string {
	var room [128]byte
	return withID(append(append(append(room[:0], "$KV."...), n.ns...), "_STATE_"...), id, true)
}

// withID is the prefix, with the id's shard if that is to be in it, and the id: one string, without
// one for the id.
func withID(prefix []byte, id pelton.ID, shard bool) string {
	if shard {
		prefix = append(strconv.AppendUint(prefix, uint64(id.Shard()), 10), '.')
	}
	prefix, _ = id.AppendText(prefix) // never fails
	return string(prefix)
}

func (n names) deadLetter(queue string, id pelton.ID) string {
	return fmt.Sprintf("%s.d.%s.%s", n.ns, queue, id)
}

func (n names) deadIn(queue string) string { return fmt.Sprintf("%s.d.%s.*", n.ns, queue) }

// deadProbe cannot meet a queue: no queue's name starts with an underscore.
func (n names) deadProbe() string { return n.ns + ".d._.probe" }

// The subjects of lines. A place is a message on its line's subject, and the
// stream's sequence is the order; the queue is in it to be counted. A line has
// subjects only while somebody waits in it.

func (n names) placesIn(shard uint8, l Line) string {
	return fmt.Sprintf("%s.k.%d.l.%s.*", n.ns, shard, l.token())
}

func (n names) place(shard uint8, l Line, queue string) string {
	return fmt.Sprintf("%s.k.%d.l.%s.%s", n.ns, shard, l.token(), queue)
}

func (n names) places() string { return n.ns + ".k.0.l.>" }

func (n names) placesOf(shard uint8, queue string) string {
	return fmt.Sprintf("%s.k.%d.l.*.%s", n.ns, shard, queue)
}

// laterPlace is the schedule of a delayed task that will take a place in a line.
func (n names) laterPlace(shard uint8, queue string, id pelton.ID, epoch uint32) string {
	return fmt.Sprintf("%s.k.%d.s.%s.%s.%d", n.ns, shard, queue, id, epoch)
}

func (n names) laterPlacesOf(shard uint8, queue string, id pelton.ID) string {
	return fmt.Sprintf("%s.k.%d.s.%s.%s.*", n.ns, shard, queue, id)
}

func (n names) laterPlacesIn(shard uint8, queue string) string {
	return fmt.Sprintf("%s.k.%d.s.%s.>", n.ns, shard, queue)
}

func (n names) laterPlaces(shard uint8) string { return fmt.Sprintf("%s.k.%d.s.>", n.ns, shard) }

// dueIn is where the entries of a queue's tasks are that are due in a span of time: see
// due.go. A queue named "*" stands for all of them.
func (n names) dueIn(shard uint8, queue, bucket string) string {
	return fmt.Sprintf("%s.due.%d.%s.%s", n.ns, shard, queue, bucket)
}

// dueProbe cannot meet a queue: it has one token less.
func (n names) dueProbe(shard uint8) string { return fmt.Sprintf("%s.due.%d.probe", n.ns, shard) }

func (n names) keyedProbe(shard uint8) string { return fmt.Sprintf("%s.k.%d.probe", n.ns, shard) }

// The subjects of schedules. The next tick of a schedule waits on a subject that has
// the tick in it: replacing a message schedule while it fires would lose the new one.

func (n names) tick(schedule string, tick time.Time) string {
	return fmt.Sprintf("%s.y.s.%s.%d", n.ns, schedule, tick.UnixMilli())
}

func (n names) ticksOf(schedule string) string { return fmt.Sprintf("%s.y.s.%s.*", n.ns, schedule) }
func (n names) dueTicks() string               { return n.ns + ".y.r" }
func (n names) tickProbe() string              { return n.ns + ".y.probe" }

// line is the document of a line.
func (n names) line(l Line) string {
	return fmt.Sprintf("$KV.%s.%s", n.keys(), l.token())
}

func (n names) cancelSignal(id pelton.ID) string { return fmt.Sprintf("%s.c.%s", n.ns, id) }
func (n names) cancelSignals() string            { return n.ns + ".c.*" }
func (n names) workerSignal(id string) string    { return n.ns + ".w." + id }
func (n names) diskSignal() string               { return n.ns + ".disk" }
func (n names) replicasSignal() string           { return n.ns + ".replicas" }
func (n names) event(id pelton.ID) string {
	var room [128]byte
	return withID(append(append(room[:0], n.ns...), ".e."...), id, false)
}
func (n names) events() string { return n.ns + ".e.*" }

func laneConsumer(queue string, p pelton.Priority) string { return "r_" + queue + "_" + string(p) }
func scheduledConsumer(queue string) string               { return "s_" + queue }
func waitingConsumer(queue string) string                 { return "k_" + queue }
func laterConsumer(queue string) string                   { return "ks_" + queue }
func deadConsumer(queue string) string                    { return "d_" + queue }

// parseLaneConsumer is the inverse of laneConsumer.
func parseLaneConsumer(name string) (queue string, p pelton.Priority, ok bool) {
	rest, ok := strings.CutPrefix(name, "r_")
	if !ok {
		return "", "", false
	}
	cut := strings.LastIndexByte(rest, '_')
	if cut <= 0 {
		return "", "", false
	}
	p = pelton.Priority(rest[cut+1:])
	return rest[:cut], p, p != "" && p.Rank() >= 0
}

// streams are all streams of the installation, those behind buckets included,
// as they are created.
func (n names) streams(replicas int) []jetstream.StreamConfig {
	return []jetstream.StreamConfig{
		{
			Name:               n.tasks(0),
			Description:        "Pelton tasks that wait or run",
			Subjects:           []string{n.taskSubjects(0)},
			Retention:          jetstream.WorkQueuePolicy,
			Storage:            jetstream.FileStorage,
			Replicas:           replicas,
			MaxMsgs:            -1,
			MaxBytes:           -1, // with a limit, the oldest task would be dropped
			MaxMsgSize:         -1,
			MaxConsumers:       -1,
			MaxMsgsPerSubject:  -1,
			AllowDirect:        true,
			AllowMsgSchedules:  true,
			AllowMsgTTL:        true,
			AllowAtomicPublish: true,
		},
		{
			Name:              n.dead(),
			Description:       "Pelton dead letters",
			Subjects:          []string{n.ns + ".d.>"},
			Retention:         jetstream.LimitsPolicy,
			Storage:           jetstream.FileStorage,
			Replicas:          replicas,
			MaxAge:            deadLetterAge,
			MaxMsgs:           -1,
			MaxBytes:          -1,
			MaxMsgSize:        -1,
			MaxConsumers:      -1,
			MaxMsgsPerSubject: 1,
			AllowDirect:       true,
		},
		bucket(n.state(0), "Pelton records", replicas, true),
		bucket(n.config(), "Pelton queues and settings", replicas, false),
		bucket(n.locks(), "Pelton locks and keys", replicas, false),
		bucket(n.workers(), "Pelton workers' heartbeats", replicas, false),
		{
			Name:              n.keyed(0),
			Description:       "Pelton tasks that wait for their turn",
			Subjects:          []string{fmt.Sprintf("%s.k.%d.>", n.ns, 0)},
			Retention:         jetstream.LimitsPolicy,
			Storage:           jetstream.FileStorage,
			Replicas:          replicas,
			MaxMsgs:           -1,
			MaxBytes:          -1,
			MaxMsgSize:        -1,
			MaxConsumers:      -1,
			MaxMsgsPerSubject: -1,
			AllowDirect:       true,
			AllowMsgSchedules: true,
			AllowMsgTTL:       true,
		},
		bucket(n.keys(), "Pelton lines of keys and kinds", replicas, false),
		{
			Name:              n.ticks(),
			Description:       "Pelton schedules' next ticks",
			Subjects:          []string{n.ns + ".y.>"},
			Retention:         jetstream.WorkQueuePolicy,
			Storage:           jetstream.FileStorage,
			Replicas:          replicas,
			MaxMsgs:           -1,
			MaxBytes:          -1,
			MaxMsgSize:        -1,
			MaxConsumers:      -1,
			MaxMsgsPerSubject: -1,
			AllowDirect:       true,
			AllowMsgSchedules: true,
			AllowMsgTTL:       true,
		},
		{
			Name:              n.dueIndex(),
			Description:       "Pelton tasks by the time at which they are due",
			Subjects:          []string{fmt.Sprintf("%s.due.%d.>", n.ns, 0)},
			Retention:         jetstream.LimitsPolicy,
			Storage:           jetstream.FileStorage,
			Replicas:          replicas,
			MaxMsgs:           -1,
			MaxBytes:          -1,
			MaxMsgSize:        -1,
			MaxConsumers:      -1,
			MaxMsgsPerSubject: -1,
			AllowDirect:       true,
			AllowMsgTTL:       true,
		},
	}
}

// bucket is the stream that nats.go makes for a KV bucket with a LimitMarkerTTL.
// It is created as a stream because a bucket cannot ask for AllowAtomicPublish,
// and CreateOrUpdateKeyValue would clear it again.
func bucket(name, description string, replicas int, atomic bool) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name:                   bucketStream(name),
		Description:            description,
		Subjects:               []string{"$KV." + name + ".>"},
		Storage:                jetstream.FileStorage,
		Discard:                jetstream.DiscardNew,
		Replicas:               replicas,
		MaxMsgs:                -1,
		MaxBytes:               -1,
		MaxMsgSize:             -1,
		MaxConsumers:           -1,
		MaxMsgsPerSubject:      1,
		AllowRollup:            true,
		DenyDelete:             true,
		AllowDirect:            true,
		AllowMsgTTL:            true,
		SubjectDeleteMarkerTTL: markerTTL,
		AllowAtomicPublish:     atomic,
	}
}

// misfits names every setting of an existing stream that Pelton cannot live
// with. Settings an operator may change (replicas, placement, descriptions,
// dead letters' age, the audit log's age and size) are not among them.
func misfits(want, got jetstream.StreamConfig) []string {
	var bad []string
	check := func(setting string, want, got any) {
		if want != got {
			bad = append(bad, fmt.Sprintf("%s is %v, must be %v", setting, got, want))
		}
	}
	check("subjects", strings.Join(want.Subjects, ","), strings.Join(got.Subjects, ","))
	check("retention", want.Retention, got.Retention)
	check("storage", want.Storage, got.Storage)
	check("max_msgs_per_subject", want.MaxMsgsPerSubject, got.MaxMsgsPerSubject)
	if want.MaxMsgs < 0 { // else its bounds are the operator's
		check("max_msgs", want.MaxMsgs, got.MaxMsgs)
		check("max_bytes", want.MaxBytes, got.MaxBytes)
	}
	if want.MaxAge == 0 {
		check("max_age", time.Duration(0), got.MaxAge)
	}
	if got.MaxMsgSize >= 0 && got.MaxMsgSize < minMessageSize {
		bad = append(bad, fmt.Sprintf("max_msg_size is %d, must be -1 or at least %d", got.MaxMsgSize, minMessageSize))
	}
	check("sealed", false, got.Sealed)
	check("no_ack", false, got.NoAck)
	check("mirror", false, got.Mirror != nil)
	check("sources", 0, len(got.Sources))
	check("republish", false, got.RePublish != nil)
	check("subject_transform", false, got.SubjectTransform != nil)
	check("allow_direct", want.AllowDirect, got.AllowDirect)
	check("allow_msg_counter", false, got.AllowMsgCounter)
	check("discard_new_per_subject", false, got.DiscardNewPerSubject)
	check("deny_purge", false, got.DenyPurge)
	if !want.DenyDelete {
		check("deny_delete", false, got.DenyDelete)
	}
	// Limits of a stream's consumers would be those of lanes and counters: the
	// inactivity limit deletes them.
	check("max_consumers", want.MaxConsumers, got.MaxConsumers)
	check("consumer_limits", jetstream.StreamConsumerLimits{}, got.ConsumerLimits)
	if want.AllowMsgSchedules {
		check("allow_msg_schedules", true, got.AllowMsgSchedules)
	}
	if want.AllowMsgTTL {
		check("allow_msg_ttl", true, got.AllowMsgTTL)
	}
	if want.AllowAtomicPublish {
		check("allow_atomic", true, got.AllowAtomicPublish)
	}
	if want.AllowRollup {
		check("allow_rollup_hdrs", true, got.AllowRollup)
	}
	if want.SubjectDeleteMarkerTTL > 0 && got.SubjectDeleteMarkerTTL == 0 {
		bad = append(bad, "subject_delete_marker_ttl is 0, must be set")
	}
	check("persist_mode", jetstream.DefaultPersistMode, got.PersistMode)
	return bad
}

// lane is the consumer behind one (queue, priority). WorkQueue streams want
// literal, disjoint filters and explicit acks.
func (n names) lane(shard uint8, queue string, p pelton.Priority, lease time.Duration) jetstream.ConsumerConfig {
	return jetstream.ConsumerConfig{
		Durable:       laneConsumer(queue, p),
		FilterSubject: n.ready(shard, queue, p),
		DeliverPolicy: jetstream.DeliverAllPolicy,
		AckPolicy:     jetstream.AckExplicitPolicy,
		AckWait:       lease,
		MaxDeliver:    -1, // a message over MaxDeliver would stay stored and invisible
		MaxAckPending: -1,
		MaxWaiting:    laneMaxWaiting,
	}
}

// counter is a consumer that is never pulled: its NumPending counts what its
// filter covers in constant time.
func counter(name, filter string) jetstream.ConsumerConfig {
	return jetstream.ConsumerConfig{
		Durable:       name,
		FilterSubject: filter,
		DeliverPolicy: jetstream.DeliverAllPolicy,
		AckPolicy:     jetstream.AckExplicitPolicy,
		MaxDeliver:    -1,
		MaxAckPending: -1,
		MaxWaiting:    1,
	}
}

// arrivals is the consumer that hands every place that was taken in a line to some
// worker. It has no filter, which the server would match against the subject of every
// line there is for each message; so schedules come too, and are left alone.
func (n names) arrivals(lease time.Duration) jetstream.ConsumerConfig {
	return jetstream.ConsumerConfig{
		Durable:       arrivalsConsumer,
		DeliverPolicy: jetstream.DeliverAllPolicy,
		AckPolicy:     jetstream.AckExplicitPolicy,
		AckWait:       min(lease, arrivalsLease),
		MaxDeliver:    -1,
		MaxAckPending: -1,
		MaxWaiting:    laneMaxWaiting,
	}
}

// firing is the consumer that hands every tick that is due to some server.
func (n names) firing() jetstream.ConsumerConfig {
	return jetstream.ConsumerConfig{
		Durable:       ticksConsumer,
		FilterSubject: n.dueTicks(),
		DeliverPolicy: jetstream.DeliverAllPolicy,
		AckPolicy:     jetstream.AckExplicitPolicy,
		AckWait:       ticksLease,
		MaxDeliver:    -1,
		MaxAckPending: -1,
		MaxWaiting:    laneMaxWaiting,
	}
}

const (
	ticksConsumer = "ticks"
	// ticksLease is how long a server may take over a tick, which takes it
	// milliseconds, before another one gets it too.
	ticksLease = 2 * time.Second

	arrivalsConsumer = "arrivals"
	// arrivalsLease is how long a worker may take over an arrival, which takes it
	// milliseconds, before another one gets it too.
	arrivalsLease = 5 * time.Second
)

func formatSeq(seq uint64) string { return strconv.FormatUint(seq, 10) }
