package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/peltonq/pelton"
)

const (
	idleQueues    = 100
	queuesOfOne   = 10 // that a worker of the fleet serves
	slotsOfOne    = 2
	idleWindow    = 30 * time.Second
	idleSettle    = 35 * time.Second // by then every lane waits, and every request was renewed once
	trickle       = 20 * time.Millisecond
	trickleTasks  = 1500 // 30 s at 50 a second
	fleetPatience = 2 * time.Minute
	callsWindow   = 30 * time.Second
	callsShown    = 12
)

// idleFleet is what workers that wait cost a cluster of three brokers with three copies of
// everything: so many, each with a connection of its own, in a few processes. Each serves
// ten of a hundred queues, with all four priorities. Then 50 tasks a second are posted, to all
// lanes in turns, and the time is taken from before the POST to the first line of the handler.
func idleFleet(ctx context.Context, binary, dir string, workers int, profiles string) (_ []figure, err error) {
	c, err := startCluster(ctx, dir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.stop()) }()
	s, err := start(ctx, binary, "serve", "--addr", "127.0.0.1:0", "--nats", c.urls, "--replicas", fmt.Sprint(clusterSize), "--log-format", "json")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.stop()) }()

	to := postLanes(s.http)
	if err := callers(8, to.lanes(), func() error { return to.one(ctx, payload) }); err != nil { // which makes them
		return nil, err
	}
	crew := newCrew()
	stop, err := hireFleet(ctx, crew, c.urls, dir, workers, to.queues)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, stop()) }()
	within, cancel := context.WithTimeout(ctx, fleetPatience)
	defer cancel()
	if _, _, err := crew.await(within, to.lanes()); err != nil {
		return nil, err
	}
	if err := allPresent(within, s.http, workers); err != nil {
		return nil, err
	}
	if err := wait(ctx, idleSettle); err != nil {
		return nil, err
	}

	figures, err := fleetAtRest(ctx, c, s, crew)
	if err != nil {
		return nil, err
	}
	if profiles != "" {
		if err := c.profile(ctx, profiles, "idle", idleWindow); err != nil {
			return nil, err
		}
	}
	counted, err := callsAtRest(ctx, c)
	if err != nil {
		return nil, err
	}
	figures = append(figures, counted...)
	posts := &timings{}
	calls := sender{one: posts.around(to.one)}
	if err := calls.paced(ctx, trickleTasks, trickle); err != nil {
		return nil, err
	}
	took, err := crew.awaitTimed(ctx, trickleTasks)
	if err != nil {
		return nil, err
	}
	for _, q := range []float64{0.5, 0.99} {
		figures = append(figures,
			figure{Name: fmt.Sprintf("start at 50/s over all lanes, from before the POST, p%.0f", 100*q), Value: quantile(took, q), Unit: "ms"},
			figure{Name: fmt.Sprintf("⋯ of which the POST, p%.0f", 100*q), Value: quantile(posts.took, q), Unit: "ms"})
	}
	return figures, nil
}

// fleetAtRest is what everybody takes while nothing is to be done.
func fleetAtRest(ctx context.Context, c *cluster, s *server, crew *crew) ([]figure, error) {
	pids := append(append(c.pids(), s.cmd.Process.Pid), crew.processes()...)
	began := time.Now()
	before, err := ticksOf(pids)
	if err != nil {
		return nil, err
	}
	if err := wait(ctx, idleWindow); err != nil {
		return nil, err
	}
	after, err := ticksOf(pids)
	if err != nil {
		return nil, err
	}
	took := time.Since(began).Seconds() // 100 ticks are a second: per cent
	share := func(i int) float64 { return (after[i] - before[i]) / took }
	var figures []figure
	for i, node := range c.nodes {
		memory, err := residentMiB(node.cmd.Process.Pid)
		if err != nil {
			return nil, err
		}
		figures = append(figures,
			figure{Name: fmt.Sprintf("broker %d at rest", i+1), Value: share(i), Unit: ofACore},
			figure{Name: fmt.Sprintf("broker %d, memory", i+1), Value: memory, Unit: "MiB"})
	}
	figures = append(figures, figure{Name: "pelton serve at rest", Value: share(len(c.nodes)), Unit: ofACore})
	ofWorkers := 0.0
	for i := len(c.nodes) + 1; i < len(pids); i++ {
		ofWorkers += share(i)
	}
	return append(figures, figure{Name: "all workers at rest", Value: ofWorkers, Unit: ofACore}), nil
}

