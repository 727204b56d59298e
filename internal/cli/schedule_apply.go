package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/spf13/cobra"

	"github.com/peltonq/pelton"
)

// mostApplied bounds a file of schedules, as the server bounds the request.
const mostApplied = 16 << 20

// apply is one run of "schedule apply".
type apply struct {
	file   string
	owner  string
	prune  bool
	dryRun bool
	asks   *confirmation

	schedules []json.RawMessage
}

func (a *app) scheduleApplyCmd() *cobra.Command {
	var (
		where clientFlags
		out   outputFlag
		ask   = apply{asks: &confirmation{app: a}}
	)
	cmd := &cobra.Command{
		Use:   "apply -f FILE",
		Short: "Make the schedules of an owner those of a file",
		Long: `Make the schedules of an owner those of a file, in JSON or YAML:

  owner: billing
  schedules:
    - name: nightly
      cron: "0 8 * * *"
      zone: Europe/Berlin
      overlap: skip
      task: {kind: report.build, queue: reports, payload: {format: pdf}}

It adds and changes what differs, and deletes what the owner applied before and the
file has not any more; --prune=false leaves that. Schedules that were set by hand or
belong to another owner are never touched: exit code 5. A pause made by "schedule
pause" stays. The file may also be a list alone, with --owner.

All are checked before the first is written. With --dry-run it only shows what it
would do. Before it deletes schedules it asks; --yes answers.

Exit codes: 0 done, 1 not confirmed, 2 refused, or it would delete and there is no
terminal to ask and no --yes, 5 one belongs to somebody else.`,
		Example: `  pelton schedule apply -f schedules.yaml --dry-run
  pelton schedule apply -f schedules.yaml --yes
  render schedules | pelton schedule apply -f - --owner billing --prune=false`,
		Args:                  needArgs(0, 0, ""),
		DisableFlagsInUseLine: true,
		RunE: a.withClient(&where, func(cmd *cobra.Command, c *client, _ []string) error {
			if ask.file == "" {
				return usagef("-f is missing: a file, or - for stdin")
			}
			if cmd.Flags().Changed("owner") && ask.owner == "" {
				return usagef("--owner is empty")
			}
			if err := a.readSchedules(&ask); err != nil {
				return err
			}
			return a.applySchedules(cmd.Context(), c, &out, &ask)
		}),
	}
	flags := cmd.Flags()
	flags.StringVarP(&ask.file, "file", "f", "", "the `FILE`, or - for stdin")
	flags.StringVar(&ask.owner, "owner", "", "in whose name; the file may say it")
	flags.BoolVar(&ask.prune, "prune", true, "delete what the owner applied before and the file has not any more")
	flags.BoolVar(&ask.dryRun, "dry-run", false, "only show what it would do")
	ask.asks.register(cmd)
	where.register(flags)
	out.register(cmd)
	return cmd
}

// applySchedules asks the server first what would go, unless that is answered. What
// it has not asked about it does not delete: when nothing would go, it does not prune.
func (a *app) applySchedules(ctx context.Context, c *client, out *outputFlag, ask *apply) error {
	prune := ask.prune
	if prune && !ask.asks.yes && !ask.dryRun {
		plan, _, err := c.apply(ctx, ask, true, true)
		if err != nil {
			return err
		}
		if prune = len(plan.Deleted) > 0; prune {
			if err := ask.asks.possible(); err != nil {
				return fmt.Errorf("%w, or --prune=false; it would delete %s", err, strings.Join(plan.Deleted, ", "))
			}
			if err := ask.asks.ask(ctx, fmt.Sprintf("Delete %d schedules of %s: %s?", len(plan.Deleted), printable(ask.owner, oneLine), strings.Join(plan.Deleted, ", "))); err != nil {
				return err
			}
		}
	}
	done, raw, err := c.apply(ctx, ask, prune, ask.dryRun)
	if err != nil {
		return err
	}
	if out.value != formatTable {
		return printJSON(a.stdout, out.value, raw)
	}
	rows := newTable(a.stdout, []string{"SCHEDULE", "CHANGE"})
	for _, of := range []struct {
		change string
		names  []string
	}{{"created", done.Created}, {"changed", done.Changed}, {"deleted", done.Deleted}, {"unchanged", done.Unchanged}} {
		for _, name := range of.names {
			rows.add([]string{name, of.change})
		}
	}
	if err := rows.flush(); err != nil {
		return fmt.Errorf("write output: %w", err)
	}
	if ask.dryRun {
		a.warnf("nothing was changed: this is what would be")
	}
	return nil
}

