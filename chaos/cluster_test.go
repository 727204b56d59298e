package chaos_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/chaos/history"
	"github.com/peltonq/pelton/chaos/proxy"
	"github.com/peltonq/pelton/internal/freeport"
)

// nodeBinary is a broker of a cluster, built once.
var nodeBinary = sync.OnceValues(func() (string, error) {
	path := filepath.Join(theFolder, "node")
	build := exec.Command("go", "build", "-o", path, "github.com/peltonq/pelton/chaos/node")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build chaos/node: %w\n%s", err, out)
	}
	return path, nil
})

// cluster is some brokers that keep copies of everything. What one says to another goes
// through a proxy of the two, unless each has a host of its own.
type cluster struct {
	s     *suite
	nodes []*node
	links map[[2]*node]*proxy.Proxy // from the first to the second, which it calls
}

// node is one of them, which can be killed and comes back with its data.
type node struct {
	name            string
	dir             string // of its data
	client, monitor place
	cluster         string // where it listens to the others
	life            int
	p               *process
}

func newCluster(s *suite, size int) {
	s.Helper()
	c := &cluster{s: s, links: map[[2]*node]*proxy.Proxy{}}
	s.cluster = c // from here on the suite ends what has started, whatever comes
	for i := range size {
		name := fmt.Sprintf("n%d", i+1)
		n := &node{name: name, dir: s.folders[name], client: s.place(name, 4222), monitor: s.place(name, 8222), cluster: s.listens(name, 6222)}
		if n.dir == "" {
			n.dir = filepath.Join(s.dir, name)
		}
		c.nodes = append(c.nodes, n)
	}
	for _, from := range c.nodes {
		for _, to := range c.nodes {
			if from == to || s.hosts != nil {
				continue
			}
			link, err := proxy.Listen(s.Context(), to.cluster)
			if err != nil {
				s.Fatal(err)
			}
			s.Cleanup(link.Close)
			c.links[[2]*node{from, to}] = link
		}
	}
	for _, n := range c.nodes {
		c.start(n)
	}
	for _, n := range c.nodes {
		c.healthy(n)
	}
}

func (c *cluster) start(n *node) {
	c.s.Helper()
	path, err := nodeBinary()
	if err != nil {
		c.s.Fatal(err)
	}
	var routes []string
	for _, other := range c.nodes {
		switch link := c.links[[2]*node{n, other}]; {
		case link != nil:
			routes = append(routes, link.Addr())
		case other != n:
			routes = append(routes, other.cluster)
		}
	}
	n.life++
	n.p = c.s.launch(fmt.Sprintf("%s.%d", n.name, n.life), nil, path, "-name", n.name, "-dir", n.dir, "-token", token,
		"-client", n.client.listens, "-cluster", n.cluster, "-monitor", n.monitor.listens, "-routes", strings.Join(routes, ","))
}

// healthy waits until a broker has all that it should have.
func (c *cluster) healthy(n *node) {
	c.s.Helper()
	c.s.eventually(n.name+" is healthy", 2*time.Minute, func() bool {
		if n.p.ended() {
			c.s.Fatalf("%s ended with %d by itself, see %s", n.name, n.p.code, n.p.log)
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		status, _, err := call(ctx, http.MethodGet, "http://"+n.monitor.here+"/healthz", "")
		return err == nil && status == http.StatusOK
	})
}

// addresses are those of the brokers that are known, as the end of a URL that begins with nats://.
func (c *cluster) addresses() place {
	known, listens, here := c.nodes, []string{}, []string{}
	if c.s.apart {
		known = c.nodes[1:]
	}
	for _, n := range known {
		listens, here = append(listens, n.client.listens), append(here, n.client.here)
	}
	return place{strings.Join(listens, ",nats://"), strings.Join(here, ",nats://")}
}

func (c *cluster) kill() {
	for _, n := range c.nodes {
		if n.p != nil { // nil: it never started
			c.end(n, syscall.SIGKILL)
		}
	}
}

func (c *cluster) end(n *node, sig syscall.Signal) {
	if err := n.p.signal(sig); err != nil {
		c.s.Error(err)
	}
	<-n.p.done
}

// leader is the broker that leads a stream now, as those but some say.
func (c *cluster) leader(stream string, but ...*node) (leader *node) {
	c.s.Helper()
	var asked []string
	for _, n := range c.nodes {
		if !slices.Contains(but, n) {
			asked = append(asked, "nats://"+n.client.here)
		}
	}
	nc, err := nats.Connect(strings.Join(asked, ","), nats.Token(token))
	if err != nil {
		c.s.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		c.s.Fatal(err)
	}
	c.s.eventually("stream "+stream+" has a leader", 30*time.Second, func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		info, err := js.Stream(ctx, stream)
		if err != nil {
			return false
		}
		for _, n := range c.nodes {
			if n.name == info.CachedInfo().Cluster.Leader {
				leader = n
				return true
			}
		}
		return false
	})
	return leader
}

