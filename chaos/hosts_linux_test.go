package chaos_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/chaos/history"
	"github.com/peltonq/pelton/chaos/hosts"
	"github.com/peltonq/pelton/internal/nginxtest"
)

// site is a suite whose processes have hosts of their own: three brokers, two servers behind nginx,
// four workers, a Redis that counts rates, and the suite itself as a client.
type site struct {
	*suite
	net     *hosts.Network
	workers []string
	front   nginxtest.Config
}

// newSite is newSuite on hosts. Where there can be none the test is skipped, aloud.
func newSite(t *testing.T, p profile, options ...func(*suite)) *site {
	t.Helper()
	require := os.Getenv("PELTON_TEST_REQUIRE") == "1"
	for _, program := range []string{"nginx", "redis-server"} {
		if _, err := exec.LookPath(program); err != nil {
			if require {
				t.Fatal(program + " is missing: run scripts/deps.sh")
			}
			t.Skip(program + " is not installed")
		}
	}
	x := &site{}
	names := []string{"n1", "n2", "n3", "server", "replica", "nginx", redisHost, ourHost}
	p.workers, p.serve = 4, []string{"--insecure"} // the network is the test's alone
	for i := range p.workers {
		x.workers = append(x.workers, fmt.Sprintf("w%d", i+1))
	}
	var err error
	x.net, err = hosts.New(t.Context(), append(names, x.workers...)...)
	switch {
	case errors.Is(err, hosts.ErrNoHosts) && !require:
		t.Skip(err)
	case err != nil:
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := x.net.Close(); err != nil {
			t.Error(err)
		}
	})
	p.redis = "redis://" + net.JoinHostPort(x.net.Addr(redisHost), redisPort)
	p.serve = append(p.serve, "--trusted-proxies", x.net.Addr("nginx"), "--redis", p.redis)
	x.suite = newSuite(t, p, append(options, func(s *suite) { s.hosts = x.net })...)
	x.count()
	x.balance()
	return x
}

// balance runs nginx, by which the producer calls the servers from now on.
func (x *site) balance() {
	x.Helper()
	front := x.place("nginx", 8080)
	x.front = nginxtest.Write(x.T, front.listens, [2]string{x.server.http.listens, x.replica.http.listens})
	p := x.launch("nginx", nil, "nginx", "-c", x.front.Path)
	x.Cleanup(func() {
		if err := p.signal(syscall.SIGTERM); err != nil { // SIGKILL would leave its workers behind
			x.Error(err)
		}
		<-p.done
	})
	x.eventually("nginx leads to a server", 20*time.Second, func() bool {
		if p.ended() {
			x.Fatalf("nginx ended with %d, see %s", p.code, p.log)
		}
		return ready(front.here, http.StatusOK)
	})
	x.producer.base = "http://" + front.here
}

// lose is hosts.Network.Lose, in the middle of a test.
func (x *site) lose(percent int, links []hosts.Link) {
	x.Helper()
	if err := x.net.Lose(percent, links...); err != nil {
		x.Fatal(err)
	}
}

// around is everything that goes to and from a host, but not what the suite asks.
func (x *site) around(host string) []hosts.Link {
	return x.net.Between([]string{host}, x.net.Others(ourHost, host))
}

// both reads a task from each server and says what it is.
func (x *site) both(id pelton.ID) (tasks []*pelton.Task) {
	x.Helper()
	for _, v := range []*server{x.server, x.replica} {
		x.eventually("the "+v.name+" says what task "+id.String()+" is", 10*time.Second, func() bool {
			task := x.producer.getFrom("http://"+v.http.here, id, "") // the history tells of a 404
			if task != nil {
				tasks = append(tasks, task)
			}
			return task != nil
		})
	}
	return tasks
}