// callsAtRest is what the fleet asks of the brokers, by call and stream, the most frequent
// first. It is counted after the rest is measured: to listen costs the brokers, too.
func callsAtRest(ctx context.Context, c *cluster) ([]figure, error) {
	nc, err := nats.Connect(c.urls)
	if err != nil {
		return nil, err
	}
	defer nc.Close()
	var mu sync.Mutex
	counts := map[string]int{}
	for _, subject := range []string{"$JS.API.>", "$KV.>"} {
		if _, err := nc.Subscribe(subject, func(m *nats.Msg) {
			mu.Lock()
			defer mu.Unlock()
			counts[callOf(m.Subject)]++
		}); err != nil {
			return nil, err
		}
	}
	if err := wait(ctx, callsWindow); err != nil {
		return nil, err
	}
	mu.Lock()
	defer mu.Unlock()
	var figures []figure
	for call, n := range counts {
		figures = append(figures, figure{Name: "at rest, " + call, Value: float64(n) / callsWindow.Seconds(), Unit: "/s"})
	}
	slices.SortFunc(figures, func(a, b figure) int { return cmp.Or(cmp.Compare(b.Value, a.Value), cmp.Compare(a.Name, b.Name)) })
	return figures[:min(len(figures), callsShown)], nil
}

// callOf is a subject up to the stream or bucket.
func callOf(subject string) string {
	tokens := strings.Split(subject, ".")
	for i, token := range tokens {
		if strings.Contains(token, "pelton") {
			return strings.Join(tokens[:i+1], ".")
		}
	}
	return subject
}

// hireFleet starts workers in a few processes. The queues that a worker serves follow
// those of the one before.
func hireFleet(ctx context.Context, crew *crew, urls, dir string, workers int, queues []string) (stop func() error, err error) {
	processes := min(fleetProcesses, workers)
	return crew.join(ctx, processes, func(i int, line func(string)) (program, error) {
		first, next := i*workers/processes, (i+1)*workers/processes
		says, err := json.Marshal(staff{Workers: next - first, Slots: slotsOfOne, Queues: queues, Each: queuesOfOne, First: first})
		if err != nil {
			return program{}, err
		}
		return self(filepath.Join(dir, fmt.Sprintf("workers-%d.log", i)), line, "pelton", urls, string(says))
	})
}

// allPresent waits until so many workers are on the list of workers.
func allPresent(ctx context.Context, base string, workers int) error {
	for {
		n, cursor := 0, ""
		for {
			var page struct {
				Items []json.RawMessage `json:"items"`
				Next  string            `json:"next_cursor"`
			}
			err := answered(ctx, http.MethodGet, base+"/workers?limit=500&cursor="+cursor, func(body io.Reader) error {
				return json.NewDecoder(body).Decode(&page)
			})
			if err != nil {
				return err
			}
			n += len(page.Items)
			if cursor = page.Next; cursor == "" {
				break
			}
		}
		if n >= workers {
			return nil
		}
		if err := wait(ctx, time.Second); err != nil {
			return fmt.Errorf("%d of %d workers are there: %w", n, workers, err)
		}
	}
}

// lanePosts posts tasks to all lanes of some queues, in turns.
type lanePosts struct {
	base   string
	client *http.Client
	queues []string
	next   atomic.Int64
}

func postLanes(base string) *lanePosts {
	p := &lanePosts{base: base, client: httpClient()}
	for i := range idleQueues {
		p.queues = append(p.queues, fmt.Sprintf("fleet-%02d", i))
	}
	return p
}

func (p *lanePosts) lanes() int { return len(p.queues) * len(pelton.Priorities()) }

func (p *lanePosts) one(ctx context.Context, payload []byte) error {
	i := int(p.next.Add(1) - 1)
	priorities := pelton.Priorities()
	queue, priority := p.queues[i%len(p.queues)], priorities[i/len(p.queues)%len(priorities)]
	return postBy(ctx, p.client, p.base, fmt.Sprintf(`{"kind":%q,"queue":%q,"priority":%q,"payload":%s}`, benchKind, queue, priority, payload), "")
}

// timings are how long calls took, in ms.
type timings struct {
	mu   sync.Mutex
	took []float64
}

func (t *timings) around(call func(context.Context, []byte) error) func(context.Context, []byte) error {
	return func(ctx context.Context, payload []byte) error {
		began := time.Now()
		err := call(ctx, payload)
		t.mu.Lock()
		defer t.mu.Unlock()
		t.took = append(t.took, inMs(time.Since(began)))
		return err
	}
}
