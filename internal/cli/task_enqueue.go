package cli

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/peltonq/pelton"
)

// enqueueFlags are the flags of "task enqueue".
type enqueueFlags struct {
	where clientFlags
	out   outputFlag

	queue       string
	priority    enumValue
	delay       durationValue
	at          timeValue
	expiresAt   timeValue
	maxAttempts int
	timeout     durationValue
	retention   durationValue
	backoff     string
	rateKey     string
	labels      []string
	key         string
	jsonl       bool

	uniqueKey      string
	uniqueUntil    enumValue
	uniqueWindow   durationValue
	onConflict     enumValue
	idempotencyKey string

	wait    durationValue
	waitSet bool
}

func (a *app) taskEnqueueCmd() *cobra.Command {
	f := &enqueueFlags{
		timeout:   durationValue(pelton.DefaultTimeout),
		retention: durationValue(pelton.DefaultRetention),
	}
	for _, p := range pelton.Priorities() {
		f.priority.allowed = append(f.priority.allowed, string(p))
	}
	f.priority.value = string(pelton.Normal)
	for _, u := range pelton.UniqueUntils() {
		f.uniqueUntil.allowed = append(f.uniqueUntil.allowed, string(u))
	}
	f.uniqueUntil.value = string(pelton.UntilFinished)
	for _, c := range pelton.OnConflicts() {
		f.onConflict.allowed = append(f.onConflict.allowed, string(c))
	}
	f.onConflict.value = string(pelton.ConflictReject)
	cmd := &cobra.Command{
		Use:   "enqueue KIND [PAYLOAD|@FILE|-]",
		Short: "Enqueue a task, or many",
		Long: `Enqueue a task. The payload is JSON: as an argument, from a file (@FILE) or from
stdin (-). Without one the task has none.

With --jsonl every line of the input is one task, an object as in POST /tasks:
{"kind":"email.send","payload":{…},"queue":"emails"}. KIND may then be left out;
it and the flags are what a line without these fields gets. A bad line is
reported by its number and the others are enqueued.

With --unique at most one task of the kind with that key is unfinished; a second
one is refused, or what --on-conflict says. With --idempotency-key the same
command can be repeated safely for 24 hours: it answers with the same task. With
--jsonl each line gets the key KEY:LINE, so the same file can be sent again.

With --wait the command waits until the task has ended.

Exit codes: 0 accepted, 2 refused, 5 another task holds the unique key, 9 only
some of several; with --wait also 10 failed, 11 cancelled or expired, 6 not ended
in time.`,
		Example: `  pelton task enqueue demo.echo '{"hello":"world"}' --wait
  pelton task enqueue report.build @report.json --priority high --delay 10m
  pelton task enqueue - --jsonl < tasks.jsonl`,
		Args: needArgs(1, 2, "the kind of the task"),
		RunE: a.withClient(&f.where, func(cmd *cobra.Command, c *client, args []string) error {
			f.waitSet = cmd.Flags().Changed("wait")
			fields, err := f.fields(cmd.Flags().Changed)
			if err != nil {
				return err
			}
			if f.jsonl {
				return a.enqueueLines(cmd.Context(), c, f, fields, args)
			}
			return a.enqueueOne(cmd.Context(), c, f, fields, args)
		}),
	}
	flags := cmd.Flags()
	flags.StringVar(&f.queue, "queue", pelton.DefaultQueue, "the queue")
	flags.Var(&f.priority, "priority", "the priority: "+f.priority.choices())
	flags.Var(&f.delay, "delay", "make it ready that much later, such as 90s or 7d")
	flags.Var(&f.at, "at", "make it ready at that time (RFC 3339)")
	flags.Var(&f.expiresAt, "expires-at", "let it end as expired if it has not started by then (RFC 3339)")
	flags.IntVar(&f.maxAttempts, "max-attempts", pelton.DefaultMaxAttempts, "how often to try")
	flags.Var(&f.timeout, "timeout", "how long one run may take")
	flags.Var(&f.retention, "retention", "how long the finished task stays readable")
	flags.StringVar(&f.backoff, "backoff", "", "delays between attempts: `initial=1s,max=1h,factor=2`, each may be left out")
	flags.StringVar(&f.rateKey, "rate-key", "", "what limits per rate key count it under, such as a tenant")
	flags.StringArrayVar(&f.labels, "label", nil, "`name=value`; may be repeated")
	flags.StringVar(&f.key, "concurrency-key", "", "run it when it is its turn among the tasks with this `key`: one at a time, in order")
	flags.BoolVar(&f.jsonl, "jsonl", false, "one task per line of the input")
	flags.Var(&f.wait, "wait", "wait until it has ended; --wait=`DURATION` says how long at most (without: 1m)")
	flags.Lookup("wait").NoOptDefVal = "1m"
	flags.StringVar(&f.idempotencyKey, "idempotency-key", "", "enqueue once for this `key`, however often it is repeated within 24 hours")
	flags.StringVar(&f.uniqueKey, "unique", "", "refuse a second unfinished task of the kind with this `key`")
	flags.Var(&f.uniqueUntil, "unique-until", "when the task gives its unique key back: "+f.uniqueUntil.choices())
	flags.Var(&f.uniqueWindow, "unique-window", "hold the unique key for at least that long, such as 10m")
	flags.Var(&f.onConflict, "on-conflict", "what to do if another task holds the unique key: "+f.onConflict.choices())
	completeEnum(cmd, "priority", &f.priority)
	completeEnum(cmd, "unique-until", &f.uniqueUntil)
	completeEnum(cmd, "on-conflict", &f.onConflict)
	f.where.register(flags)
	f.out.register(cmd)
	return cmd
}