// requests are the answers that nginx got to POST, by server.
func (x *site) requests() map[string]int {
	x.Helper()
	text, err := os.ReadFile(x.front.Log)
	if err != nil {
		x.Fatal(err)
	}
	accepted := make(map[string]int)
	for line := range strings.Lines(string(text)) {
		var one struct {
			Method   string `json:"method"`
			Status   int    `json:"status"`
			Upstream string `json:"upstream"`
		}
		if err := json.Unmarshal([]byte(line), &one); err != nil {
			x.Fatalf("log of nginx: %v: %s", err, line)
		}
		if one.Method == http.MethodPost && one.Status == http.StatusAccepted {
			accepted[one.Upstream]++
		}
	}
	return accepted
}

// On hosts of their own all of it works: what either server accepts behind nginx, both know at once, and it
// runs.
func TestHosts(t *testing.T) {
	s := newSite(t, clusterProfile(t))
	s.producer.must(order{kind: "chaos.quick"}) // the lane is there
	var posting sync.WaitGroup
	for range 4 {
		posting.Go(func() {
			for i := range 25 {
				o := order{kind: "chaos.sleep", ms: 20, bare: true}
				if i%2 == 0 {
					o.delay = 200 * time.Millisecond // it has a record from the start
				}
				s.both(s.producer.must(o))
			}
		})
	}
	posting.Wait()
	if by := s.requests(); by[s.server.http.listens] < 20 || by[s.replica.http.listens] < 20 {
		t.Errorf("nginx led to the servers unevenly: %v", by)
	}
	s.healed()
	if c := s.judge().Counts; c.Accepted < 101 || c.Succeeded != c.Accepted {
		t.Errorf("want 101 tasks that all succeed: %s", c)
	}
}

// A worker whose host is cut off for longer than its lease: what it had runs elsewhere within the lease and
// five seconds, and when it is back it changes nothing, neither by what it sent into the void nor by
// handlers that end only now and say that all is well.
func TestHostsWorkerCut(t *testing.T) {
	p := clusterProfile(t)
	p.lease = 6 * time.Second // so that two of them are more than one and five seconds
	s := newSite(t, p)
	const deafFor = 13 * time.Second
	long := make(map[pelton.ID]bool)
	var ids []pelton.ID
	for i := range 20 { // of 32 slots
		o := order{kind: "chaos.deaf", times: 1, ms: 2500} // it ends while its worker is cut off and does not know that yet
		if i%3 == 0 {                                      // workers get them in turns: each has some of both
			o.ms = int(deafFor.Milliseconds())
		}
		id := s.producer.must(o)
		ids, long[id] = append(ids, id), i%3 == 0
	}
	s.eventually("all run", 10*time.Second, func() bool { return s.allRun(ids) })
	lost := s.partlyBusy(long)
	name := lost.actorName()
	cut := history.Now()
	s.fault(history.FaultBegin, history.NetworkFault+"cut", name)
	s.lose(hosts.All, s.around(lost.name))
	cutOff := s.open(name)
	var theirs []pelton.ID
	for id := range cutOff {
		theirs = append(theirs, id)
	}
	s.producer.finish(p.lease+20*time.Second, theirs...)
	before := make(map[pelton.ID]uint64)
	for _, id := range theirs {
		before[id] = s.producer.get(id, "").Revision
	}
	back := history.Now()
	s.lose(0, s.around(lost.name))
	s.eventually("its handlers have ended", deafFor+10*time.Second, func() bool { return len(s.open(name)) == 0 })
	s.fault(history.FaultEnd, history.NetworkFault+"cut", name)
	for _, id := range theirs {
		for _, task := range s.both(id) {
			if task.Revision != before[id] || task.State != pelton.Succeeded {
				t.Errorf("task %s is %s at revision %d, it was at %d before the worker was back", id, task.State, task.Revision, before[id])
			}
		}
	}
	s.elsewhere(name, cutOff, cut, back)
	s.healed()
	report := s.judge()
	t.Logf("%d tasks were cut off, %d ran twice", len(theirs), report.Counts.Duplicates)
}

