package e2e_test

import (
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/chaos/history"
	"github.com/peltonq/pelton/internal/redistest"
)

// The limits of these tests.
const (
	ratePerSecond = 100
	rateBurst     = 10
	rateWorkers   = 3
)

// rateKinds are the kinds of these tests: of a limit each, named after its on_error,
// and one whose queue has a rate.
func rateKinds() []string { return []string{"local", "open", "closed", "paced"} }

// skipRates leaves tests that hold rates against the clock to a run of their own
// (make rates, which is part of make test): beside other tests, Redis needs longer for
// an answer than the 50 ms that a worker waits. What else they would look for, the tests of
// redislimit and worker find.
func skipRates(t *testing.T) {
	t.Helper()
	if raceEnabled || os.Getenv("PELTON_RATES") == "" {
		t.Skip("rates are held against the clock in a run of their own: make rates")
	}
}

// rateServer is a server with limits of some kinds, all of whose tasks wait for resume.
func rateServer(t *testing.T, kinds ...string) *server {
	t.Helper()
	s := serve(t, "--addr", "127.0.0.1:0", "--data", filepath.Join(t.TempDir(), "data"), "--nats-listen", "127.0.0.1:0", "--nats-token", "secret")
	for _, kind := range kinds {
		rate := fmt.Sprintf(`"rate":{"limit":%d,"burst":%d,"on_error":"%s"}`, ratePerSecond, rateBurst, kind)
		method, path, body := http.MethodPut, "/limits/"+kind, fmt.Sprintf(`{"kind":%q,%s}`, kind, rate)
		if kind == "paced" {
			method, path, body = http.MethodPatch, "/queues/paced", fmt.Sprintf(`{"rate":{"limit":%d,"burst":%d}}`, ratePerSecond, rateBurst)
		}
		s.ask(t, method, path, body)
		s.ask(t, http.MethodPatch, "/queues/"+queueOf(kind), `{}`) // a queue that is not there cannot be paused
	}
	return s
}

func queueOf(kind string) string {
	if kind == "paced" {
		return "paced"
	}
	return "default"
}

// ask makes a request that must be answered with 200.
func (s *server) ask(t *testing.T, method, path, body string) {
	t.Helper()
	if status, _, answer, err := call(t.Context(), method, s.url+path, body); err != nil || status != http.StatusOK {
		t.Fatalf("%s %s: %d %s %v", method, path, status, answer, err)
	}
}

// backlog enqueues n tasks of a kind.
func (s *server) backlog(t *testing.T, kind string, n int) {
	t.Helper()
	task := fmt.Sprintf(`{"kind":%q,"queue":%q},`, kind, queueOf(kind))
	for ; n > 0; n -= 1000 {
		s.postMany(t, strings.TrimSuffix(strings.Repeat(task, min(n, 1000)), ","))
	}
}

// until waits for a time of the history's clock.
func until(at int64) { <-time.After(time.Duration(at - history.Now())) }

// excess is the window that has the most starts beyond what is allowed in it.
type excess struct {
	beyond float64
	from   int64
	length time.Duration
}

// mostBeyond looks at all windows from one start to another. slack is by how much a
// start may be told later than it was counted, extra what is allowed in a window besides
// burst + rate·w.
func mostBeyond(starts []int64, slack time.Duration, extra func(from, to int64) float64) excess {
	worst := excess{beyond: math.Inf(-1)}
	for i := range starts {
		for j := i; j < len(starts); j++ {
			window := time.Duration(starts[j] - starts[i])
			allowed := rateBurst + (window+slack).Seconds()*ratePerSecond + extra(starts[i], starts[j])
			if n := float64(j-i+1) - allowed; n > worst.beyond {
				worst = excess{n, starts[i], window}
			}
		}
	}
	return worst
}

// between counts the starts of a time.
func between(starts []int64, from, to int64) int {
	first, _ := slices.BinarySearch(starts, from)
	next, _ := slices.BinarySearch(starts, to)
	return next - first
}

// lateness sums up how late probes were: the longest, and for how long some were later
// than the burst makes up for.
func lateness(late map[int64]int64) (longest, lost time.Duration) {
	var ats []int64
	for at := range late {
		ats = append(ats, at)
	}
	slices.Sort(ats)
	var end int64
	for _, at := range ats {
		longest = max(longest, time.Duration(late[at]))
		if over := late[at] - int64(time.Second)*rateBurst/ratePerSecond; over > 0 {
			lost += time.Duration(max(0, at+late[at]-max(at, end)))
			end = max(end, at+late[at])
		}
	}
	return longest, lost
}

