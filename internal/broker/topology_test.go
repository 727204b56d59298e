package broker

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/jetstream"
	"pgregory.net/rapid"

	"github.com/peltonq/pelton"
)

// The names are a promise to installations that exist: a change here loses
// their tasks.
func TestNames(t *testing.T) {
	t.Parallel()
	id, err := pelton.ParseID(goodID)
	must(t, err)
	line := Line{Key: "acme"}
	const acme = "0eb5e8a6dfea52c06963410dbb8cdd09" // of the line's name, which may be anything
	all := func(n names) []string {
		list := []string{
			n.ready(0, "emails", pelton.High),
			n.scheduled(0, "emails", pelton.High, id, 7),
			n.scheduledOf(0, "emails", pelton.High, id),
			n.scheduledIn(0, "emails"),
			n.taskProbe(0),
			n.record(id),
			n.deadLetter("emails", id),
			n.deadIn("emails"),
			n.deadProbe(),
			n.place(0, line, "emails"),
			n.placesIn(0, line),
			n.placesOf(0, "emails"),
			n.places(),
			n.laterPlace(0, "emails", id, 7),
			n.laterPlacesOf(0, "emails", id),
			n.laterPlacesIn(0, "emails"),
			n.laterPlaces(0),
			n.keyedProbe(0),
			n.tick("nightly", time.UnixMilli(1_800_000_000_123)),
			n.ticksOf("nightly"),
			n.dueTicks(),
			n.tickProbe(),
			n.line(line),
			n.dueIn(0, "emails", "b7"),
			n.dueProbe(0),
			n.cancelSignal(id),
			n.cancelSignals(),
			n.event(id),
			laneConsumer("emails", pelton.High),
			scheduledConsumer("emails"),
			deadConsumer("emails"),
			waitingConsumer("emails"),
			laterConsumer("emails"),
		}
		for _, s := range n.streams(1) {
			list = append(list, s.Name+" "+strings.Join(s.Subjects, ","))
		}
		return list
	}
	if diff := cmp.Diff([]string{
		"pelton.t.0.r.emails.high",
		"pelton.t.0.s.emails.high." + goodID + ".7",
		"pelton.t.0.s.emails.high." + goodID + ".*",
		"pelton.t.0.s.emails.>",
		"pelton.t.0.probe",
		"$KV.pelton_STATE_0." + goodID,
		"pelton.d.emails." + goodID,
		"pelton.d.emails.*",
		"pelton.d._.probe",
		"pelton.k.0.l." + acme + ".emails",
		"pelton.k.0.l." + acme + ".*",
		"pelton.k.0.l.*.emails",
		"pelton.k.0.l.>",
		"pelton.k.0.s.emails." + goodID + ".7",
		"pelton.k.0.s.emails." + goodID + ".*",
		"pelton.k.0.s.emails.>",
		"pelton.k.0.s.>",
		"pelton.k.0.probe",
		"pelton.y.s.nightly.1800000000123",
		"pelton.y.s.nightly.*",
		"pelton.y.r",
		"pelton.y.probe",
		"$KV.pelton_KEYS_0." + acme,
		"pelton.due.0.emails.b7",
		"pelton.due.0.probe",
		"pelton.c." + goodID,
		"pelton.c.*",
		"pelton.e." + goodID,
		"r_emails_high",
		"s_emails",
		"d_emails",
		"k_emails",
		"ks_emails",
		"pelton_TASKS_0 pelton.t.0.>",
		"pelton_DEAD pelton.d.>",
		"KV_pelton_STATE_0 $KV.pelton_STATE_0.>",
		"KV_pelton_CONFIG $KV.pelton_CONFIG.>",
		"KV_pelton_LOCKS $KV.pelton_LOCKS.>",
		"KV_pelton_WORKERS $KV.pelton_WORKERS.>",
		"pelton_KEYED_0 pelton.k.0.>",
		"KV_pelton_KEYS_0 $KV.pelton_KEYS_0.>",
		"pelton_TICKS pelton.y.>",
		"pelton_DUE_0 pelton.due.0.>",
	}, all(names{DefaultNamespace})); diff != "" {
		t.Errorf("names in %s (-want +got):\n%s", DefaultNamespace, diff)
	}
	if diff := cmp.Diff([]string{
		"blue-2.t.0.r.emails.high",
		"blue-2.t.0.s.emails.high." + goodID + ".7",
		"blue-2.t.0.s.emails.high." + goodID + ".*",
		"blue-2.t.0.s.emails.>",
		"blue-2.t.0.probe",
		"$KV.blue-2_STATE_0." + goodID,
		"blue-2.d.emails." + goodID,
		"blue-2.d.emails.*",
		"blue-2.d._.probe",
		"blue-2.k.0.l." + acme + ".emails",
		"blue-2.k.0.l." + acme + ".*",
		"blue-2.k.0.l.*.emails",
		"blue-2.k.0.l.>",
		"blue-2.k.0.s.emails." + goodID + ".7",
		"blue-2.k.0.s.emails." + goodID + ".*",
		"blue-2.k.0.s.emails.>",
		"blue-2.k.0.s.>",
		"blue-2.k.0.probe",
		"blue-2.y.s.nightly.1800000000123",
		"blue-2.y.s.nightly.*",
		"blue-2.y.r",
		"blue-2.y.probe",
		"$KV.blue-2_KEYS_0." + acme,
		"blue-2.due.0.emails.b7",
		"blue-2.due.0.probe",
		"blue-2.c." + goodID,
		"blue-2.c.*",
		"blue-2.e." + goodID,
		"r_emails_high",
		"s_emails",
		"d_emails",
		"k_emails",
		"ks_emails",
		"blue-2_TASKS_0 blue-2.t.0.>",
		"blue-2_DEAD blue-2.d.>",
		"KV_blue-2_STATE_0 $KV.blue-2_STATE_0.>",
		"KV_blue-2_CONFIG $KV.blue-2_CONFIG.>",
		"KV_blue-2_LOCKS $KV.blue-2_LOCKS.>",
		"KV_blue-2_WORKERS $KV.blue-2_WORKERS.>",
		"blue-2_KEYED_0 blue-2.k.0.>",
		"KV_blue-2_KEYS_0 $KV.blue-2_KEYS_0.>",
		"blue-2_TICKS blue-2.y.>",
		"blue-2_DUE_0 blue-2.due.0.>",
	}, all(names{"blue-2"})); diff != "" {
		t.Errorf("names in blue-2 (-want +got):\n%s", diff)
	}
}

