package cli

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"github.com/knadh/koanf/providers/confmap"
	"github.com/knadh/koanf/providers/env/v2"
	"github.com/knadh/koanf/providers/posflag"
	"github.com/knadh/koanf/v2"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// layer is where a setting may come from. A later one wins.
type layer int

const (
	fromDefault layer = iota
	fromFile
	fromEnv
	fromFlag
)

func (l layer) String() string {
	return [...]string{"default", "file", "environment", "flag"}[l]
}

// origin is where the value of a setting came from.
type origin struct {
	layer layer
	place string // pelton.yaml:3, PELTON_ADDR or --addr; empty for defaults
}

func (o origin) String() string {
	if o.place == "" {
		return o.layer.String()
	}
	return o.layer.String() + " " + o.place
}

// environment is what the variables say: NAME=VALUE, as os.Environ gives them.
type environment []string

// get is os.Getenv; the last of equal names counts.
func (e environment) get(name string) string {
	value := ""
	for _, entry := range e {
		if rest, found := strings.CutPrefix(entry, name+"="); found {
			value = rest
		}
	}
	return value
}

const envPrefix = "PELTON_"

// envName is the variable that stands for a flag: --nats-listen is
// PELTON_NATS_LISTEN.
func envName(flag string) string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// isSetting reports whether a flag can be given otherwise than by itself.
func isSetting(f *pflag.Flag) bool { return f.Name != "help" && f.Name != "version" }

// configure gives the flags of cmd that were not given what the environment says,
// or else the configuration file, and tells where each flag's value came from. An
// empty variable is none. Values stay out of the errors, for they may be secrets.
func (a *app) configure(cmd *cobra.Command) (map[string]origin, error) {
	flags := cmd.Flags()
	defer a.warnVariables(cmd) // when it is known how to log
	if f, path := flags.Lookup("config"), a.environ.get(envName("config")); !f.Changed && path != "" {
		a.config = path // the variable counts as every other; it is only needed earlier
	}
	file := &configFile{}
	if a.config != "" {
		var err error
		if file, err = readConfigFile(a.config, knownSettings(cmd.Root())); err != nil {
			return nil, err
		}
	}
	origins := make(map[string]origin)
	merged := koanf.New(".") // which no flag has in its name
	layers := []struct {
		provider koanf.Provider
		origin   func(key string) origin
	}{
		{confmap.Provider(file.settings(cmd), ""), func(key string) origin { return origin{fromFile, file.place(cmd, key)} }},
		{variables(flags, a.environ), func(key string) origin { return origin{fromEnv, envName(key)} }},
		{givenFlags(flags), func(key string) origin { return origin{fromFlag, "--" + key} }},
	}
	for _, l := range layers {
		one := koanf.New(".")
		if err := errors.Join(one.Load(l.provider, nil), merged.Merge(one)); err != nil {
			return nil, fmt.Errorf("merge the configuration: %w", err)
		}
		for _, key := range one.Keys() {
			origins[key] = l.origin(key)
		}
	}
	if err := applySettings(flags, merged, origins); err != nil {
		return nil, err
	}
	return origins, readSecrets(flags, origins)
}

// variables are the environment's values by flag, each a []string.
func variables(flags *pflag.FlagSet, environ environment) koanf.Provider {
	byVariable := make(map[string]*pflag.Flag)
	flags.VisitAll(func(f *pflag.Flag) { byVariable[envName(f.Name)] = f })
	return env.Provider("", env.Opt{
		Prefix:      envPrefix,
		EnvironFunc: func() []string { return environ },
		TransformFunc: func(name, value string) (string, any) {
			f, known := byVariable[name]
			if !known || !isSetting(f) || value == "" {
				return "", nil
			}
			if f.Value.Type() == "stringArray" { // one value per line
				return f.Name, strings.FieldsFunc(value, func(r rune) bool { return r == '\n' })
			}
			return f.Name, []string{value}
		},
	})
}

// givenFlags are the flags that were given. Their values are in place already.
func givenFlags(flags *pflag.FlagSet) koanf.Provider {
	return posflag.ProviderWithFlag(flags, "", nil, func(f *pflag.Flag) (string, any) {
		if !isSetting(f) {
			return "", nil
		}
		return f.Name, []string{f.Value.String()}
	})
}

// applySettings sets the flags that come from elsewhere than the command line.
func applySettings(flags *pflag.FlagSet, merged *koanf.Koanf, origins map[string]origin) error {
	var err error
	flags.VisitAll(func(f *pflag.Flag) {
		o, set := origins[f.Name]
		if err != nil || !set || o.layer == fromFlag || o.layer == fromDefault {
			return
		}
		for _, value := range merged.Strings(f.Name) {
			if bad := f.Value.Set(value); bad != nil {
				if o.layer == fromFile {
					err = usagef("%s: %s: %w", o.place, f.Name, bad)
				} else {
					err = usagef("the environment variable %s (for --%s): %w", o.place, f.Name, bad)
				}
				return
			}
		}
		f.Changed = true
	})
	return err
}

// warnVariables tells of variables that no flag has and that look like one: servers and
// workers in their log, everything else in words.
func (a *app) warnVariables(cmd *cobra.Command) {
	known := make(map[string]bool)
	eachCommand(cmd.Root(), func(cmd *cobra.Command) {
		cmd.InheritedFlags() // merges
		cmd.Flags().VisitAll(func(f *pflag.Flag) { known[envName(f.Name)] = true })
	})
	for _, entry := range a.environ {
		name, value, _ := strings.Cut(entry, "=")
		if !strings.HasPrefix(name, envPrefix) || known[name] || value == "" || isServiceLink(name) {
			continue
		}
		near := nearest(name, known)
		switch {
		case near == "":
		case cmd.Annotations[sectionAnnotation] != "":
			a.logger().Warn("an environment variable means nothing", slog.String("variable", clip(name, 100)), slog.String("nearest", near))
		default:
			a.warnf("the environment variable %s means nothing; did you mean %s?", clip(name, 100), near)
		}
	}
}

// isServiceLink reports whether Kubernetes sets such a variable for a service that is
// called pelton.
func isServiceLink(name string) bool {
	rest := strings.TrimPrefix(name, envPrefix)
	return rest == "PORT" || strings.HasPrefix(rest, "PORT_") || strings.HasPrefix(rest, "SERVICE_")
}

// nearest is the known word that a misspelt one most likely means, or empty. Short
// words differ in a letter, longer ones in up to three.
func nearest(word string, known map[string]bool) string {
	best, least := "", 1+min(3, max(1, len(strings.TrimPrefix(word, envPrefix))/4))
	for candidate := range known {
		d := distance(candidate, word)
		if d < least || d == least && best != "" && candidate < best {
			best, least = candidate, d
		}
	}
	return best
}

// eachCommand visits a command and all below it.
func eachCommand(cmd *cobra.Command, visit func(*cobra.Command)) {
	visit(cmd)
	for _, sub := range cmd.Commands() {
		eachCommand(sub, visit)
	}
}
