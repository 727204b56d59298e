// Package certs is the TLS of a server whose certificates are files: they are read
// again when they change, without a restart. A change that cannot be used is logged, and
// what was read before stays in use.
package certs

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"
)

// lookEvery is how often, at most, handshakes look whether a file has changed.
const lookEvery = time.Second

// Files name what a server shows, and by whom clients must be vouched for, in PEM.
type Files struct {
	Cert, Key string
	// ClientCA are authorities of clients. Without them, no client certificate is asked for.
	ClientCA string
}

// Check reports files that make no sense together. None at all are no TLS.
func (f Files) Check() error {
	switch {
	case (f.Cert == "") != (f.Key == ""):
		return errors.New("a certificate needs its key, and a key its certificate")
	case f.ClientCA != "" && f.Cert == "":
		return errors.New("authorities of clients need a certificate of the server")
	default:
		return nil
	}
}

// Source is the TLS configuration that the files make. It is safe for concurrent use.
type Source struct {
	files  Files
	log    *slog.Logger
	protos []string

	mu     sync.Mutex
	looked time.Time
	stamps [3]stamp // of what is in use
	failed [3]stamp // of what could not be used
	config *tls.Config
}

// stamp tells one content of a file from another, well enough: programs that renew
// certificates write new files.
type stamp struct {
	changed time.Time
	size    int64
	missing bool
}

// Open reads the files. protos are those to negotiate, such as h2; none for none.
func Open(files Files, log *slog.Logger, protos ...string) (*Source, error) {
	if err := files.Check(); err != nil {
		return nil, err
	}
	s := &Source{files: files, log: log, protos: protos, looked: time.Now(), stamps: files.stamps()}
	var err error
	s.config, err = s.load()
	return s, err
}

// Server is a configuration whose certificates follow the files. TLS 1.2 is the least.
func (s *Source) Server() *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS12,
		NextProtos:         s.protos,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return s.current(), nil },
	}
}

// current is the configuration for a handshake that begins now.
func (s *Source) current() *tls.Config {
	s.mu.Lock()
	defer s.mu.Unlock()
	if time.Since(s.looked) < lookEvery {
		return s.config
	}
	s.looked = time.Now()
	stamps := s.files.stamps()
	if stamps == s.stamps || stamps == s.failed {
		return s.config
	}
	config, err := s.load()
	if err != nil {
		s.failed = stamps
		s.log.Error("changed certificate cannot be used, the one before stays in use", slog.String("file", s.files.Cert), slog.Any("error", err))
		return s.config
	}
	s.config, s.stamps, s.failed = config, stamps, [3]stamp{}
	s.log.Info("certificate read again", slog.String("file", s.files.Cert))
	return config
}

func (f Files) stamps() (all [3]stamp) {
	for i, name := range []string{f.Cert, f.Key, f.ClientCA} {
		if info, err := os.Stat(name); err == nil {
			all[i] = stamp{changed: info.ModTime(), size: info.Size()}
		} else {
			all[i] = stamp{missing: true}
		}
	}
	return all
}

func (s *Source) load() (*tls.Config, error) {
	cert, err := tls.LoadX509KeyPair(s.files.Cert, s.files.Key)
	if err != nil {
		return nil, fmt.Errorf("read certificate %s and key %s: %w", s.files.Cert, s.files.Key, err)
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: s.protos, Certificates: []tls.Certificate{cert}}
	if s.files.ClientCA == "" {
		return config, nil
	}
	if config.ClientCAs, err = ReadPool(s.files.ClientCA); err != nil {
		return nil, err
	}
	config.ClientAuth = tls.RequireAndVerifyClientCert
	config.SessionTicketsDisabled = true // a session of before must not outlive its authority
	return config, nil
}

// ReadPool reads certificates of authorities.
func ReadPool(file string) (*x509.CertPool, error) {
	text, err := os.ReadFile(file) //nolint:gosec // the operator names it
	if err != nil {
		return nil, fmt.Errorf("read authorities: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("read authorities: %s has no certificate in PEM", file)
	}
	return pool, nil
}
