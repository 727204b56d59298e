package cli

import (
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/spf13/cobra"

	"github.com/peltonq/pelton"
)

func (a *app) limitCmd() *cobra.Command {
	return group("limit", "Limit how often tasks start, and how many run at a time", a.limitListCmd(), a.limitSetCmd(), a.limitDeleteCmd())
}

// limitAnswer is a limit as the server sent it.
type limitAnswer struct {
	pelton.Limit
	raw []byte
}

func parseLimit(body []byte) (*limitAnswer, error) {
	l := &limitAnswer{raw: body}
	if err := json.Unmarshal(body, &l.Limit); err != nil {
		return nil, fmt.Errorf("the server's answer is not a limit: %w", err)
	}
	return l, nil
}

func (a *app) limitPrinter(out *outputFlag) *printer[*limitAnswer] {
	return newPrinter(a.stdout, out.value,
		func(l *limitAnswer) []byte { return l.raw },
		[]string{"LIMIT", "KIND", "RATE KEY", "RATE", "BURST", "COST", "WITHOUT REDIS", "CONCURRENCY KEY", "MAX RUNNING"},
		func(l *limitAnswer) []string {
			row := []string{l.Name, l.Kind, l.RateKey, "", "", "", "", l.ConcurrencyKey, ""}
			if l.Rated() {
				rate := rateValue{l.Rate}
				row[3], row[4], row[5], row[6] = rate.String(), fmt.Sprint(l.Rate.Burst), fmt.Sprint(l.Cost), l.Rate.OnError
			}
			if l.MaxRunning > 0 {
				row[8] = fmt.Sprint(l.MaxRunning)
			}
			return row
		})
}

func (a *app) limitListCmd() *cobra.Command {
	var (
		where clientFlags
		out   outputFlag
	)
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the limits",
		Args:  needArgs(0, 0, ""),
		RunE: a.withClient(&where, func(cmd *cobra.Command, c *client, _ []string) error {
			list := a.limitPrinter(&out)
			err := c.eachItem(cmd.Context(), "limits", mostItems(), func(raw json.RawMessage) error {
				l, err := parseLimit(raw)
				if err != nil {
					return err
				}
				return list.add(l)
			})
			if err != nil {
				return err
			}
			if list.count == 0 && out.value == formatTable {
				a.warnf("no limits: 'pelton limit set' makes one")
			}
			return list.close()
		}),
	}
	where.register(cmd.Flags())
	out.register(cmd)
	return cmd
}

func (a *app) limitSetCmd() *cobra.Command {
	var (
		where   clientFlags
		out     outputFlag
		l       pelton.Limit
		rate    rateValue
		onError = enumValue{value: pelton.OnErrorLocal, allowed: []string{pelton.OnErrorLocal, pelton.OnErrorOpen, pelton.OnErrorClosed}}
	)
	cmd := &cobra.Command{
		Use:   "set NAME [--rate 100/1s] [--max-running N] [--kind KIND] [--rate-key PATTERN] [--concurrency-key PATTERN]",
		Short: "Make a limit, or replace one",
		Long: `Make a limit, or replace one as a whole.

With --rate it bounds how often tasks start: those of a kind, those whose rate key
matches a pattern (each key is limited by itself), or both together.

With --max-running it bounds how many run at a time: of a kind, or of each
concurrency key that matches a pattern. Without a limit a key runs one task at a time.

Workers follow within a second.`,
		Example: `  pelton limit set mail --kind email.send --rate 100/1s --burst 10
  pelton limit set tenants --rate-key 'acme*' --rate 5/m --on-error closed
  pelton limit set big --concurrency-key 'acme*' --max-running 3`,
		Args:                  needArgs(1, 1, "the name of a limit"),
		DisableFlagsInUseLine: true,
		RunE: a.withClient(&where, func(cmd *cobra.Command, c *client, args []string) error {
			l.Name = args[0]
			if l.Rate.Limit, l.Rate.Per = rate.Limit, rate.Per; rate.Limit > 0 {
				l.Rate.OnError = onError.value
			}
			if rate.Limit == 0 && (l.MaxRunning == 0 || l.Rate.Burst != 0 || cmd.Flags().Changed("on-error")) {
				return usagef("--rate is missing, such as --rate 100/1s; or --max-running, such as --max-running 3")
			}
			for _, flag := range []string{"burst", "cost", "max-running"} {
				if f := cmd.Flags().Lookup(flag); f.Changed && f.Value.String() == "0" {
					return usagef("--%s must be at least 1", flag)
				}
			}
			checked, err := l.Normalized()
			if err != nil {
				return usagef("%s", plain(err))
			}
			body, err := json.Marshal(checked)
			if err != nil {
				return fmt.Errorf("write limit: %w", err)
			}
			answer, err := c.do(cmd.Context(), request{method: http.MethodPut, path: []string{"limits", l.Name}, body: body})
			if err != nil {
				return err
			}
			set, err := parseLimit(answer)
			if err != nil {
				return err
			}
			if out.value != formatTable {
				return printJSON(a.stdout, out.value, set.raw)
			}
			list := a.limitPrinter(&out)
			if err := list.add(set); err != nil {
				return err
			}
			return list.close()
		}),
	}
	flags := cmd.Flags()
	flags.StringVar(&l.Kind, "kind", "", "only tasks of this `KIND`")
	flags.StringVar(&l.RateKey, "rate-key", "", "only tasks whose rate key matches this `PATTERN` of *, ? and [a-z]")
	flags.Var(&rate, "rate", "how many start in a time, such as `100/1s` or 5/m")
	flags.IntVar(&l.Rate.Burst, "burst", 0, "how many may start at once after a pause; 1 is one after the other (default: as many as --rate says)")
	flags.IntVar(&l.Cost, "cost", 0, "how many starts one task counts for (default 1)")
	flags.StringVar(&l.ConcurrencyKey, "concurrency-key", "", "each concurrency key that matches this `PATTERN` of *, ? and [a-z]")
	flags.IntVar(&l.MaxRunning, "max-running", 0, "how many run at a time, of each such key or of the kind")
	flags.Var(&onError, "on-error", "what happens while Redis is out of reach: "+onError.choices())
	completeEnum(cmd, "on-error", &onError)
	where.register(flags)
	out.register(cmd)
	return cmd
}

func (a *app) limitDeleteCmd() *cobra.Command {
	var where clientFlags
	cmd := &cobra.Command{
		Use:   "delete NAME",
		Short: "Lift a limit",
		Long: `Lift a limit. Tasks that wait for their place in its line start within half of the
time that they have left.`,
		Args: needArgs(1, 1, "the name of a limit"),
		RunE: a.withClient(&where, func(cmd *cobra.Command, c *client, args []string) error {
			if err := pelton.ValidateLimitName(args[0]); err != nil {
				return usagef("%s", plain(err))
			}
			_, err := c.do(cmd.Context(), request{method: http.MethodDelete, path: []string{"limits", args[0]}})
			return err
		}),
	}
	where.register(cmd.Flags())
	return cmd
}
