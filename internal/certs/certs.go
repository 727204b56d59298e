// Package certs is the TLS of a server whose certificates are files: they are read
// again when they change, without a restart. A change that cannot be used is logged, and
// what was read before stays in use.
package certs

import (
	"crypto/sha256"
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
	used   sums // of what is in use
	failed sums // of what could not be used
	config *tls.Config
}

// sums tell one content of the three files from another; of no file, or one that cannot be
// read, the sum is zero. Times of change would not do: two changes within one tick of the
// file system's clock, milliseconds, have the same.
type sums [3][sha256.Size]byte

// Open reads the files. protos are those to negotiate, such as h2; none for none.
func Open(files Files, log *slog.Logger, protos ...string) (*Source, error) {
	if err := files.Check(); err != nil {
		return nil, err
	}
	s := &Source{files: files, log: log, protos: protos, looked: time.Now(), used: files.sums()}
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
	found := s.files.sums()
	if found == s.used || found == s.failed {
		return s.config
	}
	config, err := s.load()
	if err != nil {
		s.failed = found
		s.log.Error("changed certificate cannot be used, the one before stays in use", slog.String("file", s.files.Cert), slog.Any("error", err))
		return s.config
	}
	s.config, s.used, s.failed = config, found, sums{}
	s.log.Info("certificate read again", slog.String("file", s.files.Cert))
	return config
}

func (f Files) sums() (all sums) {
	for i, name := range []string{f.Cert, f.Key, f.ClientCA} {
		if text, err := os.ReadFile(name); err == nil { //nolint:gosec // the operator names it
			all[i] = sha256.Sum256(text)
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
