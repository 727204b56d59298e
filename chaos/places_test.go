package chaos_test

import (
	"context"
	"net"
	"strconv"

	"github.com/peltonq/pelton/chaos/proxy"
	"github.com/peltonq/pelton/internal/freeport"
)

// ourHost is from where the suite calls the others.
const ourHost = "client"

// place is a host:port where a process listens, and the one by which this process reaches it.
type place struct{ listens, here string }

// place is a place for the process of a name. On a host it is the port; elsewhere the system chooses one.
func (s *suite) place(name string, port int) place {
	s.Helper()
	addr := s.listens(name, port)
	if s.hosts == nil {
		return place{addr, addr}
	}
	way, err := proxy.ListenVia(s.Context(), addr, func(ctx context.Context, to string) (net.Conn, error) {
		return s.hosts.Dial(ctx, ourHost, to)
	})
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(way.Close)
	return place{addr, way.Addr()}
}

// listens is the first half of place.
func (s *suite) listens(name string, port int) string {
	s.Helper()
	if s.hosts == nil {
		return freeport.Addr(s)
	}
	return net.JoinHostPort(s.hosts.Addr(name), strconv.Itoa(port))
}
