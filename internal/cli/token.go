package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/peltonq/pelton"
)

func (a *app) tokenCmd() *cobra.Command {
	return group("token", "Make, list and revoke tokens of the API", a.tokenCreateCmd(), a.tokenListCmd(), a.tokenRevokeCmd())
}

// expiryValue is a flag that takes a duration or a time.
type expiryValue struct {
	in time.Duration
	at time.Time
}

func (e *expiryValue) Type() string { return "duration|time" }

func (e *expiryValue) String() string {
	if e.in > 0 {
		return pelton.FormatDuration(e.in)
	}
	return (*timeValue)(&e.at).String()
}

func (e *expiryValue) Set(s string) error {
	*e = expiryValue{}
	if (*timeValue)(&e.at).Set(s) == nil {
		return nil
	}
	d, err := pelton.ParseDuration(s)
	if err != nil || d <= 0 {
		return fmt.Errorf("%q is neither a duration such as 90d nor a time such as 2027-01-01T00:00:00Z", clip(s, 64))
	}
	e.in = d
	return nil
}

// tokenRequest is the body of POST /tokens.
type tokenRequest struct {
	Name      string    `json:"name"`
	Scopes    []string  `json:"scopes"`
	Queues    []string  `json:"queues,omitempty"`
	ExpiresIn string    `json:"expires_in,omitempty"`
	ExpiresAt time.Time `json:"expires_at,omitzero"`
}

func (a *app) tokenCreateCmd() *cobra.Command {
	var (
		where   clientFlags
		out     outputFlag
		ask     tokenRequest
		expires expiryValue
	)
	cmd := &cobra.Command{
		Use:   "create NAME --scope SCOPE",
		Short: "Make a token, and print it: once, and never again",
		Long: `Make a token of the API. It is printed to stdout, alone on a line, and cannot be
shown again: the server keeps a hash.

Scopes: enqueue (enqueue tasks), read (look at everything but tokens and the audit
log), operate (cancel, retry, pause, purge; schedules and locks), admin (everything).
With --queue it is good for those queues alone.

The first token, of a server that was started without --token, must have the scope
admin. From then on the API asks for a token.`,
		Example: `  pelton token create ops --scope admin
  pelton token create billing --scope enqueue,read --queue invoices --expires 90d`,
		Args: needArgs(1, 1, "a name for the token"),
		RunE: a.withClient(&where, func(cmd *cobra.Command, c *client, args []string) error {
			ask.Name, ask.ExpiresAt = args[0], expires.at
			if expires.in > 0 {
				ask.ExpiresIn = pelton.FormatDuration(expires.in)
			}
			if err := ask.check(); err != nil {
				return err
			}
			return a.createToken(cmd.Context(), c, &out, ask)
		}),
	}
	flags := cmd.Flags()
	flags.StringSliceVar(&ask.Scopes, "scope", nil, "what it is good for: enqueue, read, operate, admin; may be repeated")
	flags.StringSliceVar(&ask.Queues, "queue", nil, "the only `QUEUE` that it is good for; may be repeated")
	flags.Var(&expires, "expires", "until when it is good: a duration (90d) or a time; for ever without")
	words := make([]string, 0, 4)
	for _, s := range pelton.Scopes() {
		words = append(words, string(s))
	}
	completeEnum(cmd, "scope", &enumValue{allowed: words})
	where.register(flags)
	out.register(cmd)
	return cmd
}

// check finds what the server would refuse.
func (r *tokenRequest) check() error {
	if len(r.Scopes) == 0 {
		return usagef("--scope is missing: say what the token is good for: enqueue, read, operate or admin")
	}
	t := pelton.Token{Name: r.Name, Queues: r.Queues, ExpiresAt: r.ExpiresAt}
	for _, s := range r.Scopes {
		t.Scopes = append(t.Scopes, pelton.Scope(s))
	}
	if _, err := t.Normalized(time.Now()); err != nil {
		return usagef("%w", err)
	}
	return nil
}

func (a *app) createToken(ctx context.Context, c *client, out *outputFlag, ask tokenRequest) error {
	body, err := json.Marshal(ask)
	if err != nil {
		return fmt.Errorf("write request: %w", err)
	}
	answer, err := c.do(ctx, request{method: http.MethodPost, path: []string{"tokens"}, body: body, once: true})
	if errors.Is(err, pelton.ErrUnknownOutcome) {
		a.warnf("if 'pelton token list' shows the token, revoke it: nobody has its secret")
	}
	if err != nil {
		return err
	}
	if out.value != formatTable {
		return printJSON(a.stdout, out.value, answer)
	}
	var made struct {
		pelton.Token
		Shown string `json:"token"`
	}
	if err := json.Unmarshal(answer, &made); err != nil || made.Shown == "" {
		return errors.New("the server's answer is not a token")
	}
	a.warnf("this is token %s (%s), and it cannot be shown again:", made.ID, made.Name)
	if _, err := fmt.Fprintln(a.stdout, printable(made.Shown, oneLine)); err != nil {
		return fmt.Errorf("write output: %w", err)
	}
	return nil
}

