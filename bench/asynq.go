package main

import (
	"context"
	"errors"
	"io"
	"net/http"
	"path/filepath"
	"time"

	"github.com/hibiken/asynq"
)

// asynqRedis is asynq with as many connections as there are callers, and otherwise
// its defaults: a finished task is deleted, so there is no status to write.
type asynqRedis struct {
	sender
	redisServer
	check time.Duration // how often an idle worker asks; 0 means asynq's default of 1 s
	http  bool          // enqueue behind net/http

	client *asynq.Client
	server *child
}

func asynqOptions(addr string) asynq.RedisClientOpt {
	return asynq.RedisClientOpt{Addr: addr, PoolSize: workerSlots}
}

func (a *asynqRedis) start(ctx context.Context, dir string) (err error) {
	if err := a.startRedis(ctx, dir); err != nil {
		return err
	}
	if a.http {
		var addr string
		if a.server, addr, err = listening(ctx, filepath.Join(dir, "http.log"), "asynq-http", a.addr); err != nil {
			return errors.Join(err, a.stopRedis())
		}
		a.sender = httpSender(addr, "", "")
		a.many = nil
		return nil
	}
	a.client = asynq.NewClient(asynqOptions(a.addr))
	a.sender = sender{one: func(ctx context.Context, payload []byte) error {
		_, err := a.client.EnqueueContext(ctx, asynq.NewTask("bench.noop", payload))
		return err
	}}
	return nil
}

func (a *asynqRedis) hire(ctx context.Context, c *crew, processes int) (func() error, error) {
	return workers(ctx, c, processes, filepath.Join(a.dir, "worker"), "asynq", a.addr, a.check.String())
}

func (a *asynqRedis) stop() error {
	var err error
	if a.http {
		err = a.server.stop()
	} else {
		err = a.client.Close()
	}
	return errors.Join(err, a.stopRedis())
}

// asynqWorker is the role of a worker process. Its arguments are the address of
// Redis and the check interval.
func asynqWorker(ctx context.Context, args []string, t *tally) error {
	check, err := time.ParseDuration(args[1])
	if err != nil {
		return err
	}
	server := asynq.NewServer(asynqOptions(args[0]), asynq.Config{Concurrency: workerSlots, TaskCheckInterval: check, LogLevel: asynq.ErrorLevel})
	if err := server.Start(asynq.HandlerFunc(func(_ context.Context, task *asynq.Task) error {
		t.handled(sentAt(task.Payload()))
		return nil
	})); err != nil {
		return err
	}
	<-ctx.Done()
	server.Shutdown()
	return nil
}

// asynqServer is the role of an HTTP server that enqueues each body. Its argument
// is the address of Redis.
func asynqServer(ctx context.Context, args []string) error {
	client := asynq.NewClient(asynqOptions(args[0]))
	defer client.Close()
	return serveHTTP(ctx, func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		task, err := client.EnqueueContext(r.Context(), asynq.NewTask("bench.noop", body))
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusAccepted)
		_, _ = io.WriteString(w, `{"id":"`+task.ID+`"}`) //nolint:gosec // G705: the id is asynq's own, and this is no page
	})
}
