package chaos_test

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"hash/fnv"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/peltonq/pelton/chaos/check"
	"github.com/peltonq/pelton/chaos/history"
	"github.com/peltonq/pelton/chaos/hosts"
	"github.com/peltonq/pelton/internal/failpoint"
)

// profile is how large a run is.
type profile struct {
	long        bool
	lease       time.Duration
	workers     int
	concurrency int            // of each worker
	tasks       int            // of a scenario that counts
	mixed       time.Duration  // how long the mixed scenario goes on at least
	kills       int            // of a kill loop
	cut         time.Duration  // how long the network is cut in each mode, beyond the lease
	drain       time.Duration  // what the broker may take to work off the rest
	data        string         // data folder of the server; empty is one in the suite's own
	serve       []string       // further flags of the server
	brokers     int            // of a cluster; zero is one in the server
	shards      int            // in the end; zero is one
	keys        int            // concurrency keys of a quarter of the tasks; zero is none
	apart       bool           // server and workers do not know the first of them
	limits      map[string]int // of concurrency keys; others have 1
	redis       string         // URL of what counts rates; empty is each process for itself
}

func theProfile() profile {
	if os.Getenv("PELTON_CHAOS") == "long" {
		return profile{long: true, lease: 3 * time.Second, workers: 4, concurrency: 16, tasks: 10_000, mixed: 2 * time.Minute, kills: 20, cut: 2 * time.Second, drain: 5 * time.Minute}
	}
	return profile{lease: 2 * time.Second, workers: 3, concurrency: 8, tasks: 300, mixed: 8 * time.Second, kills: 5, cut: 500 * time.Millisecond, drain: time.Minute}
}

// theSeed is the seed of this run.
var theSeed = sync.OnceValues(func() (uint64, error) {
	text := os.Getenv("PELTON_CHAOS_SEED")
	if text == "" {
		return rand.Uint64(), nil
	}
	return strconv.ParseUint(text, 10, 64)
})

// binaries are the processes under test, built once into theFolder.
type binaries struct{ pelton, actor string }

// plain are built as everybody builds them, instrumented with the failpoints.
var (
	theFolder    string
	plain        = sync.OnceValues(func() (binaries, error) { return build("plain") })
	instrumented = sync.OnceValues(func() (binaries, error) { return build("instrumented", "-tags", "chaos") })
)

func build(name string, flags ...string) (binaries, error) {
	if err := lookAtSources(".."); err != nil {
		return binaries{}, err
	}
	dir := filepath.Join(theFolder, name)
	b := binaries{pelton: filepath.Join(dir, "pelton"), actor: filepath.Join(dir, "actor")}
	for path, pkg := range map[string]string{b.pelton: "cmd/pelton", b.actor: "chaos/actor"} {
		args := append([]string{"build", "-o", path}, flags...)
		env := append(os.Environ(), "CGO_ENABLED=0")
		if raceEnabled {
			args, env = append(args, "-race"), os.Environ()
		}
		build := exec.Command("go", append(args, "github.com/peltonq/pelton/"+pkg)...)
		build.Env = env
		if out, err := build.CombinedOutput(); err != nil {
			return b, fmt.Errorf("build %s: %w\n%s", pkg, err, out)
		}
	}
	return b, nil
}

// lookAtSources looks at every source file of the module. The go command answers
// from its cache unless a file that a test looked at has changed; that the binaries
// are made of these it cannot know.
func lookAtSources(root string) error {
	return filepath.WalkDir(root, func(name string, entry fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(name) != ".go" {
			return err
		}
		_, err = os.Stat(name)
		return err
	})
}

// together is how many scenarios of the short form run at a time. They wait more
// than they compute, so it is more than the processors that go test goes by.
func together() string {
	if raceEnabled {
		return "3"
	}
	return "6"
}

func TestMain(m *testing.M) {
	flag.Parse()
	if !theProfile().long {
		if err := flag.Set("test.parallel", together()); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	var err error
	if theFolder, err = os.MkdirTemp("", "pelton-chaos-bin-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	_ = os.RemoveAll(theFolder)
	os.Exit(code)
}

// suite is one scenario with its processes and its history.
type suite struct {
	*testing.T
	profile
	dir  string
	bin  binaries
	log  *history.Log // of the nemesis
	rand *rand.Rand   // of the nemesis alone: its order of calls is the scenario's

	// What differs from suite to suite is set by the options of newSuite.
	built        func() (binaries, error)
	link         func() string  // opens the way of the next worker to the broker
	broken       failpoint.Rule // that is off in every process
	workerPoints *points        // at which workers die
	serverPoints *points        // at which the server does

	hosts    *hosts.Network    // nil if all processes are on this one
	folders  map[string]string // of brokers' data, by their names; others have one in the suite's own
	cluster  *cluster          // of brokers; nil for one in the server
	server   *server
	replica  *server // a second one of a cluster; nil if there is none
	fleet    []*slot
	producer *producer

	background sync.WaitGroup
	ctx        context.Context // of what runs in the background
	stop       context.CancelFunc
}

// newSuite starts a server, workers and everything that writes the history.
func newSuite(t *testing.T, p profile, options ...func(*suite)) *suite {
	t.Helper()
	seed, err := theSeed()
	if err != nil {
		t.Fatalf("PELTON_CHAOS_SEED: %v", err)
	}
	dir, err := os.MkdirTemp("", "pelton-chaos-")
	if err != nil {
		t.Fatal(err)
	}
	name := fnv.New64a()
	_, _ = name.Write([]byte(t.Name()))
	s := &suite{T: t, profile: p, dir: dir, built: plain, rand: rand.New(rand.NewPCG(seed, name.Sum64()))}
	s.link = func() string { return "nats://" + s.server.nats.listens }
	for _, option := range options {
		option(s)
	}
	if s.bin, err = s.built(); err != nil {
		t.Fatal(err)
	}
	s.ctx, s.stop = context.WithCancel(context.Background())
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("PELTON_CHAOS_SEED=%d; history and logs are in %s", seed, dir)
			return
		}
		_ = os.RemoveAll(dir)
	})
	s.log = s.actor("nemesis")
	t.Logf("seed %d", seed)

	t.Cleanup(s.end)
	if s.brokers > 0 {
		newCluster(s, s.brokers)
	}
	s.server = newServer(s, "server")
	s.server.start()
	s.background.Go(func() { s.server.supervise(s.ctx) })
	if s.hosts != nil {
		s.replica = newServer(s, "replica")
		s.replica.start()
		s.background.Go(func() { s.replica.supervise(s.ctx) })
	}
	s.producer = newProducer(s)
	s.background.Go(func() {
		if err := history.WatchStalls(s.ctx, s.log, p.lease/4, history.Everyone); err != nil {
			t.Error(err)
		}
	})
	for shard := range max(1, p.shards) {
		s.background.Go(func() { s.record(s.ctx, shard) })
	}
	s.background.Go(func() { s.watchBroker(s.ctx) })
	for i := range p.workers {
		s.fleet = append(s.fleet, newSlot(s, fmt.Sprintf("w%d", i+1), s.link()))
	}
	for _, w := range s.fleet {
		w.ready()
		s.background.Go(func() { w.supervise(s.ctx) })
	}
	return s
}

