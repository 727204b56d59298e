package broker

import (
	"fmt"
	"slices"

	"github.com/peltonq/pelton"
)

// Role is what a process is to the broker, for its permissions.
type Role string

// The roles.
const (
	RoleProducer Role = "producer" // enqueues, reads, awaits, cancels and retries tasks
	RoleWorker   Role = "worker"   // runs tasks
	RoleAdmin    Role = "admin"    // pelton serve, and programs with packages admin or scheduler
)

// Roles lists all roles, the least first.
func Roles() []Role { return []Role{RoleProducer, RoleWorker, RoleAdmin} }

// Permissions are the subjects that a role may publish to and subscribe to. Everything
// else is to be denied.
type Permissions struct {
	Publish   []string
	Subscribe []string
}

// InboxPrefix is what the inboxes of a role begin with (nats.CustomInboxPrefix). Each role
// has its own, or one could read what the broker answers another.
func InboxPrefix(namespace string, role Role) string {
	return "_INBOX." + namespace + "." + string(role)
}

// PermissionsOf are those that a role needs in a namespace with up to so many shards, and no others as far as
// subjects can tell. The error is a namespace, or a number, that cannot be.
func PermissionsOf(namespace string, shards int, role Role) (Permissions, error) {
	cfg, err := Config{Namespace: namespace}.withDefaults()
	if err != nil {
		return Permissions{}, err
	}
	if shards < 1 || shards > MaxShards {
		return Permissions{}, fmt.Errorf("%w: %d shards are not between 1 and %d", pelton.ErrInvalid, shards, MaxShards)
	}
	n := grants{names: names{cfg.Namespace}, shards: shards}
	n.everybody(role)
	switch role {
	case RoleProducer:
		n.producer()
	case RoleWorker:
		n.worker()
	case RoleAdmin:
		n.admin()
	default:
		return Permissions{}, fmt.Errorf("no role is called %q", role)
	}
	slices.Sort(n.Publish)
	slices.Sort(n.Subscribe)
	return Permissions{slices.Compact(n.Publish), slices.Compact(n.Subscribe)}, nil
}

// grants collects permissions.
type grants struct {
	names
	Permissions

	shards int
}

// tasksIn and stateIn are the streams of all shards.
func (g *grants) tasksIn() (streams []string) {
	for shard := range g.shards {
		streams = append(streams, g.tasks(uint8(shard)))
	}
	return streams
}

func (g *grants) stateIn() (streams []string) {
	for shard := range g.shards {
		streams = append(streams, bucketStream(g.state(uint8(shard))))
	}
	return streams
}

func (g *grants) publish(subjects ...string)   { g.Publish = append(g.Publish, subjects...) }
func (g *grants) subscribe(subjects ...string) { g.Subscribe = append(g.Subscribe, subjects...) }

// api allows calls of the JetStream API on streams. A stream of a bucket is its own.
func (g *grants) api(call string, streams ...string) {
	for _, stream := range streams {
		g.publish("$JS.API." + fmt.Sprintf(call, stream))
	}
}

// read allows reading single messages. Whoever may read one may read all of the stream.
func (g *grants) read(streams ...string) {
	g.api("DIRECT.GET.%s", streams...)
	g.api("DIRECT.GET.%s.>", streams...)
	g.api("STREAM.MSG.GET.%s", streams...)
}

// write allows writing what a bucket holds under a key.
func (g *grants) write(bucket string, keys ...string) {
	for _, key := range keys {
		g.publish("$KV." + bucket + "." + key)
	}
}

// everybody is what opening the installation takes, and following its settings.
func (g *grants) everybody(role Role) {
	var all []string
	for _, s := range g.withShards(g.streams(1), g.shards, 1) {
		all = append(all, s.Name)
	}
	config := bucketStream(g.config())
	g.publish("$JS.API.INFO")
	g.api("STREAM.INFO.%s", all...)
	g.read(config, bucketStream(g.locks()), bucketStream(g.keys()), g.keyed(0), g.dueIndex())
	g.read(append(g.tasksIn(), g.stateIn()...)...)
	g.api("CONSUMER.CREATE.%s.>", config) // a watch
	g.api("CONSUMER.INFO.%s.*", config)
	g.api("CONSUMER.DELETE.%s.*", config)
	g.publish("$JS.FC." + config + ".>")
	g.subscribe(InboxPrefix(g.ns, role)+".>", g.diskSignal(), g.replicasSignal(), g.configKey(shardsKey))
}