// partlyBusy is the worker that has the most to do of those that have tasks of both sorts, and a free slot: it
// asks for more when it is cut off.
func (s *suite) partlyBusy(sorts map[pelton.ID]bool) (found *slot) {
	s.Helper()
	most := 0
	for _, w := range s.fleet {
		open := s.open(w.actorName())
		n := map[bool]int{}
		for id := range open {
			n[sorts[id]]++
		}
		if n[true] > 0 && n[false] > 0 && len(open) < s.concurrency && len(open) > most {
			found, most = w, len(open)
		}
	}
	if found == nil {
		s.Fatal("no worker has tasks of both sorts and a free slot")
	}
	return found
}

// elsewhere looks at the runs of tasks whose worker was cut off: each ran on another one within the lease and
// five seconds; some handlers of the one ended well before it was back and some after that, so that something
// could have been changed.
func (s *suite) elsewhere(name string, tasks map[pelton.ID]bool, cut, back int64) {
	s.Helper()
	events, _, err := history.ReadDir(s.dir)
	if err != nil {
		s.Fatal(err)
	}
	again := make(map[pelton.ID]time.Duration)
	early, late := 0, 0
	for _, e := range events {
		switch {
		case !tasks[e.Task] || e.At < cut:
		case e.Kind == history.RunStart && e.Actor != name && again[e.Task] == 0:
			again[e.Task] = time.Duration(e.At - cut)
		case e.Kind == history.RunEnd && e.Actor == name && e.Outcome == history.OK && e.At < back:
			early++
		case e.Kind == history.RunEnd && e.Actor == name && e.Outcome == history.OK:
			late++
		}
	}
	var longest time.Duration
	for id := range tasks {
		switch took := again[id]; {
		case took == 0:
			s.Errorf("task %s ran nowhere else", id)
		case took > s.lease+5*time.Second:
			s.Errorf("task %s ran again %s after its worker was cut off, want within %s", id, took, s.lease+5*time.Second)
		default:
			longest = max(longest, took)
		}
	}
	if early == 0 || late == 0 {
		s.Errorf("%d handlers ended while their worker was cut off and %d when it was back: want some of each", early, late)
	}
	s.Logf("%d tasks ran again within %s; %d handlers had ended before the network was back, %d after that", len(again), longest, early, late)
}

// Packets are lost at random: those of the broker that leads the tasks, and then those of a worker.
// Tasks are accepted and run all the time.
func TestHostsLoss(t *testing.T) {
	p := clusterProfile(t)
	s := newSite(t, p)
	tasks, tick := p.pace()
	const percent = 8
	lasts := 4 * time.Second
	if p.long {
		lasts = 30 * time.Second
	}
	s.while(tasks, tick, func() {
		leader := s.cluster.leader("pelton_TASKS_0")
		s.fault(history.FaultBegin, "broker-loss", history.Everyone)
		s.lose(percent, s.around(leader.name))
		for began := time.Now(); time.Since(began) < lasts; s.pause(100 * time.Millisecond) {
			s.answers(20 * time.Second)
		}
		s.lose(0, s.around(leader.name))
		s.fault(history.FaultEnd, "broker-loss", history.Everyone)

		w := s.fleet[0]
		s.fault(history.FaultBegin, history.NetworkFault+"loss", w.actorName())
		s.lose(percent, s.around(w.name))
		s.pause(lasts)
		s.lose(0, s.around(w.name))
		s.fault(history.FaultEnd, history.NetworkFault+"loss", w.actorName())
	})
	s.healed()
	report := s.judge()
	t.Logf("with %d %% of packets lost %d tasks ran twice", percent, report.Counts.Duplicates)
}

