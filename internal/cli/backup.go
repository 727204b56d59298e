package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/admin"
	"github.com/peltonq/pelton/internal/broker"
	"github.com/peltonq/pelton/internal/embed"
)

// brokerPatience is how long a backup looks for its broker at the start.
const brokerPatience = 10 * time.Second

// brokerFlags say which broker is meant: one that runs, or one whose data folder
// nobody has open.
type brokerFlags struct {
	nats natsFlags
	data string
}

func (b *brokerFlags) register(flags *pflag.FlagSet) {
	b.nats.register(flags, "`URL` of the broker; several are separated by commas", false)
	flags.StringVar(&b.data, "data", "", "data `FOLDER` of a server that is stopped")
}

// use calls do with a connection to the broker.
func (a *app) use(ctx context.Context, b *brokerFlags, do func(context.Context, *nats.Conn) error) (err error) {
	log := a.logger()
	as := party{broker.DefaultNamespace, broker.RoleAdmin}
	var l *link
	switch {
	case (b.nats.url == "") == (b.data == ""):
		return usagef("say where the broker is: --nats URL of one that runs (\"pelton serve --nats-listen\" opens one), or --data FOLDER of a server that is stopped")
	case b.data != "":
		server, err := embed.Start(ctx, embed.Config{Dir: b.data, Logger: log})
		if errors.Is(err, embed.ErrLocked) {
			return &codeError{exitConflict, fmt.Errorf("%w: stop it first, or let it open a port with --nats-listen and give that with --nats", err)}
		}
		if err != nil {
			return err
		}
		defer func() {
			ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), brokerStop)
			defer cancel()
			err = errors.Join(err, server.Shutdown(ending))
		}()
		l, err = newLink(log, as, func(opts ...nats.Option) (*nats.Conn, error) { return server.Connect(opts...) })
		if err != nil {
			return err
		}
	default:
		if l, err = dialLink(log, b.nats, as); err != nil {
			return err
		}
	}
	defer l.close()
	return l.retry(ctx, brokerPatience, func(ctx context.Context) error {
		if !l.nc.IsConnected() {
			return fmt.Errorf("%w: there is no broker", pelton.ErrUnavailable)
		}
		return do(ctx, l.nc)
	})
}

func (a *app) backupCmd() *cobra.Command {
	var (
		where brokerFlags
		out   outputFlag
		cfg   admin.BackupConfig

		namespace namespaceFlag
	)
	patience := durationValue(time.Minute)
	cmd := &cobra.Command{
		Use:   "backup FOLDER (--nats URL | --data FOLDER)",
		Short: "Write a backup of an installation",
		Long: `Write a backup of an installation, all its tasks, dead letters, schedules, settings and
keys, into a folder that is empty or missing.

The installation stays in use. Every task that was accepted before is in the backup;
one that runs meanwhile will run again when it is restored. With --pause nothing runs:
all queues are paused, running tasks end, and the queues are resumed afterwards, here
and where the backup is restored. With --stay-paused they stay paused here, for an
installation that moves.

Exit codes: 0 done, 2 the folder is not empty, 3 no installation there, 5 tasks still
run after --patience, or a server has the data folder open, 7 no broker there.`,
		Example: `  pelton backup /backups/monday --nats nats://127.0.0.1:4222
  pelton backup /backups/move --nats nats://127.0.0.1:4222 --pause --stay-paused
  pelton backup /backups/cold --data ./pelton-data`,
		Args:                  needArgs(1, 1, "the folder to write to"),
		DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			if cfg.StayPaused && !cfg.Pause {
				return usagef("--stay-paused needs --pause")
			}
			cfg.Namespace, cfg.Patience, cfg.Tell = string(namespace), time.Duration(patience), a.tellPart("written")
			return a.use(cmd.Context(), &where, func(ctx context.Context, nc *nats.Conn) error {
				report, err := admin.Backup(ctx, nc, args[0], cfg)
				if err != nil {
					return notAgain(err)
				}
				return a.printBackup(&out, report)
			})
		},
	}
	flags := cmd.Flags()
	where.register(flags)
	namespace.register(flags)
	flags.BoolVar(&cfg.Pause, "pause", false, "pause all queues meanwhile, and wait until nothing runs")
	flags.BoolVar(&cfg.StayPaused, "stay-paused", false, "leave them paused")
	flags.Var(&patience, "patience", "how long running tasks may take to end")
	out.register(cmd)
	return cmd
}

