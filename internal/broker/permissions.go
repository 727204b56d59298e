package broker

import (
	"fmt"
	"slices"
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

// PermissionsOf are those that a role needs in a namespace, and no others as far as
// subjects can tell. The error is a namespace that cannot be.
func PermissionsOf(namespace string, role Role) (Permissions, error) {
	cfg, err := Config{Namespace: namespace}.withDefaults()
	if err != nil {
		return Permissions{}, err
	}
	n := grants{names: names{cfg.Namespace}}
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

	shard uint8
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
	for _, s := range g.streams(1) {
		all = append(all, s.Name)
	}
	config := bucketStream(g.config())
	g.publish("$JS.API.INFO")
	g.api("STREAM.INFO.%s", all...)
	g.read(config, bucketStream(g.state(g.shard)), bucketStream(g.locks()), bucketStream(g.keys()), g.tasks(g.shard), g.keyed(g.shard), g.dueIndex())
	g.api("CONSUMER.CREATE.%s.>", config) // a watch
	g.api("CONSUMER.INFO.%s.*", config)
	g.api("CONSUMER.DELETE.%s.*", config)
	g.publish("$JS.FC." + config + ".>")
	g.subscribe(InboxPrefix(g.ns, role)+".>", g.diskSignal(), g.replicasSignal())
}

// lanes is making the consumers of a queue that is used for the first time, and reading
// what they count.
func (g *grants) lanes() {
	for _, filter := range []string{g.readyPrefix(g.shard) + "*.*", g.scheduledIn(g.shard, "*")} {
		g.publish("$JS.API.CONSUMER.CREATE." + g.tasks(g.shard) + ".*." + filter)
	}
	for _, filter := range []string{g.placesOf(g.shard, "*"), g.laterPlacesIn(g.shard, "*")} {
		g.publish("$JS.API.CONSUMER.CREATE." + g.keyed(g.shard) + ".*." + filter)
	}
	g.publish("$JS.API.CONSUMER.CREATE." + g.keyed(g.shard) + "." + arrivalsConsumer)
	g.api("CONSUMER.INFO.%s.*", g.tasks(g.shard), g.keyed(g.shard))
	g.api("CONSUMER.LIST.%s", g.tasks(g.shard), g.keyed(g.shard))
}

// tasksOf is writing tasks and their records, and taking them back.
func (g *grants) tasksOf() {
	g.publish(g.taskSubjects(g.shard), g.ns+".k.0.>", g.dueIn(g.shard, "*", "*"))
	g.write(g.state(g.shard), "*")
	g.write(g.keys(), "*")
	g.write(g.locks(), "unique.*", "idem.*")
	g.api("STREAM.MSG.DELETE.%s", g.tasks(g.shard), g.keyed(g.shard), g.dueIndex(), g.dead())
	g.api("STREAM.PURGE.%s", g.tasks(g.shard), g.keyed(g.shard), g.dueIndex())
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
	g.api("CONSUMER.MSG.NEXT.%s.*", g.tasks(g.shard), g.keyed(g.shard))
	g.api("CONSUMER.PAUSE.%s.*", g.tasks(g.shard))
	g.publish("$JS.ACK."+g.tasks(g.shard)+".>", "$JS.ACK."+g.keyed(g.shard)+".>")
	g.write(g.config(), pauseKeyPrefix+"*")
	g.write(g.locks(), "lock.>")
	g.write(g.workers(), "*")
	g.publish(g.workerSignal("*"), g.ns+".l.>", "_INBOX."+g.ns+".>") // answers to signals
	g.subscribe(g.cancelSignals(), g.workerSignal("*"), g.ns+".l.>")
	g.subscribe(elections+g.tasks(g.shard)+".*", elections+g.keyed(g.shard)+"."+arrivalsConsumer)
}

// admin is all of the installation, and none of its streams' ends.
func (g *grants) admin() {
	for _, s := range g.whole() {
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
	g.subscribe(g.ns+".>", elections+g.tasks(g.shard)+".*", elections+g.keyed(g.shard)+"."+arrivalsConsumer, elections+g.ticks()+"."+ticksConsumer)
}