// A broker hears all and is heard by nobody: in the long form the one that leads the tasks. The others go on
// without it, and nothing is lost; when it is heard again all goes on, which takes as long as the brokers take
// to agree.
func TestHostsOneWay(t *testing.T) {
	p := clusterProfile(t)
	s := newSite(t, p)
	tasks, tick := p.pace()
	s.while(tasks/3, 3*tick, func() {
		mute := s.cluster.leader("pelton_TASKS_0")
		if !p.long {
			mute = s.cluster.another(mute)
		}
		links := s.net.From([]string{mute.name}, s.net.Others(ourHost))
		s.fault(history.FaultBegin, "broker-mute", history.Everyone)
		s.lose(hosts.All, links)
		t.Logf("tasks are accepted %s after %s is not heard any more", s.answers(30*time.Second), mute.name)
		if now := s.cluster.leader("pelton_TASKS_0", mute); now == mute {
			t.Errorf("%s, which nobody hears, leads the tasks", mute.name)
		}
		s.pause(p.lease)
		s.lose(0, links)
		began := time.Now()
		s.cluster.healthy(mute)
		accepted := s.answers(time.Minute)
		s.producer.finish(2*time.Minute, s.producer.must(order{kind: "chaos.quick"}))
		t.Logf("it is heard again: tasks are accepted after %s and run after %s", accepted, time.Since(began))
		s.fault(history.FaultEnd, "broker-mute", history.Everyone)
	})
	s.healed()
	report := s.judge()
	t.Logf("%d tasks ran twice", report.Counts.Duplicates)
}

// A server is cut off together with a broker, so that neither has a majority. Beside them a client asks.
func TestHostsMinority(t *testing.T) {
	s := newSite(t, clusterProfile(t))
	s.producer.base = "http://" + s.server.http.here // nginx would take a while to notice
	lonely := s.cluster.nodes[2]
	island := []string{lonely.name, s.replica.name}
	shore := s.net.Between(island, s.net.Others(lonely.name, s.replica.name, ourHost))
	s.minority(s.replica.http.here, lonely, func(alone bool) {
		percent := 0
		if alone {
			percent = hosts.All
		}
		s.lose(percent, shore)
	})
	s.judge()
}

// The disk of one broker, which leads the tasks, fills up while tasks are accepted. The others go on, nothing
// that was accepted is lost, and with room again it comes back.
func TestHostsFullDisk(t *testing.T) {
	p := clusterProfile(t)
	d := newSmallDisk(t, 64)
	s := newSite(t, p, func(s *suite) { s.folders = map[string]string{"n3": d.dir} })
	n := s.cluster.nodes[2]
	s.producer.must(order{kind: "chaos.quick"})
	s.lead("pelton_TASKS_0", n)
	tasks, tick := p.pace()
	s.while(tasks/2, tick, func() {
		s.fault(history.FaultBegin, "disk-full", history.Everyone)
		d.fill(0)
		var large []pelton.ID // in which no block has room
		for range 20 {
			large = append(large, s.producer.must(order{kind: "chaos.quick", pad: 64 << 10}))
		}
		s.eventually(n.name+" has noticed", 20*time.Second, func() bool { return n.p.says("no space left on device") })
		t.Logf("tasks are accepted %s after %s has noticed that its disk is full", s.answers(30*time.Second), n.name)
		s.producer.finish(p.drain, large...)
		d.clear()
		s.cluster.end(n, syscall.SIGKILL)
		s.cluster.start(n)
		s.cluster.healthy(n)
		s.fault(history.FaultEnd, "disk-full", history.Everyone)
	})
	s.healed()
	report := s.judge()
	t.Logf("%d tasks ran twice", report.Counts.Duplicates)
}

// lead makes a broker the leader of a stream.
func (s *suite) lead(stream string, n *node) {
	s.Helper()
	nc, err := nats.Connect("nats://"+s.cluster.addresses().here, nats.Token(token))
	if err != nil {
		s.Fatal(err)
	}
	defer nc.Close()
	s.eventually(n.name+" leads "+stream, 30*time.Second, func() bool {
		if s.cluster.leader(stream) == n {
			return true
		}
		_, err := nc.Request("$JS.API.STREAM.LEADER.STEPDOWN."+stream, fmt.Appendf(nil, `{"placement":{"preferred":%q}}`, n.name), 2*time.Second)
		if err != nil {
			s.Logf("step down: %v", err)
		}
		return false
	})
}
