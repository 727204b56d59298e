package cli

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/spf13/pflag"
)

// natsFlags say where the broker is, and who we are to it.
type natsFlags struct {
	url   string // several are separated by commas
	token string
	creds credsFile
	tls   natsTLSFlags
}

// register declares the flags. Both is for a command that may also open a broker of
// its own.
func (f *natsFlags) register(flags *pflag.FlagSet, url string, both bool) {
	flags.StringVar(&f.url, "nats", "", url)
	secretVar(flags, &f.token, "nats-token", "token of the broker")
	flags.StringVar((*string)(&f.creds), "nats-creds", "", "`FILE` of credentials, a user's JWT and seed, for the broker at --nats; read again for each connection")
	f.tls.register(flags, both)
}

// check refuses to be two at a time.
func (f *natsFlags) check() error {
	if f.creds != "" && f.token != "" {
		return usagef("--nats-creds and --nats-token exclude each other (%s, %s and their files, too): a broker knows its clients by one or the other",
			envName("nats-creds"), envName("nats-token"))
	}
	return nil
}

// options are those of a connection to a broker elsewhere. What is wrong with the
// flags, or the files that they name, is a usage error.
func (f *natsFlags) options() ([]nats.Option, error) {
	if err := f.check(); err != nil {
		return nil, err
	}
	opts, err := f.tls.options()
	if err != nil {
		return nil, err
	}
	switch {
	case f.token != "":
		opts = append(opts, nats.Token(f.token))
	case f.creds != "":
		if err := f.creds.check(); err != nil {
			return nil, usagef("--nats-creds (%s): %w", envName("nats-creds"), err)
		}
		opts = append(opts, nats.UserJWT(f.creds.jwt, f.creds.sign))
	}
	return opts, nil
}

// credsFile is the path of a file as "nsc generate creds" writes it: a user's JWT, and
// the seed of the key that proves it. It is read whenever a connection is made, so that a
// renewed one is used at the next, and the seed does not stay in memory. Where it
// cannot be read then, the connection is tried again as if the broker were away.
type credsFile string

var errNoCreds = errors.New("it does not hold a user's JWT and seed, as \"nsc generate creds\" writes them")

// read calls use with what the file says, as options of a connection.
func (c credsFile) read(use func(*nats.Options) error) error {
	in, err := os.Open(string(c))
	if err != nil {
		return err //nolint:wrapcheck // it names the file
	}
	defer func() { _ = in.Close() }() // only read
	text, err := io.ReadAll(io.LimitReader(in, maxSecret+1))
	defer clear(text)
	switch {
	case err != nil:
		return err //nolint:wrapcheck // it names the file
	case len(text) > maxSecret:
		return fmt.Errorf("%s is longer than %d bytes", c, maxSecret)
	}
	var user nats.Options
	err = nats.UserCredentialBytes(text)(&user)
	if err == nil {
		err = use(&user)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", c, err)
	}
	return nil
}

// check reports whether the file is one. Whether the broker takes it, it says itself.
func (c credsFile) check() error {
	return c.read(func(user *nats.Options) error {
		jwt, err := user.UserJWT()
		if err != nil || !isUserJWT(jwt) {
			return errNoCreds
		}
		if _, err := user.SignatureCB(nil); err != nil {
			return errNoCreds
		}
		return nil
	})
}

func (c credsFile) jwt() (jwt string, err error) {
	err = c.read(func(user *nats.Options) (err error) {
		jwt, err = user.UserJWT()
		return err
	})
	return jwt, err
}

func (c credsFile) sign(nonce []byte) (signature []byte, err error) {
	err = c.read(func(user *nats.Options) (err error) {
		signature, err = user.SignatureCB(nonce)
		return err
	})
	return signature, err
}

// isUserJWT reports whether a text has the form of a JWT whose subject is a user's
// public key. Who has signed it is the broker's question.
func isUserJWT(text string) bool {
	parts := strings.Split(text, ".")
	if len(parts) != 3 {
		return false
	}
	var claims struct {
		Subject string `json:"sub"`
	}
	raw, err := base64.RawURLEncoding.DecodeString(parts[1])
	return err == nil && json.Unmarshal(raw, &claims) == nil && strings.HasPrefix(claims.Subject, "U")
}
