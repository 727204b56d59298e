package broker

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/peltonq/pelton"
)

// DefaultNamespace prefixes every subject, stream and bucket, so that several
// installations can share one NATS.
const DefaultNamespace = "pelton"

var namespaceName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_-]{0,31}$`)

// names derives every name that lives in the broker from a namespace. What is there once
// has shard 0 in its name: see shards.go.
type names struct{ ns string }

func (n names) tasks(shard uint8) string { return fmt.Sprintf("%s_TASKS_%d", n.ns, shard) }
func (n names) state(shard uint8) string { return n.ns + "_STATE_" + strconv.Itoa(int(shard)) }
func (n names) dead() string             { return n.ns + "_DEAD" }
func (n names) config() string           { return n.ns + "_CONFIG" }
func (n names) locks() string            { return n.ns + "_LOCKS" }
func (n names) workers() string          { return n.ns + "_WORKERS" }

func (n names) ticks() string { return n.ns + "_TICKS" }

func (n names) keyed(shard uint8) string { return fmt.Sprintf("%s_KEYED_%d", n.ns, shard) } //nolint:unparam // see commonShard
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

func (n names) placesIn(shard uint8, l Line) string { //nolint:unparam // see commonShard
	return fmt.Sprintf("%s.k.%d.l.%s.*", n.ns, shard, l.token())
}

func (n names) place(shard uint8, l Line, queue string) string { //nolint:unparam // see commonShard
	return fmt.Sprintf("%s.k.%d.l.%s.%s", n.ns, shard, l.token(), queue)
}

func (n names) places() string { return n.ns + ".k.0.l.>" }

func (n names) placesOf(shard uint8, queue string) string { //nolint:unparam // see commonShard
	return fmt.Sprintf("%s.k.%d.l.*.%s", n.ns, shard, queue)
}

// laterPlace is the schedule of a delayed task that will take a place in a line.
func (n names) laterPlace(shard uint8, queue string, id pelton.ID, epoch uint32) string { //nolint:unparam // see commonShard
	return fmt.Sprintf("%s.k.%d.s.%s.%s.%d", n.ns, shard, queue, id, epoch)
}

func (n names) laterPlacesOf(shard uint8, queue string, id pelton.ID) string {
	return fmt.Sprintf("%s.k.%d.s.%s.%s.*", n.ns, shard, queue, id)
}

func (n names) laterPlacesIn(shard uint8, queue string) string { //nolint:unparam // see commonShard
	return fmt.Sprintf("%s.k.%d.s.%s.>", n.ns, shard, queue)
}

func (n names) laterPlaces(shard uint8) string { return n.laterPlacePrefix(shard) + ">" }

// laterPlacePrefix begins the subjects of all delayed tasks that will take a place.
func (n names) laterPlacePrefix(shard uint8) string { return fmt.Sprintf("%s.k.%d.s.", n.ns, shard) }

// dueIn is where the entries of a queue's tasks are that are due in a span of time: see
// due.go. A queue named "*" stands for all of them.
func (n names) dueIn(shard uint8, queue, bucket string) string { //nolint:unparam // see commonShard
	return fmt.Sprintf("%s.due.%d.%s.%s", n.ns, shard, queue, bucket)
}

// dueProbe cannot meet a queue: it has one token less.
func (n names) dueProbe(shard uint8) string { return fmt.Sprintf("%s.due.%d.probe", n.ns, shard) }

func (n names) keyedProbe(shard uint8) string { return fmt.Sprintf("%s.k.%d.probe", n.ns, shard) } //nolint:unparam // see commonShard

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

func formatSeq(seq uint64) string { return strconv.FormatUint(seq, 10) }