// fields are the task's fields that flags were given for, checked as far as that
// needs no server.
func (f *enqueueFlags) fields(given func(flag string) bool) ([]field, error) {
	var list []field
	add := func(flag, name string, value any) {
		if given(flag) {
			list = append(list, field{name, value})
		}
	}
	if given("queue") {
		if err := pelton.ValidateQueue(f.queue); err != nil {
			return nil, usagef("--queue: %s", plain(err))
		}
	}
	if given("delay") && given("at") {
		return nil, usagef("--delay and --at exclude each other")
	}
	if f.maxAttempts < 1 {
		return nil, usagef("--max-attempts must be at least 1")
	}
	if f.waitSet && f.jsonl {
		return nil, usagef("--wait does not go with --jsonl; see 'pelton task wait'")
	}
	add("queue", "queue", f.queue)
	add("priority", "priority", f.priority.value)
	add("delay", "delay", f.delay.String())
	add("at", "run_at", f.at.String())
	add("expires-at", "expires_at", f.expiresAt.String())
	add("max-attempts", "max_attempts", f.maxAttempts)
	add("timeout", "timeout", f.timeout.String())
	add("retention", "retention", f.retention.String())

	backoff, err := parseBackoff(f.backoff)
	if err != nil {
		return nil, err
	}
	add("backoff", "backoff", backoff)

	if given("concurrency-key") {
		if err := pelton.ValidateKey(f.key); err != nil || f.key == "" {
			return nil, usagef("--concurrency-key: want 1 to 256 bytes without control characters")
		}
	}
	add("concurrency-key", "concurrency_key", f.key)

	if given("rate-key") {
		if err := pelton.ValidateKey(f.rateKey); err != nil {
			return nil, usagef("--rate-key: %s", plain(err))
		}
	}
	add("rate-key", "rate_key", f.rateKey)
	labels := make(map[string]string, len(f.labels))
	for _, label := range f.labels {
		name, value, found := strings.Cut(label, "=")
		if !found || name == "" {
			return nil, usagef("--label %q is not name=value", clip(label, 100))
		}
		if _, twice := labels[name]; twice {
			return nil, usagef("--label %s is given twice", clip(name, 100))
		}
		labels[name] = value
	}
	add("label", "labels", labels)
	unique, err := f.unique(given)
	if err != nil {
		return nil, err
	}
	add("unique", "unique", unique)
	return list, nil
}

// parseBackoff reads the parts of --backoff; their bounds are the server's to check.
func parseBackoff(text string) (map[string]any, error) {
	parts := make(map[string]any)
	for part := range strings.SplitSeq(text, ",") {
		if text == "" {
			break
		}
		name, value, found := strings.Cut(part, "=")
		var err error
		switch {
		case !found || parts[name] != nil:
			err = errors.New("want name=value, each name once")
		case name == "initial", name == "max":
			_, err = pelton.ParseDuration(value)
			parts[name] = value
		case name == "factor":
			parts[name], err = strconv.ParseFloat(value, 64)
		default:
			err = errors.New("want initial, max or factor")
		}
		if err != nil {
			return nil, usagef("--backoff %q: %s", clip(part, 100), plain(err))
		}
	}
	return parts, nil
}

// unique is what the flags of the unique key say; nothing without one.
func (f *enqueueFlags) unique(given func(flag string) bool) (*pelton.Unique, error) {
	if given("idempotency-key") && f.idempotencyKey == "" {
		return nil, usagef("--idempotency-key must not be empty")
	}
	if !given("unique") {
		for _, flag := range []string{"unique-until", "unique-window", "on-conflict"} {
			if given(flag) {
				return nil, usagef("--%s needs --unique", flag)
			}
		}
		return nil, nil //nolint:nilnil // documented
	}
	if f.uniqueKey == "" {
		return nil, usagef("--unique must not be empty")
	}
	u := &pelton.Unique{Key: f.uniqueKey, Window: f.uniqueWindow.duration()}
	if given("unique-until") {
		u.Until = pelton.UniqueUntil(f.uniqueUntil.value)
	}
	if given("on-conflict") {
		u.OnConflict = pelton.OnConflict(f.onConflict.value)
	}
	return u, nil
}

// enqueueOne enqueues one task, and waits for it when that is wanted.
func (a *app) enqueueOne(ctx context.Context, c *client, f *enqueueFlags, fields []field, args []string) error {
	kind := args[0]
	if err := pelton.ValidateKind(kind); err != nil {
		return usagef("%s", plain(err))
	}
	var payload []byte
	if len(args) == 2 {
		var err error
		if payload, err = a.readPayload(args[1]); err != nil {
			return err
		}
	}
	body, err := newTaskBody(slices.Insert(fields, 0, field{"kind", kind}), payload)
	if err != nil {
		return err
	}
	r := request{method: http.MethodPost, path: []string{"tasks"}, body: body, once: true}
	if f.idempotencyKey != "" {
		r.once, r.header = false, http.Header{"Idempotency-Key": {f.idempotencyKey}}
	}
	task, err := c.task(ctx, r)
	if err != nil {
		return err
	}
	if !f.waitSet {
		return a.printTask(&f.out, task)
	}

	a.logger().DebugContext(ctx, "enqueued, waiting", "task_id", task.ID.String())
	w := newWaiter(c, f.wait.duration())
	ended, err := w.follow(ctx, task.ID, task)
	if err != nil && ctx.Err() != nil {
		// The id must not be lost: the task goes on without us.
		err = fmt.Errorf("%w; the task goes on", err)
	}
	return errors.Join(a.printTask(&f.out, ended), err)
}
