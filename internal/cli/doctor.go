package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// verdict is how a check of "doctor" came out.
type verdict string

const (
	verdictOK   verdict = "ok"
	verdictWarn verdict = "warn"
	verdictFail verdict = "fail"
)

// finding is the answer to one check: what is, and what to do about it if it is wrong.
type finding struct {
	Check   string  `json:"check"`
	Verdict verdict `json:"verdict"`
	Message string  `json:"message"`
	Advice  string  `json:"advice,omitempty"`
}

// doctorTimeout bounds each of the places that "doctor" asks.
const doctorTimeout = 10 * time.Second

// doctorFlags say where things are.
type doctorFlags struct {
	where clientFlags
	out   outputFlag
	nats  natsFlags
	redis string
	data  string

	namespace namespaceFlag
}

func (a *app) doctorCmd() *cobra.Command {
	f := &doctorFlags{}
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Look for what is wrong with an installation, and say what to do",
		Long: `Look for what is wrong with an installation: whether the API is there, takes our
token and is ready; clocks, versions of servers and workers, queues without a worker.
With --nats also the broker: streams and buckets and their configuration, quotas. With
--redis also Redis. The data folder is looked at where it is: space, permissions. A
configuration file's settings of "serve" count. Nothing is changed.

Exit codes: 0 nothing is wrong, warnings included; 1 something is.`,
		Example: `  pelton doctor
  pelton doctor --nats nats://127.0.0.1:4222 --redis redis://127.0.0.1:6379 -o json`,
		Args: needArgs(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			d := &doctor{app: a, flags: f, dataGiven: cmd.Flags().Changed("data")}
			return d.run(cmd.Context())
		},
	}
	flags := cmd.Flags()
	f.where.register(flags)
	f.out.register(cmd)
	f.nats.register(flags, "`URL` of the broker; several are separated by commas; none is not looked at", false)
	f.namespace.register(flags)
	secretVar(flags, &f.redis, "redis", "`URL` of the Redis that counts rate limits; none is not looked at")
	flags.StringVar(&f.data, "data", "./pelton-data", "`folder` of the embedded broker's data, if it is on this machine")
	return readingSection(cmd, sectionServe)
}

// doctor is one run of the command.
type doctor struct {
	app       *app
	flags     *doctorFlags
	dataGiven bool
	list      *printer[finding]
	failed    int
	warned    int
	err       error // of the output
}

func (d *doctor) run(ctx context.Context) error {
	d.list = newPrinter(d.app.stdout, d.flags.out.value,
		func(f finding) []byte {
			raw, _ := json.Marshal(f) // of texts: cannot fail
			return raw
		},
		nil, nil)
	// Each has a time of its own, so that one that hangs does not hide the others.
	for _, look := range []func(context.Context) error{d.api, d.broker, d.redis, d.folder} {
		if err := d.within(ctx, look); err != nil {
			return err
		}
	}
	if d.flags.out.value != formatTable {
		d.err = d.list.close()
	} else if d.err == nil {
		_, d.err = fmt.Fprintf(d.app.stdout, "%d failed, %d warnings\n", d.failed, d.warned)
	}
	if d.err != nil {
		return fmt.Errorf("write output: %w", d.err)
	}
	if d.failed > 0 {
		return told(exitFailure)
	}
	return nil
}

func (d *doctor) within(ctx context.Context, look func(context.Context) error) error {
	bounded, cancel := context.WithTimeout(ctx, doctorTimeout)
	defer cancel()
	if err := look(bounded); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return fmt.Errorf("interrupted: %w", context.Cause(ctx))
	}
	return d.err
}

func (d *doctor) ok(check, format string, args ...any) { d.say(verdictOK, check, "", format, args...) }

func (d *doctor) warn(check, advice, format string, args ...any) {
	d.warned++
	d.say(verdictWarn, check, advice, format, args...)
}

func (d *doctor) fail(check, advice, format string, args ...any) {
	d.failed++
	d.say(verdictFail, check, advice, format, args...)
}

// say shows a finding as soon as it is there: a later one may take its time.
func (d *doctor) say(v verdict, check, advice, format string, args ...any) {
	f := finding{check, v, fmt.Sprintf(format, args...), advice}
	if d.err != nil {
		return
	}
	if d.flags.out.value != formatTable {
		d.err = d.list.add(f)
		return
	}
	text := fmt.Sprintf("%-4s  %-16s  %s\n", f.Verdict, f.Check, printable(f.Message, oneLine))
	if f.Advice != "" {
		text += fmt.Sprintf("%s-> %s\n", strings.Repeat(" ", 24), printable(f.Advice, oneLine))
	}
	_, d.err = fmt.Fprint(d.app.stdout, text)
}
