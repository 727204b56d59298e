package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/peltonq/pelton"
)

func (a *app) lockCmd() *cobra.Command {
	return group("lock", "Look at the locks that handlers hold, release them", a.lockListCmd(), a.lockGetCmd(), a.lockReleaseCmd())
}

// lockAnswer is a lock as the server sent it.
type lockAnswer struct {
	pelton.Lock
	raw []byte
}

func parseLock(body []byte) (*lockAnswer, error) {
	l := &lockAnswer{raw: body}
	if err := json.Unmarshal(body, &l.Lock); err != nil {
		return nil, fmt.Errorf("the server's answer is not a lock: %w", err)
	}
	return l, nil
}

func (a *app) lockListCmd() *cobra.Command {
	var (
		where clientFlags
		out   outputFlag
	)
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the locks that are held, and who holds them",
		Args:  needArgs(0, 0, ""),
		RunE: a.withClient(&where, func(cmd *cobra.Command, c *client, _ []string) error {
			return a.listLocks(cmd.Context(), c, &out)
		}),
	}
	where.register(cmd.Flags())
	out.register(cmd)
	return cmd
}

// listLocks follows the pages of the list to its end. A table has a row for each
// holder.
func (a *app) listLocks(ctx context.Context, c *client, out *outputFlag) error {
	list := newPrinter(a.stdout, out.value, func(l *lockAnswer) []byte { return l.raw }, nil, nil)
	rows := a.holderTable()
	err := c.eachItem(ctx, "locks", mostItems(), func(raw json.RawMessage) error {
		l, err := parseLock(raw)
		if err != nil {
			return err
		}
		if out.value != formatTable {
			return list.add(l)
		}
		rows.add(l)
		return nil
	})
	if err != nil {
		return err
	}
	if out.value != formatTable {
		return list.close()
	}
	if rows.count == 0 {
		a.warnf("no locks are held")
	}
	return rows.flush()
}

// lock is the lock of that name, or pelton.ErrNotFound.
func (c *client) lock(ctx context.Context, name string) (*lockAnswer, error) {
	var found *lockAnswer
	err := c.eachItem(ctx, "locks", url.Values{"name": {name}}, func(raw json.RawMessage) (err error) {
		found, err = parseLock(raw)
		return err
	})
	if err == nil && found == nil {
		err = fmt.Errorf("lock %q: %w: nobody holds it", name, pelton.ErrNotFound)
	}
	return found, err
}

func (a *app) lockGetCmd() *cobra.Command {
	var (
		where clientFlags
		out   outputFlag
	)
	cmd := &cobra.Command{
		Use:   "get NAME",
		Short: "Show who holds a lock",
		Long:  "Show who holds a lock.\n\nExit codes: 0 shown, 3 nobody holds it.",
		Args:  needArgs(1, 1, "the name of a lock"),
		RunE: a.withClient(&where, func(cmd *cobra.Command, c *client, args []string) error {
			if err := pelton.ValidateLock(args[0]); err != nil {
				return usagef("%s", plain(err))
			}
			l, err := c.lock(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return a.printLock(&out, l)
		}),
	}
	where.register(cmd.Flags())
	out.register(cmd)
	return cmd
}

func (a *app) printLock(out *outputFlag, l *lockAnswer) error {
	if out.value != formatTable {
		return printJSON(a.stdout, out.value, l.raw)
	}
	rows := a.holderTable()
	rows.add(l)
	return rows.flush()
}

// holderTable shows locks, a row for each holder.
type holderTable struct {
	rows  *table
	count int
}

func (a *app) holderTable() *holderTable {
	return &holderTable{rows: newTable(a.stdout, []string{"LOCK", "SLOTS", "TASK", "KIND", "WORKER", "TOKEN", "ACQUIRED", "EXPIRES"})}
}

func (t *holderTable) add(l *lockAnswer) {
	for _, h := range l.Holders {
		t.count++
		t.rows.add([]string{
			l.Name, strconv.Itoa(l.Slots), h.TaskID.String(), h.Kind, h.Worker, strconv.FormatUint(h.Token, 10), instant(h.AcquiredAt), instant(h.ExpiresAt),
		})
	}
}

func (t *holderTable) flush() error {
	if err := t.rows.flush(); err != nil {
		return fmt.Errorf("write output: %w", err)
	}
	return nil
}

func (a *app) lockReleaseCmd() *cobra.Command {
	var (
		where clientFlags
		out   outputFlag
		token uint64
	)
	asks := &confirmation{app: a, verb: "release"}
	cmd := &cobra.Command{
		Use:   "release NAME",
		Short: "Take a lock from those who hold it",
		Long: `Release a lock by force, and show who held it. Their handlers are told, and may
still work when somebody else has the lock. It asks before it does that; --yes
answers. What it asked about it takes, and nothing that was taken meanwhile.

Exit codes: 0 released, 1 not confirmed, 2 no terminal to ask and no --yes,
3 nobody holds it.`,
		Args: needArgs(1, 1, "the name of a lock"),
		RunE: a.withClient(&where, func(cmd *cobra.Command, c *client, args []string) error {
			if err := pelton.ValidateLock(args[0]); err != nil {
				return usagef("%s", plain(err))
			}
			var tokens []uint64
			if cmd.Flags().Changed("holder") {
				tokens = []uint64{token}
			}
			err := asks.confirm(cmd.Context(), func() (question string, err error) {
				question, tokens, err = releaseQuestion(cmd.Context(), c, args[0], tokens)
				return question, err
			})
			if err != nil {
				return err
			}
			return a.releaseLock(cmd.Context(), c, &out, args[0], tokens)
		}),
	}
	cmd.Flags().Uint64Var(&token, "holder", 0, "only from the holder with this fencing `TOKEN`")
	asks.register(cmd)
	where.register(cmd.Flags())
	out.register(cmd)
	return cmd
}

// releaseQuestion asks about those who hold the lock now, and gives their tokens.
func releaseQuestion(ctx context.Context, c *client, name string, only []uint64) (question string, tokens []uint64, err error) {
	l, err := c.lock(ctx, name)
	if err != nil {
		return "", nil, err
	}
	who := ""
	for _, h := range l.Holders {
		if len(only) == 0 || h.Token == only[0] {
			tokens = append(tokens, h.Token)
			who = fmt.Sprintf("task %s (%s) on worker %s", h.TaskID, h.Kind, h.Worker)
		}
	}
	if len(tokens) == 0 {
		return "", nil, fmt.Errorf("lock %q: %w: nobody holds it with token %d", name, pelton.ErrNotFound, only[0])
	}
	if len(tokens) > 1 {
		who = fmt.Sprintf("%d holders", len(tokens))
	}
	return printable(fmt.Sprintf("Take lock %q from %s?", name, who), oneLine), tokens, nil
}

func (a *app) releaseLock(ctx context.Context, c *client, out *outputFlag, name string, tokens []uint64) error {
	query := url.Values{}
	for _, token := range tokens {
		query.Add("token", strconv.FormatUint(token, 10))
	}
	body, err := c.do(ctx, request{method: http.MethodDelete, path: []string{"locks", name}, query: query, once: len(tokens) == 0})
	if err != nil {
		return err
	}
	l, err := parseLock(body)
	if err != nil {
		return err
	}
	return a.printLock(out, l)
}