// lanes is making the consumers of a queue that is used for the first time, and reading
// what they count.
func (g *grants) lanes() {
	for shard, stream := range g.tasksIn() {
		for _, filter := range []string{g.readyPrefix(uint8(shard)) + "*.*", g.scheduledIn(uint8(shard), "*")} {
			g.publish("$JS.API.CONSUMER.CREATE." + stream + ".*." + filter)
		}
	}
	for _, filter := range []string{g.placesOf(0, "*"), g.laterPlacesIn(0, "*")} {
		g.publish("$JS.API.CONSUMER.CREATE." + g.keyed(0) + ".*." + filter)
	}
	g.publish("$JS.API.CONSUMER.CREATE." + g.keyed(0) + "." + arrivalsConsumer)
	streams := append(g.tasksIn(), g.keyed(0))
	g.api("CONSUMER.INFO.%s.*", streams...)
	g.api("CONSUMER.LIST.%s", streams...)
}

// tasksOf is writing tasks and their records, and taking them back.
func (g *grants) tasksOf() {
	g.publish(g.ns+".k.0.>", g.dueIn(0, "*", "*"))
	for shard := range g.shards {
		g.publish(g.taskSubjects(uint8(shard)))
		g.write(g.state(uint8(shard)), "*", "seal.*")
	}
	g.write(g.keys(), "*")
	g.write(g.locks(), "unique.*", "idem.*")
	g.api("STREAM.MSG.DELETE.%s", append(g.tasksIn(), g.keyed(0), g.dueIndex(), g.dead())...)
	g.api("STREAM.PURGE.%s", append(g.tasksIn(), g.keyed(0), g.dueIndex())...)
	g.publish(g.ns+".e.*", g.cancelSignals())
	g.subscribe(g.ns + ".e.*")
}

func (g *grants) producer() {
	g.lanes()
	g.tasksOf()
	g.read(g.dead())
	g.write(g.config(), queueKeyPrefix+"*")
}

func (g *grants) worker() {
	g.lanes()
	g.tasksOf()
	g.read(g.dead(), bucketStream(g.workers()))
	g.publish(g.deadIn("*"), "$JS.API.CONSUMER.CREATE."+g.dead()+".*."+g.deadIn("*"))
	pulled := append(g.tasksIn(), g.keyed(0))
	g.api("CONSUMER.MSG.NEXT.%s.*", pulled...)
	g.api("CONSUMER.PAUSE.%s.*", g.tasksIn()...)
	for _, stream := range pulled {
		g.publish("$JS.ACK." + stream + ".>")
	}
	for shard := range g.shards {
		g.write(g.state(uint8(shard)), "page.*.*")
	}
	g.write(g.config(), pauseKeyPrefix+"*")
	g.write(g.locks(), "lock.>")
	g.write(g.workers(), "*")
	g.publish(g.workerSignal("*"), g.ns+".l.>", "_INBOX."+g.ns+".>") // answers to signals
	g.subscribe(g.cancelSignals(), g.workerSignal("*"), g.ns+".l.>")
	g.elections()
}

// elections is hearing of those of what is pulled.
func (g *grants) elections() {
	for _, stream := range g.tasksIn() {
		g.subscribe(elections + stream + ".*")
	}
	g.subscribe(elections + g.keyed(0) + "." + arrivalsConsumer)
}

// admin is all of the installation, and none of its streams' ends.
func (g *grants) admin() {
	for _, s := range g.whole(g.shards) {
		g.read(s.Name)
		g.publish(s.Subjects...)
		for _, call := range []string{
			"STREAM.INFO.%s", "STREAM.CREATE.%s", "STREAM.UPDATE.%s", "STREAM.MSG.DELETE.%s", "STREAM.PURGE.%s", "CONSUMER.CREATE.%s.>", "CONSUMER.INFO.%s.*",
			"CONSUMER.LIST.%s", "CONSUMER.NAMES.%s", "CONSUMER.DELETE.%s.*", "CONSUMER.PAUSE.%s.*", "CONSUMER.MSG.NEXT.%s.*",
		} {
			g.api(call, s.Name)
		}
		g.publish("$JS.ACK."+s.Name+".>", "$JS.FC."+s.Name+".>")
	}
	g.publish(g.ns+".>", "_INBOX."+g.ns+".>")
	g.subscribe(g.ns+".>", elections+g.ticks()+"."+ticksConsumer)
	g.elections()
}
