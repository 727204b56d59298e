// Package certstest makes authorities and certificates for tests.
package certstest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// Authority vouches for certificates.
type Authority struct {
	File string // its own, in PEM

	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// New makes an authority whose certificate is in dir.
func New(t testing.TB, dir, name string) *Authority {
	t.Helper()
	a := &Authority{File: filepath.Join(dir, name+".pem")}
	form := template(name)
	form.IsCA, form.KeyUsage, form.BasicConstraintsValid = true, x509.KeyUsageCertSign, true
	a.key = newKey(t)
	der, err := x509.CreateCertificate(rand.Reader, form, form, a.key.Public(), a.key)
	check(t, err)
	a.cert, err = x509.ParseCertificate(der)
	check(t, err)
	write(t, a.File, "CERTIFICATE", der)
	return a
}

// Issue writes a certificate for localhost, 127.0.0.1 and ::1, good for servers and clients, and its key.
func (a *Authority) Issue(t testing.TB, certFile, keyFile, name string) {
	t.Helper()
	form := template(name)
	form.DNSNames, form.IPAddresses = []string{"localhost"}, []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}
	form.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	key := newKey(t)
	der, err := x509.CreateCertificate(rand.Reader, form, a.cert, key.Public(), a.key)
	check(t, err)
	write(t, certFile, "CERTIFICATE", der)
	der, err = x509.MarshalECPrivateKey(key)
	check(t, err)
	write(t, keyFile, "EC PRIVATE KEY", der)
}

// Client is a client's configuration that trusts the authority and shows a certificate,
// if one is named.
func (a *Authority) Client(t testing.TB, certFile, keyFile string) *tls.Config {
	t.Helper()
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	config := &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	if certFile != "" {
		cert, err := tls.LoadX509KeyPair(certFile, keyFile)
		check(t, err)
		config.Certificates = []tls.Certificate{cert}
	}
	return config
}

func template(name string) *x509.Certificate {
	serial, _ := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 100)) // never fails
	return &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	return key
}

// write replaces a file as a whole, as programs do that renew certificates.
func write(t testing.TB, file, kind string, der []byte) {
	t.Helper()
	check(t, os.WriteFile(file+".new", pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
	check(t, os.Rename(file+".new", file))
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
