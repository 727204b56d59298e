package cli

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/peltonq/pelton/internal/broker"
)

func (a *app) natsPermissionsCmd() *cobra.Command {
	var (
		namespace namespaceFlag
		shards    int
	)
	cmd := &cobra.Command{
		Use:   "nats-permissions",
		Short: "Print users with minimal permissions for an external broker",
		Long: `Print an authorization block for the configuration of nats-server, with a user for
each role: producers, workers, and servers (pelton serve). Passwords are variables,
which nats-server takes from its environment, and without which it does not start.

Include the block in the server's configuration, or put its users into the account
that Pelton uses:

  jetstream { store_dir: "/var/lib/nats" }
  include "pelton-permissions.conf"

Then "pelton serve --nats nats://pelton-admin:PASSWORD@HOST:4222", and workers as
pelton-worker. Go programs set nats.CustomInboxPrefix, as the comments say.`,
		Example: `  pelton config nats-permissions > /etc/nats/pelton-permissions.conf`,
		Args:    needArgs(0, 0, ""),
		RunE: func(*cobra.Command, []string) error {
			return printPermissions(a.stdout, string(namespace), shards)
		},
	}
	namespace.register(cmd.Flags())
	cmd.Flags().IntVar(&shards, "shards", 1, "how many shards there may be: those of \"pelton serve --shards\", now and later")
	return cmd
}

// roleFor says in a few words who has a role.
func roleFor(role broker.Role) string {
	switch role {
	case broker.RoleProducer:
		return "programs that enqueue, read, await, cancel and retry tasks (package producer)"
	case broker.RoleWorker:
		return "workers: pelton worker run, and programs with package worker"
	case broker.RoleAdmin:
		return "pelton serve, and programs with packages admin or scheduler"
	default:
		return ""
	}
}

func printPermissions(w io.Writer, namespace string, shards int) error {
	var b strings.Builder
	fmt.Fprintf(&b, "# Users of Pelton's installation %q, for nats-server. docs/security.md says what\n# they can and cannot do.\nauthorization {\n  users = [\n", namespace)
	for _, role := range broker.Roles() {
		p, err := broker.PermissionsOf(namespace, shards, role)
		if err != nil {
			return usagef("--namespace, --shards: %w", err)
		}
		name := namespace + "-" + string(role)
		fmt.Fprintf(&b, "    {\n      # %s\n", roleFor(role))
		fmt.Fprintf(&b, "      # inboxes: nats.CustomInboxPrefix(%q)\n", broker.InboxPrefix(namespace, role))
		fmt.Fprintf(&b, "      user: %q\n      password: $%s\n      permissions: {\n", name, envName(strings.TrimPrefix(name, "pelton-"))+"_PASSWORD")
		for _, part := range []struct {
			verb     string
			subjects []string
		}{{"publish", p.Publish}, {"subscribe", p.Subscribe}} {
			fmt.Fprintf(&b, "        %s: { allow: [\n", part.verb)
			for _, s := range part.subjects {
				fmt.Fprintf(&b, "          %q\n", s)
			}
			b.WriteString("        ] }\n")
		}
		b.WriteString("      }\n    }\n")
	}
	b.WriteString("  ]\n}\n")
	if _, err := io.WriteString(w, b.String()); err != nil {
		return fmt.Errorf("write output: %w", err)
	}
	return nil
}
