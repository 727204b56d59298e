// Package cli is the pelton command: one file per command, and serve.go, where
// the parts of Pelton are wired together.
//
// Data goes to stdout and everything else to stderr, exit codes are the table in
// exit.go, and every flag can also be given by the environment, and those of servers
// and workers by a file (config.go).
package cli

import (
	"context"
	"fmt"
	"io"
	"log/slog"

	"github.com/spf13/cobra"
)

// app is what all commands share: the world outside the process, as Main was
// given it, and the flags that every command has.
type app struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	environ        environment
	config         string // the file; empty for none

	progress *progress // nil without one on the screen

	logLevel  enumValue
	logFormat enumValue

	// origins are where the values of the command's flags came from.
	origins map[string]origin

	// started is set when arguments, flags and environment were accepted. An
	// error before that is the caller's: exit code 2.
	started bool
}

// Main runs one command line, without the program's name, and returns its exit
// code. ctx ends the command: a server or worker then stops in order, everything
// else gives up. environ is os.Environ(), or stands for it.
func Main(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer, environ []string) int {
	a := &app{stdin: stdin, stdout: stdout, stderr: stderr, environ: environ}
	if isTerminal(stdout) {
		a.stdout = aroundProgress{stdout, a}
	}
	root := a.root()                          //nolint:contextcheck // commands get ctx from ExecuteContextC.
	root.SetArgs(append([]string{}, args...)) // never nil, which would mean os.Args
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	cmd, err := root.ExecuteContextC(ctx)
	return a.report(cmd, err)
}

func (a *app) root() *cobra.Command {
	root := group("pelton", "A distributed task queue on NATS JetStream",
		a.serveCmd(), a.workerCmd(), a.taskCmd(), a.queueCmd(), a.deadCmd(), a.scheduleCmd(), a.limitCmd(), a.lockCmd(), a.tokenCmd(), a.auditCmd(), a.backupCmd(), a.restoreCmd(), a.doctorCmd(), a.topCmd(), a.configCmd(), a.versionCmd())
	root.Long = `Pelton is a distributed task queue on NATS JetStream.

"pelton serve" is all of it in one process: the broker, the HTTP API and, when
asked, a worker. More workers on any host join with "pelton worker run".

Every flag can be given by the environment: --nats-listen is PELTON_NATS_LISTEN.
The flag wins. What servers, workers and clients are told can also stand in a file,
--config FILE or PELTON_CONFIG, over which both win; see 'pelton config'.

Exit codes: 0 ok, 1 failure, 2 usage, 3 not found, 4 auth, 5 conflict, 6 wait
timed out, 7 unreachable, 8 rate limited, 9 partly done, 10 the task failed,
11 the task was cancelled or expired.`
	root.Version = readBuild().Version
	root.SilenceErrors, root.SilenceUsage = true, true
	root.SetFlagErrorFunc(flagError)

	a.logLevel = enumValue{value: "info", allowed: []string{"debug", "info", "warn", "error"}}
	a.logFormat = enumValue{value: "text", allowed: []string{"text", "json"}}
	flags := root.PersistentFlags()
	flags.Var(&a.logLevel, "log-level", "what to log on stderr: "+a.logLevel.choices())
	flags.Var(&a.logFormat, "log-format", "how to log: "+a.logFormat.choices())
	completeEnum(root, "log-level", &a.logLevel)
	completeEnum(root, "log-format", &a.logFormat)
	flags.StringVar(&a.config, "config", "", "read settings from a YAML `FILE`; see 'pelton config'")

	mendCobra(root)
	a.completeFromServer(root)
	root.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error {
		if !isCobras(cmd) {
			var err error
			if a.origins, err = a.configure(cmd); err != nil {
				return err
			}
		}
		a.started = true
		return nil
	}
	return root
}

// report tells stderr about err, unless it was told already, and gives the exit
// code.
func (a *app) report(cmd *cobra.Command, err error) int {
	if err == nil {
		return exitOK
	}
	code := exitCode(err)
	if !a.started {
		code = exitUsage
	}
	if alreadyTold(err) {
		return code
	}
	// Nobody is left to tell when stderr is gone.
	_, _ = fmt.Fprintf(a.stderr, "pelton: %s\n", printable(err.Error(), keepLines))
	if hint := hint(err); hint != "" {
		_, _ = fmt.Fprintf(a.stderr, "%s\n", hint)
	}
	if code == exitUsage && !a.started {
		_, _ = fmt.Fprintf(a.stderr, "Usage: %s\nSee '%s --help'.\n", cmd.UseLine(), cmd.CommandPath())
	}
	return code
}

// logger writes to stderr as --log-level and --log-format say.
func (a *app) logger() *slog.Logger {
	var level slog.Level
	if err := level.UnmarshalText([]byte(a.logLevel.value)); err != nil {
		level = slog.LevelInfo // enumValue admits no other names
	}
	options := &slog.HandlerOptions{Level: level}
	if a.logFormat.value == "json" {
		return slog.New(slog.NewJSONHandler(a.stderr, options))
	}
	return slog.New(slog.NewTextHandler(a.stderr, options))
}