func (c *client) apply(ctx context.Context, ask *apply, prune, dryRun bool) (*pelton.Applied, []byte, error) {
	body, err := appendFields([]byte{'{'}, []field{{"owner", ask.owner}, {"prune", prune}, {"dry_run", dryRun}})
	if err != nil {
		return nil, nil, err
	}
	body = append(body, `,"schedules":[`...)
	for i, s := range ask.schedules { // spliced: payloads stay as they are
		if i > 0 {
			body = append(body, ',')
		}
		body = append(body, s...)
	}
	raw, err := c.do(ctx, request{method: http.MethodPost, path: []string{"schedules", "apply"}, body: append(body, "]}"...), timeout: batchTimeout})
	if err != nil {
		return nil, nil, err
	}
	done := new(pelton.Applied)
	if err := json.Unmarshal(raw, done); err != nil {
		return nil, nil, fmt.Errorf("the server's answer does not say what was applied: %w", err)
	}
	return done, raw, nil
}

// readSchedules reads the file, JSON or YAML.
func (a *app) readSchedules(ask *apply) error {
	in, name, err := a.open(ask.file, ask.file == "-")
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }() // only read
	text, err := io.ReadAll(io.LimitReader(in, mostApplied+1))
	switch {
	case err != nil:
		return fmt.Errorf("read %s: %w", name, err)
	case len(text) > mostApplied:
		return usagef("%s is more than %d bytes", name, mostApplied)
	}
	if !json.Valid(text) {
		if text, err = yamlToJSON(text, mostApplied); err != nil {
			return usagef("%s is neither JSON nor YAML: %w", name, err)
		}
	}
	if err := ask.parse(text); err != nil {
		return usagef("%s: %w", name, err)
	}
	if ask.owner == "" {
		return usagef("%s names no owner, and neither does --owner", name)
	}
	return nil
}

// parse reads {"owner","schedules":[…]}, or a list. It goes by tokens, because a field
// that is there twice must not stand for all: what the other one lists would be pruned.
func (ask *apply) parse(text []byte) error {
	if text = bytes.TrimSpace(text); bytes.HasPrefix(text, []byte{'['}) {
		return json.Unmarshal(text, &ask.schedules)
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	if start, err := dec.Token(); err != nil || start != json.Delim('{') {
		return errors.New("want a list of schedules, or an object with owner and schedules")
	}
	seen := make(map[string]bool)
	for dec.More() {
		token, err := dec.Token()
		if err != nil {
			return err
		}
		name, _ := token.(string) // of a member, always
		if seen[name] {
			return fmt.Errorf("%s is there twice", name)
		}
		seen[name] = true
		var owner string
		switch name {
		case "owner":
			err = dec.Decode(&owner)
			if err == nil && ask.owner != "" && owner != ask.owner {
				err = fmt.Errorf("its owner is %q, and --owner is %q", clip(owner, 100), clip(ask.owner, 100))
			}
			ask.owner = owner
		case "schedules":
			err = dec.Decode(&ask.schedules)
		default:
			err = fmt.Errorf("%q is not a known field", clip(name, 100))
		}
		if err != nil {
			return err
		}
	}
	if ask.schedules == nil {
		return errors.New("there is no list of schedules; [] is an empty one")
	}
	return nil
}
