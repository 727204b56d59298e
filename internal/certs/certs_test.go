package certs

import (
	"bytes"
	"crypto/tls"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/peltonq/pelton/internal/certs/certstest"
)

// handshake gives the name of the server's certificate, over a connection of its own.
func handshake(t *testing.T, server *tls.Config, client *tls.Config) (name string, version uint16, err error) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0") // a pipe has no buffer, on which alerts are lost
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
		over := tls.Server(conn, server)
		if over.Handshake() == nil {
			_, _ = over.Write([]byte("x"))
		}
	}()
	defer func() { <-done }()
	conn, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	client = client.Clone()
	client.ServerName = "localhost"
	over := tls.Client(conn, client)
	if err := over.Handshake(); err != nil {
		return "", 0, err
	}
	if _, err := over.Read(make([]byte, 1)); err != nil { // TLS 1.3 tells of a refused client only here
		return "", 0, err
	}
	state := over.ConnectionState()
	return state.PeerCertificates[0].Subject.CommonName, state.Version, nil
}

type files struct {
	Files
	dir string
}

func newFiles(t *testing.T) files {
	dir := t.TempDir()
	return files{Files{Cert: filepath.Join(dir, "cert.pem"), Key: filepath.Join(dir, "key.pem")}, dir}
}

// again lets the next handshake look at the files.
func (s *Source) again() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.looked = time.Time{}
}

type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func TestChangedCertificateIsUsed(t *testing.T) {
	t.Parallel()
	f := newFiles(t)
	ca := certstest.New(t, f.dir, "ca")
	ca.Issue(t, f.Cert, f.Key, "first")
	var log lockedBuffer
	s, err := Open(f.Files, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	want := func(name string) {
		t.Helper()
		if got, _, err := handshake(t, s.Server(), ca.Client(t, "", "")); err != nil || got != name {
			t.Errorf("%q, %v, want %q", got, err, name)
		}
	}
	want("first")
	ca.Issue(t, f.Cert, f.Key, "second")
	s.again()
	want("second")

	// A half change is none, and is told of once, even within one tick of the file system's clock.
	info, err := os.Stat(f.Key)
	if err != nil {
		t.Fatal(err)
	}
	ca.Issue(t, filepath.Join(f.dir, "other.pem"), f.Key, "third")
	if err := os.Chtimes(f.Key, time.Time{}, info.ModTime()); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		s.again()
		want("second")
	}
	if got := strings.Count(log.String(), "cannot be used"); got != 1 {
		t.Errorf("told %d times: %s", got, &log)
	}
	if err := os.Rename(filepath.Join(f.dir, "other.pem"), f.Cert); err != nil {
		t.Fatal(err)
	}
	s.again()
	want("third")
	if err := os.Remove(f.Cert); err != nil {
		t.Fatal(err)
	}
	s.again()
	want("third")
}

func TestOldProtocolsAreRefused(t *testing.T) {
	t.Parallel()
	f := newFiles(t)
	ca := certstest.New(t, f.dir, "ca")
	ca.Issue(t, f.Cert, f.Key, "server")
	s, err := Open(f.Files, slog.New(slog.DiscardHandler), "h2")
	if err != nil {
		t.Fatal(err)
	}
	for version, ok := range map[uint16]bool{tls.VersionTLS10: false, tls.VersionTLS11: false, tls.VersionTLS12: true, tls.VersionTLS13: true} {
		client := ca.Client(t, "", "")
		client.MinVersion, client.MaxVersion = version, version
		if _, got, err := handshake(t, s.Server(), client); (err == nil) != ok || ok && got != version {
			t.Errorf("%s: %v", tls.VersionName(version), err)
		}
	}
}

func TestClientsAreAskedForCertificates(t *testing.T) {
	t.Parallel()
	f := newFiles(t)
	ca, clients, others := certstest.New(t, f.dir, "ca"), certstest.New(t, f.dir, "clients"), certstest.New(t, f.dir, "others")
	ca.Issue(t, f.Cert, f.Key, "server")
	cert, key := filepath.Join(f.dir, "client.pem"), filepath.Join(f.dir, "client-key.pem")
	f.ClientCA = filepath.Join(f.dir, "in-use.pem")
	use := func(a *certstest.Authority) {
		text, err := os.ReadFile(a.File)
		if err == nil {
			err = os.WriteFile(f.ClientCA, text, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	use(clients)
	s, err := Open(f.Files, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := handshake(t, s.Server(), ca.Client(t, "", "")); err == nil {
		t.Error("without a certificate")
	}
	others.Issue(t, cert, key, "stranger")
	if _, _, err := handshake(t, s.Server(), ca.Client(t, cert, key)); err == nil {
		t.Error("with one of another authority")
	}
	clients.Issue(t, cert, key, "client")
	client := ca.Client(t, cert, key)
	client.ClientSessionCache = tls.NewLRUClientSessionCache(10)
	for range 2 {
		if _, _, err := handshake(t, s.Server(), client); err != nil {
			t.Errorf("with the right one: %v", err)
		}
	}
	// An authority that is taken away takes its clients along, with sessions of before too.
	use(others)
	s.again()
	if _, _, err := handshake(t, s.Server(), client); err == nil {
		t.Error("its authority was taken away")
	}
}

func TestBadFiles(t *testing.T) {
	t.Parallel()
	f := newFiles(t)
	certstest.New(t, f.dir, "ca").Issue(t, f.Cert, f.Key, "server")
	for name, bad := range map[string]Files{
		"no key":      {Cert: f.Cert},
		"no cert":     {Key: f.Key},
		"only CA":     {ClientCA: f.Cert},
		"no such":     {Cert: f.Cert + "x", Key: f.Key},
		"not a key":   {Cert: f.Cert, Key: f.Cert},
		"CA is none":  {Cert: f.Cert, Key: f.Key, ClientCA: f.Key},
		"no CA there": {Cert: f.Cert, Key: f.Key, ClientCA: f.Key + "x"},
	} {
		if _, err := Open(bad, slog.New(slog.DiscardHandler)); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