func (a *app) restoreCmd() *cobra.Command {
	var (
		where  brokerFlags
		out    outputFlag
		cfg    admin.RestoreConfig
		dryRun bool
	)
	asks := &confirmation{app: a, verb: "replace"}
	cmd := &cobra.Command{
		Use:   "restore FOLDER (--nats URL | --data FOLDER)",
		Short: "Restore an installation from a backup",
		Long: `Restore an installation from a backup that "pelton backup" wrote, into the same broker
or another one, such as a cluster: --replicas says how many copies it keeps. Each
file is compared with its checksum first, and each stream with the backup afterwards.

Servers and workers of the installation must be stopped, or not know the broker yet.
There must be no installation of that name; with --replace it is deleted first, after
a question that --yes answers. If it fails, what was restored is deleted again.

Exit codes: 0 done, 1 not confirmed, 2 the backup is not whole, 5 there is an
installation of that name, or a server has the data folder open, 7 no broker there.`,
		Example: `  pelton restore /backups/monday --dry-run
  pelton restore /backups/monday --data ./pelton-data
  pelton restore /backups/move --nats nats://a,nats://b,nats://c --replicas 3`,
		Args:                  needArgs(1, 1, "the folder of the backup"),
		DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			if cfg.Replicas < 0 || cfg.Replicas > 5 {
				return usagef("--replicas %d is not between 1 and 5", cfg.Replicas)
			}
			checked, err := admin.CheckBackup(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if dryRun {
				return a.printBackup(&out, checked)
			}
			if cfg.Replace {
				err := asks.confirm(cmd.Context(), func() (string, error) {
					return fmt.Sprintf("Delete all of installation %s that is there, and restore the backup of %s?", checked.Namespace, checked.CreatedAt.Format(time.RFC3339)), nil
				})
				if err != nil {
					return err
				}
			}
			cfg.Tell = a.tellPart("restored")
			return a.use(cmd.Context(), &where, func(ctx context.Context, nc *nats.Conn) error {
				report, err := admin.Restore(ctx, nc, args[0], cfg)
				if err != nil {
					return notAgain(err)
				}
				return a.printBackup(&out, report)
			})
		},
	}
	flags := cmd.Flags()
	where.register(flags)
	flags.IntVar(&cfg.Replicas, "replicas", 0, "copies that a cluster keeps of everything; as many as there were without")
	flags.BoolVar(&cfg.Replace, "replace", false, "delete the installation of that name first")
	flags.BoolVar(&cfg.StayPaused, "stay-paused", false, "leave queues paused that were paused for the backup")
	flags.BoolVar(&dryRun, "dry-run", false, "only check the backup")
	asks.register(cmd)
	out.register(cmd)
	return cmd
}

// notAgain keeps an error that would be worth another try from being tried: half of it is
// done.
func notAgain(err error) error { return &codeError{exitCode(err), err} }

// tellPart tells a terminal how far it is.
func (a *app) tellPart(how string) func(admin.BackupPart) {
	return func(p admin.BackupPart) {
		if isTerminal(a.stderr) {
			a.warnf("%s %s: %d messages, %d bytes", p.Stream, how, p.Messages, p.Bytes)
		}
	}
}

func (a *app) printBackup(out *outputFlag, r *admin.BackupReport) error {
	if out.value != formatTable {
		raw, err := json.Marshal(r)
		if err != nil {
			return fmt.Errorf("encode report: %w", err)
		}
		return printJSON(a.stdout, out.value, raw)
	}
	rows := newPrinter(a.stdout, out.value, func(admin.BackupPart) []byte { return nil }, []string{"STREAM", "MESSAGES", "BYTES"}, func(p admin.BackupPart) []string {
		return []string{p.Stream, strconv.FormatUint(p.Messages, 10), strconv.FormatInt(p.Bytes, 10)}
	})
	for _, p := range r.Parts {
		if err := rows.add(p); err != nil {
			return err
		}
	}
	return rows.close()
}
