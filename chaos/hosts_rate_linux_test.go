package chaos_test

import (
	"fmt"
	"net"
	"net/http"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/chaos/history"
	"github.com/peltonq/pelton/chaos/hosts"
	"github.com/peltonq/pelton/internal/redistest"
)

const (
	redisHost = "redis"
	redisPort = "6379"
)

// count runs the Redis that servers and workers count rates in.
func (x *site) count() {
	x.Helper()
	addr := x.net.Addr(redisHost)
	p := x.launch(redisHost, nil, "redis-server", "--bind", addr, "--port", redisPort, "--dir", x.TempDir(), "--save", "", "--appendonly", "no", "--protected-mode", "no")
	x.Cleanup(func() {
		if err := p.signal(syscall.SIGKILL); err != nil {
			x.Error(err)
		}
		<-p.done
	})
	x.eventually("redis answers", 20*time.Second, func() bool {
		if p.ended() {
			x.Fatalf("redis-server ended with %d, see %s", p.code, p.log)
		}
		_, err := x.clientsOfRedis()
		return err == nil
	})
}

// clientsOfRedis is how many connections others have to it.
func (x *site) clientsOfRedis() (int, error) {
	conn, err := x.net.Dial(x.Context(), ourHost, net.JoinHostPort(x.net.Addr(redisHost), redisPort))
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	return redistest.Clients(conn)
}

// Workers on four hosts keep one rate together, which a Redis on a fifth counts. One that cannot reach
// it for a while goes on with its share, a quarter, and all tasks run.
func TestHostsRate(t *testing.T) {
	s := newSite(t, clusterProfile(t))
	const (
		rate, burst, tasks = 40, 5, 240
		away               = 2 * time.Second
	)
	s.change(http.MethodPatch, "/queues/default", fmt.Sprintf(`{"rate":{"limit":%d,"per":"1s","burst":%d}}`, rate, burst))
	var ids []pelton.ID
	for range tasks {
		ids = append(ids, s.producer.must(order{kind: "chaos.quick", bare: true}))
	}
	lonely := s.fleet[0]
	way := s.net.Between([]string{lonely.name}, []string{redisHost})
	s.lose(hosts.All, way)
	s.pause(away)
	s.lose(0, way)
	s.producer.finish(time.Minute, ids...)
	if n, err := s.clientsOfRedis(); err != nil || n < len(s.fleet) {
		t.Errorf("redis has %d clients, want one of each of %d workers: %v", n, len(s.fleet), err)
	}
	starts := s.starts(ids)
	if len(starts) < tasks {
		t.Fatalf("%d tasks started %d times", tasks, len(starts))
	}
	// Nothing that delays a start makes this shorter. If each counted for itself it would be a quarter of that.
	took := time.Duration(starts[len(starts)-1] - starts[0])
	least := time.Duration(float64(tasks-2*burst) / (rate * 1.25) * float64(time.Second))
	t.Logf("%d tasks at %d a second started within %s, at least %s are allowed", tasks, rate, took, least)
	if took < least {
		t.Errorf("%d tasks at %d a second started within %s: must take %s", tasks, rate, took, least)
	}
	s.healed()
	if c := s.judge().Counts; c.Succeeded != c.Accepted {
		t.Errorf("want all tasks to succeed: %s", c)
	}
}

// starts are the times at which handlers of the tasks began, in order.
func (s *suite) starts(ids []pelton.ID) (at []int64) {
	s.Helper()
	events, _, err := history.ReadDir(s.dir)
	if err != nil {
		s.Fatal(err)
	}
	of := make(map[pelton.ID]bool, len(ids))
	for _, id := range ids {
		of[id] = true
	}
	for _, e := range events {
		if e.Kind == history.RunStart && of[e.Task] {
			at = append(at, e.At)
		}
	}
	slices.Sort(at)
	return at
}
