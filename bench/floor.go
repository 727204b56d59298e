package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// floor is what this broker allows: a bare nats.go program that publishes to a work
// queue, and workers that pull, write one status each, pipelined, and acknowledge
// the message when that is confirmed. No retries, no schedules, no priorities, no
// cancelling. The server syncs as often as Pelton's does by default.
type floor struct {
	sender
	rounds
	inProcess bool
	synced    bool // every write is on disk before it is confirmed

	process *child             // over TCP
	server  *natsserver.Server // in-process
	url     string
	nc      *nats.Conn
}

const (
	floorStream   = "FLOOR"
	floorSubject  = "floor.ready"
	floorConsumer = "workers"
	floorBucket   = "FLOOR_STATE"
	floorWindow   = 4000 // publishes that may be unconfirmed, as nats.go's default is
)

func (f *floor) start(ctx context.Context, dir string) (err error) {
	f.next(dir)
	if f.inProcess {
		if f.server, err = runNATS(natsOptions(f.data(), true, f.synced)); err != nil {
			return err
		}
		f.nc, err = nats.Connect("", nats.InProcessServer(f.server))
	} else {
		if f.process, f.url, err = listening(ctx, filepath.Join(dir, "nats-server.log"), "nats-server", f.data(), strconv.FormatBool(f.synced)); err != nil {
			return err
		}
		f.nc, err = nats.Connect(f.url)
	}
	if err != nil {
		return errors.Join(err, f.end())
	}
	if err := f.create(ctx); err != nil {
		f.nc.Close()
		return errors.Join(err, f.end())
	}
	return nil
}

func (f *floor) create(ctx context.Context) error {
	js, err := jetstream.New(f.nc, jetstream.WithPublishAsyncMaxPending(floorWindow))
	if err != nil {
		return err
	}
	stream, err := js.CreateStream(ctx, jetstream.StreamConfig{
		Name: floorStream, Subjects: []string{floorSubject}, Retention: jetstream.WorkQueuePolicy, Storage: jetstream.FileStorage,
	})
	if err != nil {
		return err
	}
	if _, err := stream.CreateConsumer(ctx, jetstream.ConsumerConfig{
		Durable: floorConsumer, AckPolicy: jetstream.AckExplicitPolicy, MaxAckPending: -1, AckWait: 30 * time.Second,
	}); err != nil {
		return err
	}
	if _, err := js.CreateKeyValue(ctx, jetstream.KeyValueConfig{Bucket: floorBucket, History: 1, Storage: jetstream.FileStorage}); err != nil {
		return err
	}
	f.sender = sender{
		one: func(ctx context.Context, payload []byte) error {
			ack, err := js.PublishAsync(floorSubject, payload, jetstream.WithStallWait(callWithin))
			if err != nil {
				return err
			}
			return confirmed(ctx, ack)
		},
		many: func(ctx context.Context, n int) error {
			acks := make([]jetstream.PubAckFuture, n)
			for i := range acks {
				if acks[i], err = js.PublishAsync(floorSubject, payload, jetstream.WithStallWait(callWithin)); err != nil {
					return err
				}
			}
			for _, ack := range acks {
				if err := confirmed(ctx, ack); err != nil {
					return err
				}
			}
			return nil
		},
	}
	return nil
}

func confirmed(ctx context.Context, ack jetstream.PubAckFuture) error {
	select {
	case <-ack.Ok():
		return nil
	case err := <-ack.Err():
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (f *floor) hire(ctx context.Context, c *crew, processes int) (func() error, error) {
	return workers(ctx, c, processes, filepath.Join(f.dir, "worker"), "floor", f.url)
}

func (f *floor) footprint() ([]int, string) {
	if f.inProcess {
		return nil, f.data()
	}
	return []int{f.process.cmd.Process.Pid}, f.data()
}

func (f *floor) stop() error {
	f.nc.Close()
	return errors.Join(f.end(), f.clean())
}

// end stops the server.
func (f *floor) end() error {
	if f.inProcess {
		f.server.Shutdown()
		f.server.WaitForShutdown()
		return nil
	}
	return f.process.stop()
}

// floorWorker is the role of a worker process. Its argument is the broker's URL.
func floorWorker(ctx context.Context, args []string, t *tally) error {
	nc, err := nats.Connect(args[0])
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(floorWindow))
	if err != nil {
		return err
	}
	consumer, err := js.Consumer(ctx, floorStream, floorConsumer)
	if err != nil {
		return err
	}
	type written struct {
		message jetstream.Msg
		status  jetstream.PubAckFuture
	}
	pipeline := make(chan written, floorWindow)
	failed := make(chan error, 1)
	fail := func(err error) {
		select {
		case failed <- err:
		default:
		}
	}
	acked := make(chan struct{})
	go func() { // acknowledges in the order of the writes
		defer close(acked)
		for w := range pipeline {
			err := confirmed(ctx, w.status)
			if err == nil {
				err = w.message.Ack()
			}
			if err != nil {
				if ctx.Err() == nil {
					fail(err)
				}
				continue
			}
			t.handled(sentAt(w.message.Data()))
		}
	}()
	status := padded(`{"state":"succeeded","data":"`)
	pulling, err := consumer.Consume(func(m jetstream.Msg) {
		meta, err := m.Metadata()
		if err != nil {
			fail(err)
			return
		}
		key := "$KV." + floorBucket + "." + strconv.FormatUint(meta.Sequence.Stream, 10)
		ack, err := js.PublishAsync(key, status, jetstream.WithStallWait(callWithin))
		if err != nil {
			fail(err)
			return
		}
		pipeline <- written{m, ack}
	}, jetstream.PullMaxMessages(batchSize), jetstream.PullHeartbeat(time.Second))
	if err != nil {
		close(pipeline)
		return err
	}
	select {
	case err = <-failed:
	case <-ctx.Done():
	}
	pulling.Stop()
	<-pulling.Closed()
	close(pipeline)
	<-acked
	return err
}

// natsServer is the role of the broker. Its arguments are the data folder, and
// whether every write is synced.
func natsServer(ctx context.Context, args []string) error {
	synced, err := strconv.ParseBool(args[1])
	if err != nil {
		return err
	}
	return serveNATS(ctx, natsOptions(args[0], false, synced))
}

func natsOptions(data string, inProcess, synced bool) *natsserver.Options {
	return &natsserver.Options{
		Host: "127.0.0.1", Port: natsserver.RANDOM_PORT, DontListen: inProcess, JetStream: true, StoreDir: data,
		SyncInterval: time.Second, SyncAlways: synced, NoSigs: true, NoLog: true,
	}
}

func runNATS(opts *natsserver.Options) (*natsserver.Server, error) {
	s, err := natsserver.NewServer(opts)
	if err != nil {
		return nil, err
	}
	s.Start()
	if !s.ReadyForConnections(quitWithin) {
		s.Shutdown()
		return nil, fmt.Errorf("nats-server is not ready after %s: %w", quitWithin, net.ErrClosed)
	}
	return s, nil
}
