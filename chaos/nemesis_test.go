package chaos_test

import (
	"testing"
	"time"

	"github.com/peltonq/pelton/chaos/history"
	"github.com/peltonq/pelton/chaos/proxy"
)

// between is a random duration, by the seed.
func (s *suite) between(from, to time.Duration) time.Duration {
	return from + time.Duration(s.rand.Int64N(int64(to-from)+1))
}

// anyone is a random worker.
func (s *suite) anyone() *slot { return s.fleet[s.rand.IntN(len(s.fleet))] }

// crashServer kills the server with its broker and starts it again after a while.
func (s *suite) crashServer(away time.Duration) {
	s.Helper()
	s.fault(history.FaultBegin, "server-kill", history.Everyone)
	s.server.kill()
	s.pause(away)
	s.server.start()
	s.fault(history.FaultEnd, "server-kill", history.Everyone)
}

// halt stops a worker for a while.
func (s *suite) halt(w *slot, d time.Duration) {
	resume := w.halt()
	s.pause(d)
	resume()
}

// newLinkedSuite is newSuite with a proxy between each worker and the broker.
func newLinkedSuite(t *testing.T, p profile) (*suite, []*proxy.Proxy) {
	t.Helper()
	var proxies []*proxy.Proxy
	s := newSuite(t, p, linked(&proxies))
	return s, proxies
}

// linked puts a proxy between each worker and the broker.
func linked(proxies *[]*proxy.Proxy) func(*suite) {
	return func(s *suite) {
		s.link = func() string {
			through, err := proxy.Listen(s.Context(), s.server.nats.here)
			if err != nil {
				s.Fatal(err)
			}
			s.Cleanup(through.Close)
			*proxies = append(*proxies, through)
			return "nats://" + through.Addr()
		}
	}
}

// cut breaks the network of a worker for a while.
func (s *suite) cut(w *slot, p *proxy.Proxy, mode proxy.Mode, d time.Duration) {
	name := w.actorName()
	s.fault(history.FaultBegin, history.NetworkFault+string(mode), name)
	p.Set(mode)
	s.pause(d)
	p.Set(proxy.Pass)
	s.fault(history.FaultEnd, history.NetworkFault+string(mode), name)
	if now := w.actorName(); now != name { // its successor felt it too
		s.fault(history.FaultBegin, history.NetworkFault+string(mode), now)
		s.fault(history.FaultEnd, history.NetworkFault+string(mode), now)
	}
}

// tear kills a worker while half of what it was sending has arrived: the death of a
// machine, where a killed process leaves the rest to its kernel.
func (s *suite) tear(w *slot, p *proxy.Proxy) {
	name := w.actorName()
	s.fault(history.FaultBegin, history.NetworkFault+"tear", name)
	p.Set(proxy.Tear)
	s.pause(20 * time.Millisecond)
	w.crash()
	p.Set(proxy.Reset) // what was held back never was
	p.Set(proxy.Pass)
	s.fault(history.FaultEnd, history.NetworkFault+"tear", name)
}
