package main

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/embed"
	"github.com/peltonq/pelton/producer"
	"github.com/peltonq/pelton/worker"
)

// peltonTCP is `pelton serve` with its broker on a port, the Go client in this
// process or its HTTP API, and workers in processes of their own.
type peltonTCP struct {
	sender
	rounds
	binary string
	http   bool   // enqueue by POST /tasks
	sync   string // --sync; empty means its default

	server *server
	nc     *nats.Conn
	client *producer.Client
}

func (p *peltonTCP) start(ctx context.Context, dir string) (err error) {
	p.next(dir)
	var args []string
	if p.sync != "" {
		args = []string{"--sync", p.sync}
	}
	if p.server, err = serve(ctx, p.binary, p.data(), args...); err != nil {
		return err
	}
	if p.nc, err = nats.Connect(p.server.nats); err != nil {
		return errors.Join(err, p.server.stop())
	}
	if p.client, err = producer.New(ctx, p.nc, producer.Config{}); err != nil {
		p.nc.Close()
		return errors.Join(err, p.server.stop())
	}
	p.sender = peltonSender(p.client)
	if p.http {
		many := p.many
		p.sender = httpSender(p.server.http, `{"kind":"bench.noop","payload":`, `}`)
		if p.sync != "" { // what is synced is to be seen, not what HTTP costs
			p.many = many
		}
	}
	return nil
}

func (p *peltonTCP) hire(ctx context.Context, c *crew, processes int) (func() error, error) {
	return p.hireAs(ctx, c, processes, staff{Slots: workerSlots})
}

// hireAs is hire with other workers in each process.
func (p *peltonTCP) hireAs(ctx context.Context, c *crew, processes int, s staff) (func() error, error) {
	says, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	return workers(ctx, c, processes, filepath.Join(p.dir, "worker"), "pelton", p.server.nats, string(says))
}

// staff are the workers of a process.
type staff struct {
	Workers int      `json:"workers"` // each with a connection of its own; 0 means one
	Slots   int      `json:"slots"`   // of each
	Queues  []string `json:"queues"`  // nil means the default queue
	// Each is how many of the queues each worker serves; 0 means all. The one with number
	// First+i, counted round, is the first of worker i.
	Each  int `json:"each,omitempty"`
	First int `json:"first,omitempty"`
}

// of is the staff of worker i alone.
func (s staff) of(i int) staff {
	if s.Each == 0 {
		return s
	}
	own := make([]string, s.Each)
	for j := range own {
		own[j] = s.Queues[(s.First+i+j)%len(s.Queues)]
	}
	s.Queues = own
	return s
}

func (p *peltonTCP) footprint() ([]int, string) { return []int{p.server.cmd.Process.Pid}, p.data() }

func (p *peltonTCP) stop() error {
	p.client.Close()
	p.nc.Close()
	return errors.Join(p.server.stop(), p.clean())
}

// benchKind is what the workers of peltonTCP and peltonEmbedded handle.
const benchKind = "bench.noop"

func peltonSender(client *producer.Client) sender {
	return sender{
		one: func(ctx context.Context, payload []byte) error {
			_, err := client.Enqueue(ctx, pelton.Spec{Kind: benchKind, Payload: payload})
			return err
		},
		many: func(ctx context.Context, n int) error {
			return enqueueMany(ctx, client, slices.Repeat([]pelton.Spec{{Kind: benchKind, Payload: payload}}, n))
		},
	}
}

// enqueueMany is EnqueueMany that fails if one of the tasks does.
func enqueueMany(ctx context.Context, client *producer.Client, specs []pelton.Spec) error {
	items, err := client.EnqueueMany(ctx, specs)
	for _, item := range items {
		err = errors.Join(err, item.Err)
	}
	return err
}

// peltonWorker is the role of a worker process. Its arguments are the broker's URL
// and a staff in JSON.
func peltonWorker(ctx context.Context, args []string, t *tally) error {
	var s staff
	if err := json.Unmarshal([]byte(args[1]), &s); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	errs := make([]error, max(1, s.Workers))
	var group sync.WaitGroup
	for i := range errs {
		group.Go(func() {
			defer cancel() // one that ends takes the others with it
			nc, err := nats.Connect(args[0])
			if err != nil {
				errs[i] = err
				return
			}
			defer nc.Close()
			errs[i] = runPelton(ctx, nc, t, s.of(i))
		})
	}
	group.Wait()
	return errors.Join(errs...)
}

func runPelton(ctx context.Context, nc *nats.Conn, t *tally, s staff) error {
	mux := worker.NewMux()
	mux.Handle(benchKind, worker.HandlerFunc(func(_ context.Context, task *pelton.Task) (json.RawMessage, error) {
		t.handled(sentAt(task.Payload))
		return nil, nil
	}))
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	w, err := worker.New(nc, mux, worker.Config{Concurrency: s.Slots, Queues: s.Queues, Logger: log})
	if err != nil {
		return err
	}
	return w.Run(ctx)
}

// peltonEmbedded has broker, client and worker in this process: what a program does
// that needs one process only.
type peltonEmbedded struct {
	sender
	rounds

	broker *embed.Server
	nc     *nats.Conn
	client *producer.Client
}

func (p *peltonEmbedded) start(ctx context.Context, dir string) (err error) {
	p.next(dir)
	if p.broker, err = embed.Start(ctx, embed.Config{Dir: p.data()}); err != nil {
		return err
	}
	if p.nc, err = p.broker.Connect(); err != nil {
		return errors.Join(err, p.shutdown(ctx))
	}
	if p.client, err = producer.New(ctx, p.nc, producer.Config{}); err != nil {
		p.nc.Close()
		return errors.Join(err, p.shutdown(ctx))
	}
	p.sender = peltonSender(p.client)
	return nil
}

// shutdown ends the broker, even if ctx has ended.
func (p *peltonEmbedded) shutdown(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), quitWithin)
	defer cancel()
	return p.broker.Shutdown(ctx)
}

func (p *peltonEmbedded) hire(ctx context.Context, c *crew, processes int) (func() error, error) {
	if processes != 1 {
		return nil, errors.New("in-process, there is one process")
	}
	nc, err := p.broker.Connect()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	t, told, ended := &tally{}, make(chan struct{}), make(chan error, 1)
	go func() {
		defer close(told)
		t.tell(ctx, func(r report) { c.heard(0, r) })
	}()
	go func() {
		err := runPelton(ctx, nc, t, staff{Slots: workerSlots})
		if err != nil && ctx.Err() == nil {
			c.failed <- err
		}
		ended <- err
	}()
	return func() error {
		cancel()
		<-told
		err := <-ended
		nc.Close()
		return err
	}, nil
}

func (p *peltonEmbedded) footprint() ([]int, string) { return nil, p.data() }

func (p *peltonEmbedded) stop() error {
	p.client.Close()
	p.nc.Close()
	return errors.Join(p.shutdown(context.Background()), p.clean())
}

// perSecond is a rate.
func perSecond(n int, took time.Duration) float64 { return float64(n) / took.Seconds() }
