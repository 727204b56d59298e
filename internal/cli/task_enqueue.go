package cli

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/peltonq/pelton"
)

// enqueueFlags are the flags of "task enqueue".
type enqueueFlags struct {
	taskFlags

	where clientFlags
	out   outputFlag

	at             timeValue
	expiresAt      timeValue
	jsonl          bool
	idempotencyKey string
	lines          lineFlags

	wait    durationValue
	waitSet bool
}

func (a *app) taskEnqueueCmd() *cobra.Command {
	f := &enqueueFlags{}
	cmd := &cobra.Command{
		Use:   "enqueue KIND [PAYLOAD|@FILE|-]",
		Short: "Enqueue a task, or many",
		Long: `Enqueue a task. The payload is JSON: as an argument, from a file (@FILE) or from
stdin (-). Without one the task has none.

With --jsonl every line of the input is one task, an object as in POST /tasks:
{"kind":"email.send","payload":{…},"queue":"emails"}. KIND may then be left out;
it and the flags are what a line without these fields gets. A bad line is
reported by its number and the others are enqueued.

Lines are sent in batches, several at a time, so tasks may be accepted in another
order than they stand in; those with a concurrency key, and all with --window 1, keep
theirs. A server that is away or full is tried again for --retry-for.

With --resume FILE the command remembers in FILE how far it came. After a break, be it
a crash, the same command with the same input goes on from there, and no line is
enqueued twice. With --idempotency-key KEY alone each line gets the key KEY:LINE, so
that the same input can be sent again within 24 hours. A line that has an
"idempotency_key" keeps its own.

With --unique at most one task of the kind with that key is unfinished; a second
one is refused, or what --on-conflict says. With --idempotency-key the same
command can be repeated safely for 24 hours: it answers with the same task.

With --wait the command waits until the task has ended.

Exit codes: 0 accepted, 2 refused, 5 another task holds the unique key, 9 only
some of several; with --wait also 10 failed, 11 cancelled or expired, 6 not ended
in time.`,
		Example: `  pelton task enqueue demo.echo '{"hello":"world"}' --wait
  pelton task enqueue report.build @report.json --priority high --delay 10m
  pelton task enqueue - --jsonl < tasks.jsonl
  pelton task enqueue @tasks.jsonl --jsonl --resume tasks.state -o jsonl > accepted.jsonl`,
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
	f.register(cmd)
	flags := cmd.Flags()
	flags.Var(&f.at, "at", "make it ready at that time (RFC 3339)")
	flags.Var(&f.expiresAt, "expires-at", "let it end as expired if it has not started by then (RFC 3339)")
	flags.BoolVar(&f.jsonl, "jsonl", false, "one task per line of the input")
	waitFlag(cmd, &f.wait)
	flags.StringVar(&f.idempotencyKey, "idempotency-key", "", "enqueue once for this `key`, however often it is repeated within 24 hours")
	f.lines.register(flags)
	f.where.register(flags)
	f.out.register(cmd)
	return cmd
}

// fields are the task's fields that flags were given for, checked as far as that
// needs no server.
func (f *enqueueFlags) fields(given func(flag string) bool) ([]field, error) {
	switch {
	case given("delay") && given("at"):
		return nil, usagef("--delay and --at exclude each other")
	case f.waitSet && f.jsonl:
		return nil, usagef("--wait does not go with --jsonl; see 'pelton task wait'")
	case given("idempotency-key") && f.idempotencyKey == "":
		return nil, usagef("--idempotency-key must not be empty")
	}
	if err := f.lines.check(f.jsonl, given); err != nil {
		return nil, err
	}
	list, err := f.taskFlags.fields(given)
	if err != nil {
		return nil, err
	}
	if given("at") {
		list = append(list, field{"run_at", f.at.String()})
	}
	if given("expires-at") {
		list = append(list, field{"expires_at", f.expiresAt.String()})
	}
	return list, nil
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

	return a.waitFor(ctx, c, &f.out, task, f.wait.duration())
}

// waitFlag is --wait of what enqueues a task.
func waitFlag(cmd *cobra.Command, wait *durationValue) {
	cmd.Flags().Var(wait, "wait", "wait until it has ended; --wait=`DURATION` says how long at most (without: 1m)")
	cmd.Flags().Lookup("wait").NoOptDefVal = "1m"
}

// waitFor waits for a task that was enqueued, and shows it.
func (a *app) waitFor(ctx context.Context, c *client, out *outputFlag, task *taskAnswer, most time.Duration) error {
	a.logger().DebugContext(ctx, "enqueued, waiting", "task_id", task.ID.String())
	w := newWaiter(c, most)
	ended, err := w.follow(ctx, task.ID, task)
	if err != nil && ctx.Err() != nil {
		// The id must not be lost: the task goes on without us.
		err = fmt.Errorf("%w; the task goes on", err)
	}
	return errors.Join(a.printTask(out, ended), err)
}
