// Package freeport finds addresses for programs that tests start and that must be told where
// to listen.
package freeport

import (
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
	"testing"
)

// The ports lie below those that Linux and BSD give to connections and to listeners that name none
// (ip_local_port_range, 32768 and up): such a one, asked for and let go, may be
// somebody's connection by the time that the program listens.
const (
	lowest  = 20000
	highest = 32000
)

// given are ports of this process: one is given once.
var given sync.Map //nolint:gochecknoglobals // the ports are the process's

// Addr is an address of 127.0.0.1 on which nobody listens, and that this process has not been given
// before. Other processes look for theirs at random, too.
func Addr(t testing.TB) string {
	t.Helper()
	for range highest - lowest {
		port := lowest + rand.IntN(highest-lowest) //nolint:gosec // no secret
		if _, taken := given.LoadOrStore(port, struct{}{}); taken {
			continue
		}
		addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
		l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", addr)
		if err != nil {
			continue
		}
		if err := l.Close(); err != nil {
			t.Fatalf("free a port: %v", err)
		}
		return addr
	}
	t.Fatal("no port is free")
	return ""
}