func TestParseLaneConsumer(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		want := Lane{Queue: rapid.OneOf(queueGen, rapid.StringMatching(`[a-z0-9]([_-]|high|low|r_|s_){1,9}`)).Draw(t, "queue"), Priority: priorityGen.Draw(t, "priority")}
		queue, p, ok := parseLaneConsumer(laneConsumer(want.Queue, want.Priority))
		if got := (Lane{Queue: queue, Priority: p}); !ok || got != want {
			t.Fatalf("%v, %t; want %v", got, ok, want)
		}
	})
	for _, name := range []string{"", "r_", "r__low", "s_emails", "d_emails", "r_emails", "r_emails_", "r_emails_urgent", "emails_high", "R_emails_high"} {
		if queue, p, ok := parseLaneConsumer(name); ok {
			t.Errorf("%q passes for lane %s/%s", name, queue, p)
		}
	}
}

// Each setting that Pelton cannot live with is refused alone, and named.
func TestMisfits(t *testing.T) {
	t.Parallel()
	streams := names{"pelton"}.streams(1)
	tasks, dead, state := streams[0], streams[1], streams[2]
	for name, test := range map[string]struct {
		of     jetstream.StreamConfig
		change func(*jetstream.StreamConfig)
		want   string // setting; empty: an operator may
	}{
		"none of tasks": {tasks, func(*jetstream.StreamConfig) {}, ""},
		"none of dead":  {dead, func(*jetstream.StreamConfig) {}, ""},
		"none of state": {state, func(*jetstream.StreamConfig) {}, ""},

		"subjects":             {tasks, func(c *jetstream.StreamConfig) { c.Subjects = []string{"pelton.t.0.r.>"} }, "subjects"},
		"retention":            {tasks, func(c *jetstream.StreamConfig) { c.Retention = jetstream.LimitsPolicy }, "retention"},
		"storage":              {state, func(c *jetstream.StreamConfig) { c.Storage = jetstream.MemoryStorage }, "storage"},
		"messages per subject": {state, func(c *jetstream.StreamConfig) { c.MaxMsgsPerSubject = 5 }, "max_msgs_per_subject"},
		"per subject of tasks": {tasks, func(c *jetstream.StreamConfig) { c.MaxMsgsPerSubject = 1 }, "max_msgs_per_subject"},
		"messages":             {tasks, func(c *jetstream.StreamConfig) { c.MaxMsgs = 10 }, "max_msgs"},
		"bytes":                {tasks, func(c *jetstream.StreamConfig) { c.MaxBytes = 10 }, "max_bytes"},
		"age of tasks":         {tasks, func(c *jetstream.StreamConfig) { c.MaxAge = time.Hour }, "max_age"},
		"age of records":       {state, func(c *jetstream.StreamConfig) { c.MaxAge = time.Hour }, "max_age"},
		"message size":         {tasks, func(c *jetstream.StreamConfig) { c.MaxMsgSize = minMessageSize - 1 }, "max_msg_size"},
		"sealed":               {dead, func(c *jetstream.StreamConfig) { c.Sealed = true }, "sealed"},
		"no ack":               {tasks, func(c *jetstream.StreamConfig) { c.NoAck = true }, "no_ack"},
		"mirror":               {dead, func(c *jetstream.StreamConfig) { c.Mirror = &jetstream.StreamSource{} }, "mirror"},
		"sources":              {dead, func(c *jetstream.StreamConfig) { c.Sources = []*jetstream.StreamSource{{}} }, "sources"},
		"republish":            {state, func(c *jetstream.StreamConfig) { c.RePublish = &jetstream.RePublish{} }, "republish"},
		"transform":            {tasks, func(c *jetstream.StreamConfig) { c.SubjectTransform = &jetstream.SubjectTransformConfig{} }, "subject_transform"},
		"direct":               {tasks, func(c *jetstream.StreamConfig) { c.AllowDirect = false }, "allow_direct"},
		"schedules":            {tasks, func(c *jetstream.StreamConfig) { c.AllowMsgSchedules = false }, "allow_msg_schedules"},
		"TTL":                  {state, func(c *jetstream.StreamConfig) { c.AllowMsgTTL = false }, "allow_msg_ttl"},
		"markers":              {state, func(c *jetstream.StreamConfig) { c.SubjectDeleteMarkerTTL = 0 }, "subject_delete_marker_ttl"},
		"atomic":               {state, func(c *jetstream.StreamConfig) { c.AllowAtomicPublish = false }, "allow_atomic"},
		"rollup":               {state, func(c *jetstream.StreamConfig) { c.AllowRollup = false }, "allow_rollup_hdrs"},
		"async persistence":    {tasks, func(c *jetstream.StreamConfig) { c.PersistMode = jetstream.AsyncPersistMode }, "persist_mode"},
		"counter":              {dead, func(c *jetstream.StreamConfig) { c.AllowMsgCounter = true }, "allow_msg_counter"},
		"discard per subject":  {state, func(c *jetstream.StreamConfig) { c.DiscardNewPerSubject = true }, "discard_new_per_subject"},
		"purge denied":         {tasks, func(c *jetstream.StreamConfig) { c.DenyPurge = true }, "deny_purge"},
		"delete denied":        {tasks, func(c *jetstream.StreamConfig) { c.DenyDelete = true }, "deny_delete"},
		"consumers":            {tasks, func(c *jetstream.StreamConfig) { c.MaxConsumers = 4 }, "max_consumers"},
		"inactive consumers":   {tasks, func(c *jetstream.StreamConfig) { c.ConsumerLimits.InactiveThreshold = time.Minute }, "consumer_limits"},

		"replicas":                   {tasks, func(c *jetstream.StreamConfig) { c.Replicas = 3 }, ""},
		"placement":                  {tasks, func(c *jetstream.StreamConfig) { c.Placement = &jetstream.Placement{Cluster: "c"} }, ""},
		"description":                {tasks, func(c *jetstream.StreamConfig) { c.Description = "ours" }, ""},
		"metadata":                   {state, func(c *jetstream.StreamConfig) { c.Metadata = map[string]string{"owner": "us"} }, ""},
		"compression":                {state, func(c *jetstream.StreamConfig) { c.Compression = jetstream.S2Compression }, ""},
		"duplicate window":           {tasks, func(c *jetstream.StreamConfig) { c.Duplicates = time.Hour }, ""},
		"age of dead letters":        {dead, func(c *jetstream.StreamConfig) { c.MaxAge = 90 * 24 * time.Hour }, ""},
		"a message size that is big": {tasks, func(c *jetstream.StreamConfig) { c.MaxMsgSize = minMessageSize }, ""},
		"marker TTL":                 {state, func(c *jetstream.StreamConfig) { c.SubjectDeleteMarkerTTL = time.Hour }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := test.of
			test.change(&got)
			bad := misfits(test.of, got)
			switch {
			case test.want == "" && len(bad) > 0:
				t.Errorf("misfits = %q, want none", bad)
			case test.want != "" && (len(bad) != 1 || !strings.HasPrefix(bad[0], test.want+" is ")):
				t.Errorf("misfits = %q, want %s alone", bad, test.want)
			}
		})
	}
}