// end stops everything that runs in the background, then all processes.
func (s *suite) end() {
	s.stop()
	s.background.Wait()
	for _, w := range s.fleet {
		w.kill()
	}
	for _, v := range []*server{s.server, s.replica} {
		if v != nil { // a suite that could not be made has none
			v.kill()
		}
	}
	if s.cluster != nil {
		s.cluster.kill()
	}
}

// actor opens the history of an actor inside this process.
func (s *suite) actor(name string) *history.Log {
	log, err := history.Open(s.dir, name)
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { _ = log.Close() })
	return log
}

// write appends to a history, without which nothing can be said.
func (s *suite) write(log *history.Log, e history.Event) {
	if err := log.Write(e); err != nil {
		s.Error(err)
	}
}

// fault writes the beginning or the end of a fault.
func (s *suite) fault(kind history.Kind, what, target string) {
	s.write(s.log, history.Event{Kind: kind, Fault: what, Target: target})
}

// eventually waits until cond holds.
func (s *suite) eventually(what string, within time.Duration, cond func() bool) {
	s.Helper()
	deadline := time.After(within)
	again := time.NewTicker(5 * time.Millisecond)
	defer again.Stop()
	for !cond() {
		select {
		case <-again.C:
		case <-deadline:
			s.Fatalf("not within %s: %s", within, what)
		}
	}
}

// pause waits: the faults of this suite are made of time.
func (s *suite) pause(d time.Duration) {
	<-time.After(d)
}

// healed writes that everything is well again, having waited for it.
func (s *suite) healed() {
	s.Helper()
	s.server.ready()
	if s.replica != nil {
		s.replica.ready()
	}
	for _, w := range s.fleet {
		w.ready()
	}
	s.write(s.log, history.Event{Kind: history.Healed})
}

// judge holds the history against the guarantees.
func (s *suite) judge() check.Report {
	s.Helper()
	report := s.examine()
	if n := report.Counts.Failed - report.Counts.Poisoned; n > 0 {
		s.Errorf("%d tasks failed by their handlers, which all succeed in the end", n)
	}
	for i, v := range report.Violations {
		if i == 10 {
			s.Errorf("and %d more violations", len(report.Violations)-i)
			break
		}
		s.Errorf("%s\n%s", v, excerpt(v.Events))
	}
	return report
}

// examine drains the queue, reads every record twice, ends all processes and says
// what the history breaks.
func (s *suite) examine() check.Report {
	s.Helper()
	s.producer.drain(s.drain)
	s.pause(s.lease) // whoever is late has woken up by then
	s.producer.drain(0)
	s.end()
	events, torn, err := history.ReadDir(s.dir)
	if err != nil {
		s.Fatal(err)
	}
	report := check.Check(events, check.Config{
		Lease: s.lease, Slots: s.workers * s.concurrency, CtxEnd: 1500 * time.Millisecond, Promotion: 1500 * time.Millisecond, Followed: 1500 * time.Millisecond, Idle: 2 * time.Second, Limits: s.limits,
	})
	s.Logf("%s; %d torn lines", report.Counts, torn)
	return report
}

// excerpt shows the events of a task, times since the first of them.
func excerpt(events []history.Event) string {
	if len(events) == 0 {
		return ""
	}
	var out []byte
	first := events[0].At
	shown := slices.SortedStableFunc(slices.Values(events), func(a, b history.Event) int { return cmp.Compare(a.At, b.At) })
	for _, e := range shown[:min(len(shown), 40)] {
		out = fmt.Appendf(out, "  %8.3fs %-10s %-14s %s attempt %d fence %d %s", float64(e.At-first)/1e9, e.Actor, e.Kind, e.Run, e.Attempt, e.Fence, e.Outcome)
		if r := e.Record; r != nil {
			out = fmt.Appendf(out, " %s rev %d (over %d) attempt %d crashes %d %s %s", r.State, r.Revision, r.Previous, r.Attempt, r.Crashes, r.Worker, r.Reason)
		}
		out = append(out, '\n')
	}
	return string(out)
}