// another is a broker that is not that one.
func (c *cluster) another(n *node) *node {
	if c.nodes[0] != n {
		return c.nodes[0]
	}
	return c.nodes[1]
}

// restart ends a broker in good order, starts it again, and waits until it has everything.
func (c *cluster) restart(n *node) {
	c.s.Helper()
	c.end(n, syscall.SIGTERM)
	c.start(n)
	c.healthy(n)
}

// cut breaks all links of a broker to the others, or mends them.
func (c *cluster) cut(n *node, mode proxy.Mode) {
	for between, link := range c.links {
		if between[0] == n || between[1] == n {
			link.Set(mode)
		}
	}
}

// answers waits until a task is accepted, and says how long that took.
func (s *suite) answers(within time.Duration) time.Duration {
	s.Helper()
	began := time.Now()
	s.eventually("tasks are accepted", within, func() bool {
		_, ok := s.producer.enqueue(order{kind: "chaos.quick"})
		return ok
	})
	return time.Since(began)
}

// ready reports whether a server's readiness is that status.
func ready(addr string, want int) bool {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	status, _, err := call(ctx, http.MethodGet, "http://"+addr+"/readyz", "")
	return err == nil && status == want
}

// clusterProfile is of tests that run one after the other and before the rest: three brokers that
// keep copies need a machine of their own, or their elections take as long as leases do. Under the
// race detector, which slows everything beside them too, they are part of the long form.
func clusterProfile(t *testing.T) profile {
	t.Helper()
	p := theProfile()
	if raceEnabled && !p.long {
		t.Skip("clusters run without the race detector, and with it in the long form")
	}
	p.brokers, p.lease, p.keys = 3, 3*time.Second, 5
	return p
}

// pace is between two tasks: 500 a second in the long form, for as long as brokers go and come.
func (p profile) pace() (tasks int, tick time.Duration) {
	if p.long {
		return 3 * p.tasks, 2 * time.Millisecond
	}
	return p.tasks, 20 * time.Millisecond
}

// The leader of the tasks, and then that of the records, is killed while tasks are accepted and run: none
// is lost, and tasks are accepted again within ten seconds.
func TestClusterLeaders(t *testing.T) {
	p := clusterProfile(t)
	s := newSuite(t, p)
	tasks, tick := p.pace()
	s.while(tasks, tick, func() {
		for _, stream := range []string{"pelton_TASKS_0", "KV_pelton_STATE_0"} {
			s.pause(time.Second)
			leader := s.cluster.leader(stream)
			s.fault(history.FaultBegin, "broker-kill", history.Everyone)
			s.cluster.end(leader, syscall.SIGKILL)
			took := s.answers(20 * time.Second)
			t.Logf("%s, which led %s: tasks are accepted %s after its death", leader.name, stream, took)
			if took > 10*time.Second {
				t.Errorf("no task was accepted for %s after the leader of %s died", took, stream)
			}
			s.cluster.start(leader)
			s.cluster.healthy(leader)
			s.pause(p.lease) // who hands out again what others have does so by then
			s.fault(history.FaultEnd, "broker-kill", history.Everyone)
		}
	})
	s.healed()
	report := s.judge()
	t.Logf("%d tasks ran twice", report.Counts.Duplicates)
}

// Each broker in turn is restarted in good order: no task is lost.
func TestClusterRestarts(t *testing.T) {
	p := clusterProfile(t)
	s := newSuite(t, p)
	tasks, tick := p.pace()
	s.while(tasks, tick, func() {
		for _, n := range s.cluster.nodes {
			s.pause(500 * time.Millisecond)
			s.fault(history.FaultBegin, "broker-restart", history.Everyone)
			s.cluster.restart(n)
			s.pause(p.lease)
			s.fault(history.FaultEnd, "broker-restart", history.Everyone)
		}
	})
	s.healed()
	report := s.judge()
	t.Logf("%d tasks ran twice", report.Counts.Duplicates)
}

// Two of three brokers die. What is left has no say: it accepts nothing and says so by 503, and when
// the others are back everything goes on, which a write to each stream shows.
func TestClusterWithoutMajority(t *testing.T) {
	p := clusterProfile(t)
	s := newSuite(t, p)
	tasks, tick := p.pace()
	s.while(tasks/3, tick, func() {
		s.pause(time.Second)
		s.fault(history.FaultBegin, "brokers-kill", history.Everyone)
		dead := s.cluster.nodes[:2]
		for _, n := range dead {
			s.cluster.end(n, syscall.SIGKILL)
		}
		s.eventually("the server is not ready", 30*time.Second, func() bool { return ready(s.server.http.here, http.StatusServiceUnavailable) })
		for range 3 { // what is refused as unknown may be stored after all
			if e := s.producer.post(s.producer.name(), order{kind: "chaos.quick"}); e.Kind == history.EnqueueOK || !strings.HasPrefix(e.Note, "503 ") {
				t.Errorf("a task without a majority of brokers: %s %s, want 503", e.Kind, e.Note)
			}
		}
		for _, n := range dead {
			s.cluster.start(n)
		}
		for _, n := range s.cluster.nodes {
			s.cluster.healthy(n)
		}
		s.server.ready() // a write reached every stream
		s.pause(p.lease)
		s.fault(history.FaultEnd, "brokers-kill", history.Everyone)
	})
	s.healed()
	s.judge()
}