// tokenAnswer is a token as the server sent it.
type tokenAnswer struct {
	pelton.Token
	raw []byte
}

// tokens lists all tokens.
func (c *client) tokens(ctx context.Context, each func(*tokenAnswer) error) error {
	return c.eachItem(ctx, "tokens", nil, func(raw json.RawMessage) error {
		t := &tokenAnswer{raw: raw}
		if err := json.Unmarshal(raw, &t.Token); err != nil {
			return fmt.Errorf("the server's answer is not a token: %w", err)
		}
		return each(t)
	})
}

func (a *app) tokenListCmd() *cobra.Command {
	var (
		where clientFlags
		out   outputFlag
	)
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the tokens, newest first, without their secrets",
		Args:  needArgs(0, 0, ""),
		RunE: a.withClient(&where, func(cmd *cobra.Command, c *client, _ []string) error {
			list := newPrinter(a.stdout, out.value, func(t *tokenAnswer) []byte { return t.raw },
				[]string{"ID", "NAME", "SCOPES", "QUEUES", "CREATED", "BY", "EXPIRES"},
				func(t *tokenAnswer) []string {
					scopes := make([]string, len(t.Scopes))
					for i, s := range t.Scopes {
						scopes[i] = string(s)
					}
					return []string{t.ID, t.Name, strings.Join(scopes, ","), strings.Join(t.Queues, ","), instant(t.CreatedAt), t.CreatedBy, instant(t.ExpiresAt)}
				})
			if err := c.tokens(cmd.Context(), list.add); err != nil {
				return err
			}
			if list.count == 0 && out.value == formatTable {
				a.warnf("no tokens: 'pelton token create' makes one")
			}
			return list.close()
		}),
	}
	where.register(cmd.Flags())
	out.register(cmd)
	return cmd
}

func (a *app) tokenRevokeCmd() *cobra.Command {
	var where clientFlags
	asks := &confirmation{app: a, verb: "revoke"}
	cmd := &cobra.Command{
		Use:   "revoke ID|NAME",
		Short: "Revoke a token",
		Long: `Revoke a token, named by its id or, if no other has it, by its name. Every server
refuses it within 2s and ends what it waits for. It asks before; --yes answers.

Exit codes: 0 revoked, 1 not confirmed, 2 no terminal to ask and no --yes, or
several of that name, 3 there is none, 5 it is the last one that may make others.`,
		Args: needArgs(1, 1, "the id or name of a token"),
		RunE: a.withClient(&where, func(cmd *cobra.Command, c *client, args []string) error {
			var found *tokenAnswer
			find := func() (err error) {
				found, err = c.tokenCalled(cmd.Context(), args[0])
				return err
			}
			err := asks.confirm(cmd.Context(), func() (string, error) {
				if err := find(); err != nil {
					return "", err
				}
				return printable(fmt.Sprintf("Revoke token %s (%s)?", found.ID, found.Name), oneLine), nil
			})
			if err == nil && found == nil {
				err = find()
			}
			if err != nil {
				return err
			}
			_, err = c.do(cmd.Context(), request{method: http.MethodDelete, path: []string{"tokens", found.ID}})
			return err
		}),
	}
	asks.register(cmd)
	where.register(cmd.Flags())
	return cmd
}

// tokenCalled is the token of that id, or else of that name.
func (c *client) tokenCalled(ctx context.Context, name string) (*tokenAnswer, error) {
	var called []*tokenAnswer
	err := c.tokens(ctx, func(t *tokenAnswer) error {
		switch {
		case t.ID == name:
			called = []*tokenAnswer{t}
		case t.Name == name && (len(called) == 0 || called[0].ID != name):
			called = append(called, t)
		}
		return nil
	})
	switch {
	case err != nil:
		return nil, err
	case len(called) == 0:
		return nil, fmt.Errorf("token %q: %w", clip(name, 150), pelton.ErrNotFound)
	case len(called) > 1:
		return nil, usagef("%d tokens are called %q: give the id of one, as 'pelton token list' shows it", len(called), clip(name, 150))
	default:
		return called[0], nil
	}
}