// Three processes hold a rate of 100 a second with a burst of 10 for 30 seconds, as a
// kind's limit and as their queue's: as many tasks start as may, within two percent,
// and in no window of time more than burst + rate·w.
//
// A start is counted when it is booked, and told by its handler a timer and a read and
// a write to the broker later, so a window of handlers may look shorter than it was
// counted by as much as the first was later than the last. Each process measures
// all the time how late that can be here; nothing else is forgiven.
func TestFleetRate(t *testing.T) {
	t.Parallel()
	skipRates(t)
	const length = 30 * time.Second
	redis := redistest.Start(t)
	kinds := []string{"local", "paced"}
	s := rateServer(t, kinds...)
	fleet := startRateFleet(t, s, redis.URL, rateWorkers)
	for _, kind := range kinds {
		s.ask(t, http.MethodPost, "/queues/"+queueOf(kind)+"/pause", "")
		s.backlog(t, kind, ratePerSecond*int(length.Seconds())+300)
	}
	for _, kind := range kinds {
		s.ask(t, http.MethodPost, "/queues/"+queueOf(kind)+"/resume", "")
	}
	// A backlog that comes at once is looked at first, and meanwhile what is due waits
	// behind it.
	begin := history.Now()
	for deadline := begin + int64(time.Minute); s.ready(t, "default") > 0; until(history.Now() + int64(50*time.Millisecond)) {
		if history.Now() > deadline {
			t.Fatal("the backlog was not looked at within a minute")
		}
	}
	counted := history.Now()
	until(counted + int64(length))
	all, machine := fleet.read(t)
	longest, lost := lateness(machine.late)
	lost += time.Duration(machine.down) * 5 * time.Second / rateWorkers // of a machine on which a question takes 50 ms
	slack := longest + probeStep                                        // a stall may begin between two probes
	for _, kind := range kinds {
		of := all[kind]
		if of == nil {
			t.Fatalf("no task of %s started", kind)
		}
		n := between(of.starts, counted, counted+int64(length))
		allowed := ratePerSecond * length.Seconds()
		// Each is one start at most, for the process's share and within a second, and
		// counts in Redis later.
		alone := func(from, to int64) float64 { return float64(between(machine.alone, from-int64(time.Second), to)) }
		exact := mostBeyond(of.starts, 0, alone)
		t.Logf("%s: %d starts in %s (looked at in %s), %.0f allowed; at most %.1f more than allowed in a window; a probe was %s late, %s were lost, %d questions unanswered",
			kind, n, length, time.Duration(counted-begin), allowed, exact.beyond, longest, lost, len(machine.alone))
		if least := 0.98*allowed - lost.Seconds()*ratePerSecond; float64(n) < least || float64(n) > 1.02*allowed+alone(counted, counted+int64(length))+slack.Seconds()*ratePerSecond {
			t.Errorf("%s: %d starts in %s, want %.0f within 2 %%", kind, n, length, allowed)
		}
		if worst := mostBeyond(of.starts, slack, alone); worst.beyond > 1e-6 {
			t.Errorf("%s: %.2f starts too many within %s, with a slack of %s", kind, worst.beyond, worst.length, slack)
		}
	}
}

// ready is how many tasks of a queue are ready.
func (s *server) ready(t *testing.T, queue string) uint64 {
	t.Helper()
	status, _, answer, err := call(t.Context(), http.MethodGet, s.url+"/queues/"+queue, "")
	var q pelton.Queue
	if err != nil || status != http.StatusOK || json.Unmarshal(answer, &q) != nil {
		t.Fatalf("GET /queues/%s: %d %s %v", queue, status, answer, err)
	}
	return q.Ready
}