// A broker is cut off from the two others, with a server that knows no other: that one accepts
// nothing and says nothing that is not true any more, while the rest goes on. When the links
// are back it has what all have.
//
// In the short form TestHostsMinority does the same between hosts, where there can be some.
func TestClusterMinority(t *testing.T) {
	p := clusterProfile(t)
	if !p.long && os.Getenv("PELTON_TEST_REQUIRE") == "1" {
		t.Skip("TestHostsMinority is not skipped")
	}
	p.apart = true
	s := newSuite(t, p)
	lonely, addr := s.cluster.nodes[0], freeport.Addr(s)
	replica := s.launch("minority", nil, s.bin.pelton, "serve", "--addr", addr, "--nats", "nats://"+lonely.client.listens, "--nats-token", token, "--lease", p.lease.String())
	t.Cleanup(func() {
		if err := replica.signal(syscall.SIGKILL); err != nil {
			t.Error(err)
		}
		<-replica.done
	})
	s.minority(addr, lonely, func(alone bool) {
		mode := proxy.Pass
		if alone {
			mode = proxy.Drop
		}
		s.cluster.cut(lonely, mode)
	})
	s.judge()
}

// minority cuts off a broker with a server that reaches no other then, while tasks are accepted, and
// mends it. It looks at what the server says.
func (s *suite) minority(addr string, lonely *node, cut func(alone bool)) {
	s.Helper()
	ask := func(method, path, body string) (int, *pelton.Task) {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		status, answer, err := call(ctx, method, "http://"+addr+path, body)
		if err != nil {
			s.Errorf("%s %s: %v", method, path, err)
			return 0, nil
		}
		var task pelton.Task
		if status < 300 && json.Unmarshal(answer, &task) != nil {
			s.Errorf("%s %s: %s", method, path, answer)
		}
		return status, &task
	}
	const forNobody = `{"kind":"chaos.sleep","queue":"nobody","retention":"1h"}`
	readiness := func(want int) func() bool { return func() bool { return ready(addr, want) } }
	s.eventually("the other server is ready", 30*time.Second, readiness(http.StatusOK))
	known := s.producer.must(order{kind: "chaos.sleep", ms: 60_000})
	path := "/tasks/" + known.String()
	s.eventually("the task runs", 20*time.Second, func() bool {
		status, task := ask(http.MethodGet, path, "")
		return status == http.StatusOK && task.State == pelton.Running
	})

	tasks, tick := s.pace()
	s.while(tasks/3, tick, func() {
		s.fault(history.FaultBegin, "broker-cut", history.Everyone)
		cut(true)
		s.Logf("the others accept tasks %s after the cut", s.answers(30*time.Second))
		s.eventually("the others have leaders of everything", 30*time.Second, func() bool {
			s.producer.cancel(known)
			task := s.producer.get(known, "")
			return task != nil && task.State == pelton.Cancelled
		})
		s.pause(time.Second) // a copy may be read for so long after a write
		var asking sync.WaitGroup
		for range 5 {
			asking.Go(func() {
				if status, task := ask(http.MethodGet, path, ""); status != http.StatusServiceUnavailable && (status != http.StatusOK || task.State != pelton.Cancelled) {
					s.Errorf("a cancelled task by the server that is cut off: %d %+v", status, task)
				}
			})
			asking.Go(func() {
				if status, _ := ask(http.MethodPost, "/tasks", forNobody); status != http.StatusServiceUnavailable {
					s.Errorf("a new task by the server that is cut off: %d, want 503", status)
				}
			})
			s.pause(200 * time.Millisecond)
		}
		asking.Wait()
		s.eventually("the other server is not ready", 30*time.Second, readiness(http.StatusServiceUnavailable))
		cut(false)
		s.cluster.healthy(lonely)
		s.eventually("the other server is ready again", time.Minute, readiness(http.StatusOK)) // a write reached every stream
		if status, task := ask(http.MethodGet, path, ""); status != http.StatusOK || task.State != pelton.Cancelled {
			s.Errorf("a cancelled task by the server that was cut off: %d %+v", status, task)
		}
		// The queue is new, and the cluster may be choosing who makes its lane.
		s.eventually("the other server accepts a task", 30*time.Second, func() bool {
			status, _ := ask(http.MethodPost, "/tasks", forNobody)
			return status == http.StatusAccepted
		})
		s.pause(s.lease)
		s.fault(history.FaultEnd, "broker-cut", history.Everyone)
	})
	s.healed()
}
