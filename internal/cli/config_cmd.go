package cli

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

func (a *app) configCmd() *cobra.Command {
	cmd := group("config", "See which settings hold, and check a configuration file", a.configPrintCmd(), a.configValidateCmd(), a.natsPermissionsCmd())
	cmd.Long = `A setting comes from its flag, or else its environment variable, or else the file
that --config or PELTON_CONFIG names, or else is its default. The file is YAML, and
its keys are the flags of "serve", "worker run" and of clients (--url, --token,
--output). What stands below "serve:" or "worker:" is for that command alone:

  url: https://pelton.internal
  token-file: /run/secrets/pelton-token
  log-format: json
  serve:
    addr: 0.0.0.0:7420
    nats-listen: 0.0.0.0:4222
    nats-token-file: /run/secrets/nats-token
  worker:
    nats: nats://pelton.internal:4222
    queues: [default, emails]
    limit: {low: 2}
    exec:
      report.build: python3 report.py

Secrets are best kept in files of their own: --token-file, --nats-token-file and
--redis-file name them, here and as variables (PELTON_TOKEN_FILE) and flags.`
	return cmd
}

// setting is one line of "config print".
type setting struct {
	Command string `json:"command"`
	Key     string `json:"key"`
	Value   string `json:"value"` // empty for a secret
	Secret  string `json:"secret,omitempty"`
	Source  string `json:"source"`          // default, file, environment or flag
	Place   string `json:"place,omitempty"` // in the source
	origin  origin
}

const (
	secretSet   = "set"
	secretUnset = "not set"
)

func (a *app) configPrintCmd() *cobra.Command {
	client := &cobra.Command{Use: "client [flags]", Short: "Show the settings of commands that call the API"}
	(&clientFlags{}).register(client.Flags())
	cmd := group("print", "Show every setting, its value and where that came from",
		a.printsSettings(a.serveCmd(), "serve"), a.printsSettings(a.workerRunCmd(), "worker"), a.printsSettings(client, "client"))
	cmd.Long = `Show every setting of a command, its value and where that came from: default, file
and line, environment or flag. Secrets are not shown, but whether they are set.
The flags of the command can be given, to see what they would do.`
	cmd.Example = `  pelton config print serve --config pelton.yaml
  pelton config print worker --concurrency 8 -o json`
	return cmd
}

// printsSettings makes of a command one that only shows its settings.
func (a *app) printsSettings(cmd *cobra.Command, name string) *cobra.Command {
	var out outputFlag
	cmd.Use, cmd.Example, cmd.Long = name+" [flags]", "", ""
	if name != "client" {
		cmd.Short = "Show the settings of that command"
	}
	cmd.Args = needArgs(0, 0, "")
	cmd.DisableFlagsInUseLine = true
	if section, has := cmd.Annotations[sectionAnnotation]; has {
		readingSection(cmd, section) // it is not that command
	}
	shown := make(map[string]bool)
	cmd.Flags().VisitAll(func(f *pflag.Flag) { shown[f.Name] = true })
	out.register(cmd)
	if name == "client" {
		shown["output"] = true
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cmd.Root().PersistentFlags().VisitAll(func(f *pflag.Flag) { shown[f.Name] = true })
		return a.printSettings(cmd, &out, name, shown)
	}
	return cmd
}

func (a *app) printSettings(cmd *cobra.Command, out *outputFlag, name string, shown map[string]bool) error {
	list := newPrinter(a.stdout, out.value,
		func(s setting) []byte {
			raw, _ := json.Marshal(s) //nolint:gosec // it says whether a secret is set. Of texts: cannot fail.
			return raw
		},
		[]string{"SETTING", "VALUE", "SOURCE"},
		func(s setting) []string {
			value := s.Value
			if s.Secret != "" {
				value = "(" + s.Secret + ")"
			}
			return []string{s.Key, value, s.origin.String()}
		})
	var err error
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if err == nil && shown[f.Name] && isSetting(f) {
			err = list.add(a.settingOf(name, f))
		}
	})
	if err != nil {
		return err
	}
	return list.close()
}

func (a *app) settingOf(command string, f *pflag.Flag) setting {
	o := a.origins[f.Name]
	s := setting{Command: command, Key: f.Name, Value: f.Value.String(), Source: o.layer.String(), Place: o.place, origin: o}
	if many, ok := f.Value.(pflag.SliceValue); ok {
		s.Value = strings.Join(many.GetSlice(), ", ")
	}
	if isSecret(f) {
		if s.Secret = secretUnset; s.Value != "" {
			s.Secret = secretSet
		}
		s.Value = ""
	}
	if (f.Name == "nats" || f.Name == "url") && s.Value != "" {
		s.Value = redactURLs(s.Value) // they may have a password in them
	}
	return s
}

func (a *app) configValidateCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "validate FILE",
		Short: "Check a configuration file",
		Long: `Check a configuration file: its keys, and the value of each by itself. What is wrong
is told by line and column.

Exit codes: 0 it is right, 2 it is not.`,
		Args: needArgs(1, 1, "the configuration file"),
		RunE: func(cmd *cobra.Command, args []string) error {
			known := knownSettings((&app{}).root()) // flags of nobody, to be set
			file, err := readConfigFile(args[0], known)
			if err != nil {
				return err
			}
			if bad := file.checkValues(known); len(bad) > 0 {
				return usagef("%w", bad)
			}
			if _, err := fmt.Fprintf(a.stdout, "%s: ok\n", args[0]); err != nil {
				return fmt.Errorf("write output: %w", err)
			}
			return nil
		},
	}
	return cmd
}

// checkValues sets each flag to its values, and tells of those that it refuses. The
// files of secrets must be readable.
func (f *configFile) checkValues(known settingsOf) (bad configErrors) {
	for section, values := range f.sections {
		for key, v := range values {
			err := setAll(known[section][key], v.values)
			name, isFile := strings.CutSuffix(key, "-file")
			if secret := known[section][name]; isFile && secret != nil && isSecret(secret) {
				_, err = readSecret(v.values[0])
			}
			if err != nil {
				bad = append(bad, configError{f.path, v.line, v.column, key + ": " + err.Error()})
			}
		}
	}
	slices.SortFunc(bad, func(a, b configError) int { return cmp.Or(a.line-b.line, a.column-b.column) })
	return bad
}

func setAll(f *pflag.Flag, values []string) error {
	var errs []error
	for _, value := range values {
		errs = append(errs, f.Value.Set(value))
	}
	return errors.Join(errs...)
}
