package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/pflag"
)

// maxSecret is how long a secret in a file may be, in bytes.
const maxSecret = 64 << 10

const secretAnnotation = "pelton-secret"

// secretVar declares a flag for a secret, --NAME, and --NAME-file for the file that
// holds it. Its value is never shown.
func secretVar(flags *pflag.FlagSet, value *string, name, usage string) {
	flags.StringVar(value, name, "", usage+"; better given as "+envName(name)+" or --"+name+"-file")
	flags.Lookup(name).Annotations = map[string][]string{secretAnnotation: nil}
	flags.String(name+"-file", "", "`FILE` that holds what --"+name+" would say")
}

func isSecret(f *pflag.Flag) bool {
	_, secret := f.Annotations[secretAnnotation]
	return secret
}

// readSecrets reads the files of secrets. The one that wins over the other counts, as
// a flag does over a variable; both in the same place are an error.
func readSecrets(flags *pflag.FlagSet, origins map[string]origin) error {
	var err error
	flags.VisitAll(func(f *pflag.Flag) {
		file := flags.Lookup(f.Name + "-file")
		if err != nil || !isSecret(f) || file == nil || !file.Changed {
			return
		}
		direct, byFile := origins[f.Name], origins[file.Name]
		switch {
		case direct.layer > byFile.layer:
			return
		case direct.layer == byFile.layer:
			err = usagef("%s and %s exclude each other", direct.place, byFile.place)
			return
		}
		var secret string
		if secret, err = readSecret(file.Value.String()); err != nil {
			err = usagef("%s: %w", byFile, err)
			return
		}
		if err = f.Value.Set(secret); err == nil {
			f.Changed, origins[f.Name] = true, byFile
		}
	})
	return err
}

// readSecret is the text of a file without the line feed at its end.
func readSecret(path string) (string, error) {
	in, err := os.Open(path) //nolint:gosec // the user names the file
	if err != nil {
		return "", err
	}
	defer func() { _ = in.Close() }() // only read
	text, err := io.ReadAll(io.LimitReader(in, maxSecret+1))
	if err != nil {
		return "", err
	}
	text = bytes.TrimRight(text, "\r\n")
	switch {
	case len(text) == 0:
		return "", fmt.Errorf("%s is empty", path)
	case len(text) > maxSecret:
		return "", fmt.Errorf("%s is longer than %d bytes", path, maxSecret)
	case bytes.ContainsAny(text, "\r\n\x00"):
		return "", errors.New(path + " has more than one line")
	}
	return string(text), nil
}