// Redis is killed and comes back empty after three seconds, and is then killed and
// started again at once. Each limit goes on as its on_error says: open starts
// everything, closed books nothing, and with local each process holds its share. A
// restart costs at most one more burst, although all that was booked before it
// starts.
func TestFleetRateWithoutRedis(t *testing.T) {
	t.Parallel()
	skipRates(t)
	redis := redistest.Start(t)
	kinds := []string{"local", "open", "closed"}
	s := rateServer(t, kinds...)
	fleet := startRateFleet(t, s, redis.URL, rateWorkers)
	s.ask(t, http.MethodPost, "/queues/default/pause", "")
	for _, kind := range kinds {
		s.backlog(t, kind, 2000)
	}
	s.ask(t, http.MethodPost, "/queues/default/resume", "")
	begin := history.Now()
	until(begin + int64(4*time.Second))
	killed := history.Now()
	redis.Kill()
	// What was looked at before has its time by now. What comes now has none.
	until(killed + int64(500*time.Millisecond))
	s.backlog(t, "open", 4*ratePerSecond)
	until(killed + int64(3*time.Second))
	back := history.Now()
	redis.Run()
	until(history.Now() + int64(6*time.Second))
	restarted := history.Now()
	redis.Kill()
	redis.Run()
	again := history.Now()
	until(again + int64(5*time.Second))
	end := history.Now()

	all, machine := fleet.read(t)
	longest, lost := lateness(machine.late)
	slack := longest + probeStep
	// settled is when all processes count in Redis alone: each notices within a second,
	// and keeps to its share for two more.
	const settled = int64(3200 * time.Millisecond)
	restarts := func(from, to int64) (extra float64) {
		for _, r := range [][2]int64{{killed, back + settled}, {restarted, again + settled}} {
			if from <= r[1] && to >= r[0] {
				extra += rateBurst
			}
		}
		return extra
	}
	// On a machine on which an answer takes 50 ms, a process is alone at other times too.
	alone := slices.DeleteFunc(slices.Clone(machine.alone), func(at int64) bool {
		return at > killed && at < back+int64(time.Second) || at > restarted && at < again+int64(time.Second)
	})
	extra := func(from, to int64) float64 {
		return restarts(from, to) + float64(between(alone, from-int64(time.Second), to))
	}
	none := func(int64, int64) float64 { return 0 }
	for _, kind := range kinds {
		of := all[kind]
		if of == nil {
			t.Fatalf("no task of %s started", kind)
		}
		held := of.starts
		if kind == "open" { // what is not bounded is over when all have noticed
			held = slices.DeleteFunc(slices.Clone(held), func(at int64) bool {
				return at > killed && at < back+settled || at > restarted && at < again+settled
			})
		}
		t.Logf("%s: %d starts, %d while Redis was away; in a window at most %.1f beyond the rate and one burst; a probe was %s late, %d questions unanswered at other times",
			kind, len(of.starts), between(of.starts, killed, back), mostBeyond(held, 0, none).beyond, longest, len(alone))
		if worst := mostBeyond(held, slack, extra); worst.beyond > 1e-6 {
			t.Errorf("%s: %.2f starts too many within %s, %s after the kill, with a slack of %s", kind, worst.beyond, worst.length, time.Duration(worst.from-killed), slack)
		}
		// What was given a time while each kept to its share keeps that time, so the rate
		// is not reached for a while; no less than one process's share is.
		if n, least := between(of.starts, end-int64(2*time.Second), end), 2*ratePerSecond/rateWorkers-lost.Seconds()*ratePerSecond; float64(n) < least {
			t.Errorf("%s: %d starts in the last two seconds, want %.0f at least", kind, n, least)
		}
		away := between(of.starts, killed, back)
		switch kind {
		case "open":
			if float64(away) < 4*ratePerSecond-lost.Seconds()*ratePerSecond {
				t.Errorf("open: %d starts while Redis was away, as if it were not", away)
			}
		case "local":
			if float64(away) < 2*ratePerSecond-lost.Seconds()*ratePerSecond {
				t.Errorf("local: %d starts while Redis was away, want those of all shares", away)
			}
		case "closed":
			last := killed // of what had been booked before
			for _, b := range of.booked {
				// A question that was under way may have been answered.
				if b.asked > killed && b.asked < back {
					t.Errorf("closed: a start was booked %s after Redis was killed", time.Duration(b.asked-killed))
				}
				if b.asked <= killed {
					last = max(last, b.start)
				}
			}
			// A booking may be used for a second, if no worker has a slot.
			if n := between(of.starts, last+int64(time.Second+slack), back); n > 0 {
				t.Errorf("closed: %d starts while Redis was away, later than %s after it was killed", n, time.Duration(last-killed))
			}
		}
	}
}
