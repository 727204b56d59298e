package cli

import (
	"crypto/tls"
	"log/slog"

	"github.com/nats-io/nats.go"
	"github.com/spf13/pflag"

	"github.com/peltonq/pelton/internal/certs"
)

// apiTLSFlags are the TLS of the API, as a server.
type apiTLSFlags struct{ files certs.Files }

func (f *apiTLSFlags) register(flags *pflag.FlagSet) {
	flags.StringVar(&f.files.Cert, "tls-cert", "", "certificate of the API: a PEM `file`, read again when it changes")
	flags.StringVar(&f.files.Key, "tls-key", "", "its key: a PEM `file`")
	flags.StringVar(&f.files.ClientCA, "tls-client-ca", "", "ask callers for a certificate of these authorities: a PEM `file`")
}

// config is nil without TLS.
func (f *apiTLSFlags) config(log *slog.Logger) (*tls.Config, error) {
	if f.files == (certs.Files{}) {
		return nil, nil //nolint:nilnil // no TLS is no error
	}
	source, err := certs.Open(f.files, log, "h2", "http/1.1")
	if err != nil {
		return nil, usagef("--tls-cert, --tls-key, --tls-client-ca: %w", err)
	}
	return source.Server(), nil
}

// scheme is how the API is reached.
func (f *apiTLSFlags) scheme() string {
	if f.files.Cert != "" {
		return "https"
	}
	return "http"
}

// natsTLSFlags are the TLS of the broker: of one in this process, what its clients see;
// of one elsewhere, what it sees.
type natsTLSFlags struct {
	cert, key, ca string
}

func (f *natsTLSFlags) register(flags *pflag.FlagSet, both bool) {
	cert, ca := "certificate to show to the broker", "authorities of the broker's certificate; those of the system without"
	if both {
		cert = "certificate of --nats-listen, or to show to the broker at --nats"
		ca = "authorities of those who connect to --nats-listen, or of the certificate of the broker at --nats"
	}
	flags.StringVar(&f.cert, "nats-tls-cert", "", cert+": a PEM `file`")
	flags.StringVar(&f.key, "nats-tls-key", "", "its key: a PEM `file`")
	flags.StringVar(&f.ca, "nats-tls-ca", "", ca+": a PEM `file`")
}

func (f *natsTLSFlags) given() bool { return *f != natsTLSFlags{} }

// server is the TLS of an embedded broker's port; nil without.
func (f *natsTLSFlags) server(log *slog.Logger) (*tls.Config, error) {
	if !f.given() {
		return nil, nil //nolint:nilnil // no TLS is no error
	}
	source, err := certs.Open(certs.Files{Cert: f.cert, Key: f.key, ClientCA: f.ca}, log)
	if err != nil {
		return nil, usagef("--nats-tls-cert, --nats-tls-key, --nats-tls-ca: %w", err)
	}
	return source.Server(), nil
}

// options are those of a connection to a broker elsewhere. The files are read for each
// connection that is made.
func (f *natsTLSFlags) options() ([]nats.Option, error) {
	var opts []nats.Option
	if !f.given() {
		return nil, nil
	}
	if (f.cert == "") != (f.key == "") {
		return nil, usagef("--nats-tls-cert and --nats-tls-key belong together")
	}
	opts = append(opts, nats.Secure(&tls.Config{MinVersion: tls.VersionTLS12}))
	if f.ca != "" {
		opts = append(opts, nats.RootCAs(f.ca))
	}
	if f.cert != "" {
		opts = append(opts, nats.ClientCert(f.cert, f.key))
	}
	return opts, nil
}

// clientTLSFlags are the TLS of the API, as its client.
type clientTLSFlags struct {
	ca, cert, key string
}

func (f *clientTLSFlags) register(flags *pflag.FlagSet) {
	flags.StringVar(&f.ca, "tls-ca", "", "authorities of the API's certificate: a PEM `file`; those of the system without")
	flags.StringVar(&f.cert, "tls-client-cert", "", "certificate to show to the API: a PEM `file`")
	flags.StringVar(&f.key, "tls-client-key", "", "its key: a PEM `file`")
}

func (f *clientTLSFlags) config() (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	var err error
	if f.ca != "" {
		if config.RootCAs, err = certs.ReadPool(f.ca); err != nil {
			return nil, usagef("--tls-ca: %w", err)
		}
	}
	switch {
	case (f.cert == "") != (f.key == ""):
		return nil, usagef("--tls-client-cert and --tls-client-key belong together")
	case f.cert != "":
		cert, err := tls.LoadX509KeyPair(f.cert, f.key)
		if err != nil {
			return nil, usagef("--tls-client-cert %s, --tls-client-key %s: %w", f.cert, f.key, err)
		}
		config.Certificates = []tls.Certificate{cert}
	}
	return config, nil
}
