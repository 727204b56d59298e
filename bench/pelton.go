package main

import (
	"context"
	"encoding/json"
	"errors"
	"path/filepath"
	"slices"
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
	http   bool // enqueue by POST /tasks

	server *server
	nc     *nats.Conn
	client *producer.Client
}

func (p *peltonTCP) start(ctx context.Context, dir string) (err error) {
	p.next(dir)
	if p.server, err = serve(ctx, p.binary, p.data()); err != nil {
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
		p.sender = httpSender(p.server.http, `{"kind":"bench.noop","payload":`, `}`)
	}
	return nil
}

func (p *peltonTCP) hire(ctx context.Context, c *crew, processes int) (func() error, error) {
	return workers(ctx, c, processes, filepath.Join(p.dir, "worker"), "pelton", p.server.nats)
}

func (p *peltonTCP) footprint() ([]int, string) { return []int{p.server.cmd.Process.Pid}, p.data() }

func (p *peltonTCP) stop() error {
	p.client.Close()
	p.nc.Close()
	return errors.Join(p.server.stop(), p.clean())
}

func peltonSender(client *producer.Client) sender {
	return sender{
		one: func(ctx context.Context, payload []byte) error {
			_, err := client.Enqueue(ctx, pelton.Spec{Kind: "bench.noop", Payload: payload})
			return err
		},
		many: func(ctx context.Context, n int) error {
			items, err := client.EnqueueMany(ctx, slices.Repeat([]pelton.Spec{{Kind: "bench.noop", Payload: payload}}, n))
			for _, item := range items {
				err = errors.Join(err, item.Err)
			}
			return err
		},
	}
}

// peltonWorker is the role of a worker process. Its argument is the broker's URL.
func peltonWorker(ctx context.Context, args []string, t *tally) error {
	nc, err := nats.Connect(args[0])
	if err != nil {
		return err
	}
	defer nc.Close()
	return runPelton(ctx, nc, t)
}

func runPelton(ctx context.Context, nc *nats.Conn, t *tally) error {
	mux := worker.NewMux()
	mux.Handle("bench.noop", worker.HandlerFunc(func(_ context.Context, task *pelton.Task) (json.RawMessage, error) {
		t.handled(sentAt(task.Payload))
		return nil, nil
	}))
	w, err := worker.New(nc, mux, worker.Config{Concurrency: workerSlots})
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
		return errors.Join(err, p.shutdown())
	}
	if p.client, err = producer.New(ctx, p.nc, producer.Config{}); err != nil {
		p.nc.Close()
		return errors.Join(err, p.shutdown())
	}
	p.sender = peltonSender(p.client)
	return nil
}

func (p *peltonEmbedded) shutdown() error {
	ctx, cancel := context.WithTimeout(context.Background(), quitWithin)
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
		err := runPelton(ctx, nc, t)
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
	return errors.Join(p.shutdown(), p.clean())
}

// perSecond is a rate.
func perSecond(n int, took time.Duration) float64 { return float64(n) / took.Seconds() }