// What the server makes of the configurations must pass when they are opened
// again: it fills in defaults of its own.
func TestStreamsFitThemselves(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	for _, want := range b.streams(1) {
		if bad := misfits(want, streamState(t, b, want.Name).Config); len(bad) > 0 {
			t.Errorf("stream %s does not fit itself: %q", want.Name, bad)
		}
	}
}

func TestConfigIsChecked(t *testing.T) {
	t.Parallel()
	for name, cfg := range map[string]Config{
		"namespace with a dot":   {Namespace: "a.b"},
		"namespace with a star":  {Namespace: "a*"},
		"namespace with a break": {Namespace: "a\n"},
		"long namespace":         {Namespace: strings.Repeat("a", 33)},
		"short lease":            {Lease: time.Millisecond},
		"negative lease":         {Lease: -time.Second},
		"long lease":             {Lease: 2 * time.Hour},
		"negative replicas":      {Replicas: -1},
		"many replicas":          {Replicas: 6},
	} {
		if _, err := cfg.withDefaults(); err == nil || !strings.HasPrefix(err.Error(), "invalid: ") {
			t.Errorf("%s: %v, want ErrInvalid", name, err)
		}
	}
	got, err := Config{}.withDefaults()
	must(t, err)
	if got.Namespace != "pelton" || got.Lease != 30*time.Second || got.Replicas != 1 || got.Logger == nil {
		t.Errorf("defaults are %+v", got)
	}
}
