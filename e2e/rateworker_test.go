package e2e_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/chaos/history"
	"github.com/peltonq/pelton/internal/limit"
	"github.com/peltonq/pelton/producer"
	"github.com/peltonq/pelton/redislimit"
	working "github.com/peltonq/pelton/worker"
)

// rateWorkerEnv makes this test's binary a worker process of a fleet that holds rates:
// its rateWorker as JSON.
const rateWorkerEnv = "PELTON_E2E_RATE_WORKER"

// rateWorker says what the process works with, and where it writes down what it did:
// one line for each start and each booking, with times that all processes share.
type rateWorker struct {
	NATS, Redis, File string
	Share             float64
}

// notes is the file of a process, in lines of "what name time…" (nanoseconds).
type notes struct {
	mu sync.Mutex
	w  io.Writer
}

func (n *notes) add(what, name string, times ...int64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	_, _ = fmt.Fprintln(n.w, what, name, strings.Trim(fmt.Sprint(times), "[]")) // a test that finds too few says so
}

// RedisUp notes that the process has given Redis up.
func (n *notes) RedisUp(up bool) {
	if !up {
		n.add("down", "-", history.Now())
	}
}

// LimitFellBack notes a question that Redis did not answer in time.
func (n *notes) LimitFellBack(string, string) { n.add("alone", "-", history.Now()) }

// noting is the Limiter of the process, which notes when what it booked is to start.
type noting struct {
	*redislimit.Limiter
	notes *notes
}

func (l noting) Book(ctx context.Context, b limit.Bucket, n int, ahead time.Duration) limit.Booking {
	asked := history.Now()
	booking := l.Limiter.Book(ctx, b, n, ahead)
	if booking.OK && strings.HasSuffix(b.Key, ":start") {
		l.notes.add("booked", b.Limit, asked, history.Now()+int64(booking.Wait))
	}
	return booking
}

// run is the process.
func (r *rateWorker) run() error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	file, err := os.Create(r.File)
	if err != nil {
		return err
	}
	defer file.Close()
	n := &notes{w: file}
	log := slog.New(slog.NewJSONHandler(os.Stderr, nil))
	redislimit.Silence()
	l, err := redislimit.Open(ctx, r.Redis, redislimit.Config{Share: r.Share, Observer: n, Logger: log})
	if err != nil {
		return err
	}
	defer func() { _ = l.Close() }()
	nc, err := nats.Connect(r.NATS, nats.Token("secret"))
	if err != nil {
		return err
	}
	defer nc.Close()
	mux := working.NewMux()
	for _, kind := range rateKinds() {
		mux.Handle(kind, working.HandlerFunc(func(context.Context, *pelton.Task) (json.RawMessage, error) {
			n.add("start", kind, history.Now())
			return nil, nil
		}))
	}
	w, err := working.New(nc, mux, working.Config{
		Queues: []string{"default", "paced"}, Concurrency: 16, Limiter: noting{l, n}, LimitShare: r.Share, Logger: log,
	})
	if err != nil {
		return err
	}
	client, err := producer.New(ctx, nc, producer.Config{})
	if err != nil {
		return err
	}
	defer client.Close()
	var probing sync.WaitGroup
	probing.Go(func() { probe(ctx, client, n) })
	defer probing.Wait()
	defer stop()
	return w.Run(ctx)
}

// probeStep is how often it does.
const probeStep = 10 * time.Millisecond

// probe does all the time what lies between the time of a booked start and its
// handler, a timer and questions to the broker, and notes how late that was.
func probe(ctx context.Context, client *producer.Client, n *notes) {
	unknown := pelton.NewID(time.Now(), 0)
	for at := history.Now() + int64(probeStep); ; at = max(at+int64(probeStep), history.Now()) {
		select {
		case <-time.After(time.Duration(at - history.Now())):
		case <-ctx.Done():
			return
		}
		_, _ = client.Get(ctx, unknown) // is not found, in two reads
		n.add("late", "-", at, history.Now()-at)
	}
}

// rateFleet is some rate workers, and what they wrote down.
type rateFleet struct {
	files []string
}

func startRateFleet(t *testing.T, s *server, redis string, n int) *rateFleet {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	f := &rateFleet{}
	dir := t.TempDir()
	for i := range n {
		r := rateWorker{NATS: s.nats, Redis: redis, File: filepath.Join(dir, strconv.Itoa(i)), Share: 1 / float64(n)}
		text, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(self)
		cmd.Env = append(os.Environ(), rateWorkerEnv+"="+string(text), "GORACE=halt_on_error=1")
		launch(t, cmd, "rate worker").line("worker started")
		f.files = append(f.files, r.File)
	}
	return f
}

// booking is when a start was asked for, and when it is to be.
type booking struct{ asked, start int64 }

// noted is what a fleet wrote down of one name, in the order of time.
type noted struct {
	starts []int64
	booked []booking
}

// told is what a fleet wrote down of the machine: how late probes were, by their time
// in nanoseconds, how often a process gave Redis up, and when a question was not
// answered by it.
type told struct {
	late  map[int64]int64
	down  int
	alone []int64
}

// read gives what was written down so far, by kind or limit, and of the machine.
func (f *rateFleet) read(t *testing.T) (byName map[string]*noted, machine told) {
	t.Helper()
	byName, machine.late = make(map[string]*noted), make(map[int64]int64)
	for _, name := range f.files {
		file, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		for lines := bufio.NewScanner(file); lines.Scan(); {
			words := strings.Fields(lines.Text())
			var times [2]int64
			for i, word := range words[min(2, len(words)):] {
				times[min(i, 1)], _ = strconv.ParseInt(word, 10, 64) // a torn last line is none
			}
			if len(words) < 3 || times[0] == 0 {
				continue
			}
			of := byName[words[1]]
			if of == nil {
				of = &noted{}
				byName[words[1]] = of
			}
			switch words[0] {
			case "start":
				of.starts = append(of.starts, times[0])
			case "booked":
				of.booked = append(of.booked, booking{times[0], times[1]})
			case "late":
				machine.late[times[0]] = max(machine.late[times[0]], times[1])
			case "down":
				machine.down++
			case "alone":
				machine.alone = append(machine.alone, times[0])
			}
		}
		_ = file.Close()
	}
	slices.Sort(machine.alone)
	for _, of := range byName {
		slices.Sort(of.starts)
	}
	return byName, machine
}
