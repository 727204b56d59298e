package broker

import (
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/peltonq/pelton"
)

const (
	// maxQueues bounds the queues of an installation: each holds up to eight
	// consumers (1,000 R3 consumers cost 700 MB at rest).
	maxQueuesR1 = 1000
	maxQueuesR3 = 200

	deadLetterAge  = pelton.FailedRetention
	markerTTL      = time.Minute // how long the place of an expired key is remembered
	laneMaxWaiting = 4096        // waiting pulls per lane, over all workers

	// mostConsumers is a stream's own bound, which is there because -1 would be taken for the
	// server's default: 1,000 a stream (nats-server 2.15), which 500 workers reach, who
	// follow the settings with two each, or 200 queues.
	mostConsumers = 1_000_000
)

// streams are all streams of an installation with one shard, those behind buckets included,
// as they are created.
func (n names) streams(replicas int) []jetstream.StreamConfig {
	return []jetstream.StreamConfig{
		n.tasksStream(0, replicas),
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
			MaxConsumers:      mostConsumers,
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
			MaxConsumers:      mostConsumers,
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
			MaxConsumers:      mostConsumers,
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
			MaxConsumers:      mostConsumers,
			MaxMsgsPerSubject: -1,
			AllowDirect:       true,
			AllowMsgTTL:       true,
		},
	}
}

// shardStreams are those of one shard.
func (n names) shardStreams(shard uint8, replicas int) []jetstream.StreamConfig {
	return []jetstream.StreamConfig{n.tasksStream(shard, replicas), bucket(n.state(shard), "Pelton records", replicas, true)}
}

func (n names) tasksStream(shard uint8, replicas int) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name:               n.tasks(shard),
		Description:        "Pelton tasks that wait or run",
		Subjects:           []string{n.taskSubjects(shard)},
		Retention:          jetstream.WorkQueuePolicy,
		Storage:            jetstream.FileStorage,
		Replicas:           replicas,
		MaxMsgs:            -1,
		MaxBytes:           -1, // with a limit, the oldest task would be dropped
		MaxMsgSize:         -1,
		MaxConsumers:       mostConsumers,
		MaxMsgsPerSubject:  -1,
		AllowDirect:        true,
		AllowMsgSchedules:  true,
		AllowMsgTTL:        true,
		AllowAtomicPublish: true,
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
		MaxConsumers:           mostConsumers,
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
	if got.MaxConsumers >= 0 && got.MaxConsumers < want.MaxConsumers {
		bad = append(bad, fmt.Sprintf("max_consumers is %d, must be -1 or at least %d", got.MaxConsumers, want.MaxConsumers))
	}
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
