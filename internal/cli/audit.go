package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/peltonq/pelton"
)

func (a *app) auditCmd() *cobra.Command {
	return group("audit", "Read who changed what", a.auditListCmd())
}

// auditAnswer is an entry as the server sent it.
type auditAnswer struct {
	pelton.AuditEntry
	raw []byte
}

// momentValue is a flag that takes a time, or how long ago it was.
type momentValue struct{ expiryValue }

func (m *momentValue) Set(s string) error {
	if err := m.expiryValue.Set(s); err != nil {
		return fmt.Errorf("%q is neither a time such as 2026-12-01T08:00:00Z nor how long ago it was, such as 2h", clip(s, 64))
	}
	return nil
}

// put adds the moment to a query, if there is one.
func (m *momentValue) put(query url.Values, name string) {
	at := m.at
	if m.in > 0 {
		at = time.Now().Add(-m.in)
	}
	if !at.IsZero() {
		query.Set(name, at.UTC().Format(time.RFC3339Nano))
	}
}

func (a *app) auditListCmd() *cobra.Command {
	var (
		where            clientFlags
		out              outputFlag
		actor, operation string
		since, until     momentValue
		limit            int
	)
	outcome := enumOf("", pelton.Outcomes()...)
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List calls that changed something, or were to, newest first",
		Long: `List calls of the API that changed something, or were refused: who made them, when,
from where, and how they ended. Enqueues are among them if the server was started with
--audit all. It needs a token with the scope admin.`,
		Example: `  pelton audit list --since 24h --outcome refused
  pelton audit list --operation purgeQueue -o jsonl`,
		Args: needArgs(0, 0, ""),
		RunE: a.withClient(&where, func(cmd *cobra.Command, c *client, _ []string) error {
			if limit < 1 {
				return usagef("--limit %d is not above 0", limit)
			}
			query := url.Values{"limit": {strconv.Itoa(min(limit, 500))}}
			for name, value := range map[string]string{"actor": actor, "operation": operation, "outcome": outcome.value} {
				if cmd.Flags().Changed(name) {
					query.Set(name, value)
				}
			}
			since.put(query, "since")
			until.put(query, "until")
			list := newPrinter(a.stdout, out.value, func(e *auditAnswer) []byte { return e.raw },
				[]string{"AT", "ACTOR", "NAME", "FROM", "OPERATION", "PATH", "STATUS", "MADE"},
				func(e *auditAnswer) []string {
					return []string{instant(e.At), e.Actor, e.ActorName, e.From, e.Operation, e.Path, strconv.Itoa(e.Status), e.Location}
				})
			err := c.eachItem(cmd.Context(), "audit", query, func(raw json.RawMessage) error {
				e := &auditAnswer{raw: raw}
				if err := json.Unmarshal(raw, &e.AuditEntry); err != nil {
					return fmt.Errorf("the server's answer is not an entry of the audit log: %w", err)
				}
				if e.Lost > 0 {
					a.warnf("%d entries of server %s before %s could not be kept", e.Lost, e.Server, instant(e.At))
				}
				if err := list.add(e); err != nil || list.count < limit {
					return err
				}
				return errEnough
			})
			if err != nil && !errors.Is(err, errEnough) {
				return err
			}
			if list.count == 0 && out.value == formatTable {
				a.warnf("no calls")
			}
			return list.close()
		}),
	}
	flags := cmd.Flags()
	flags.StringVar(&actor, "actor", "", "only calls by the token of this `ID`; bootstrap is that of --token, anonymous who needed none")
	flags.StringVar(&operation, "operation", "", "only calls of this `OPERATION`, such as purgeQueue")
	flags.Var(&outcome, "outcome", "only calls that ended so: "+outcome.choices())
	completeEnum(cmd, "outcome", &outcome)
	flags.Var(&since, "since", "only calls from then on: a time, or how long ago (24h)")
	flags.Var(&until, "until", "only calls before that: a time, or how long ago")
	flags.IntVar(&limit, "limit", 100, "the most calls to list")
	where.register(flags)
	out.register(cmd)
	return cmd
}

// errEnough ends a listing that has all that was asked for.
var errEnough = errors.New("enough")
