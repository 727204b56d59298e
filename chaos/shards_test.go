package chaos_test

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/peltonq/pelton/internal/failpoint"
)

// withGrowth lets a server that makes more shards die once when the first of their streams is there, and once
// when all are, before anybody was told. It passes neither while it makes none.
func withGrowth(s *suite) {
	s.built = instrumented
	s.serverPoints = newPoints(rand.New(rand.NewPCG(s.rand.Uint64(), 6)), 1, failpoint.ShardsReady, failpoint.ShardMade)
}

// An installation that is in use becomes four shards, by a server that dies twice on the way, and then workers and
// the server die all the time: tasks of all shards, of before and after, keep every promise, and keys their order.
func TestShards(t *testing.T) {
	t.Parallel()
	p := theProfile()
	p.keys = 6
	p.shards = 4
	s := newSuite(t, p, withGrowth)
	s.while(p.tasks, p.mixed/time.Duration(p.tasks), func() {
		s.pause(p.mixed / 8)
		s.server.with("--shards", "4")
		s.crashServer(0)
		for began := time.Now(); ; {
			for range 3 {
				s.pause(s.between(100*time.Millisecond, 700*time.Millisecond))
				s.anyone().crash()
			}
			s.halt(s.anyone(), s.between(p.lease/2, 2*p.lease))
			s.crashServer(s.between(0, p.lease/2))
			if time.Since(began) > p.mixed {
				break
			}
		}
	})
	late := make(map[uint8]int)
	for range 5 * p.shards { // also where all of those before came before the growth
		late[s.producer.must(order{kind: "chaos.quick"}).Shard()]++
	}
	s.healed()
	report := s.judge()
	if missing := s.serverPoints.missing(); len(missing) > 0 {
		t.Errorf("nobody died at %v", missing)
	}
	for shard := range uint8(p.shards) {
		if late[shard] < 5 {
			t.Errorf("shard %d has %d of the last tasks: %v", shard, late[shard], late)
		}
	}
	if c := report.Counts; c.Faults["kill"] == 0 || c.MostPerKey != 1 {
		t.Errorf("want kills, and one of a key at a time: %s", c)
	}
}
