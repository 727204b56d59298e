package cli

import (
	"strings"

	"github.com/spf13/pflag"
)

// envName is the variable that stands for a flag: --nats-listen is
// PELTON_NATS_LISTEN.
func envName(flag string) string {
	return "PELTON_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// bindEnv sets every flag that was not given from its variable, if that is not
// empty. A flag that may be repeated takes one value per line. The error names
// the variable at fault; the value stays out of it, for it may be a secret.
func bindEnv(flags *pflag.FlagSet, getenv func(string) string) error {
	var err error
	flags.VisitAll(func(f *pflag.Flag) {
		if err != nil || f.Changed || f.Name == "help" || f.Name == "version" {
			return
		}
		value := getenv(envName(f.Name))
		if value == "" {
			return
		}
		values := []string{value}
		if f.Value.Type() == "stringArray" {
			values = strings.FieldsFunc(value, func(r rune) bool { return r == '\n' })
		}
		for _, v := range values {
			if bad := f.Value.Set(v); bad != nil {
				err = usagef("the environment variable %s (for --%s): %w", envName(f.Name), f.Name, bad)
				return
			}
		}
		f.Changed = true
	})
	return err
}

const notYetAnnotation = "pelton-not-yet"

// notYet declares a flag of the public surface that this version does not have.
// Using it is exit code 2, never silence.
func notYet(flags *pflag.FlagSet, name, usage string) {
	flags.String(name, "", usage+" (not supported yet)")
	flags.Lookup(name).Annotations = map[string][]string{notYetAnnotation: nil}
}

func refuseNotYet(flags *pflag.FlagSet) error {
	var err error
	flags.VisitAll(func(f *pflag.Flag) {
		if _, marked := f.Annotations[notYetAnnotation]; marked && f.Changed && err == nil {
			err = usagef("--%s (%s) is not supported yet", f.Name, envName(f.Name))
		}
	})
	return err
}
