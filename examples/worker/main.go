// Command worker sends emails, or would: it shows a worker of its own program.
//
//	pelton serve --nats-listen 127.0.0.1:4222
//	go run ./worker
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/examples/mail"
	"github.com/peltonq/pelton/worker"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "worker:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	url := os.Getenv("PELTON_NATS")
	if url == "" {
		url = nats.DefaultURL
	}
	nc, err := nats.Connect(url, nats.MaxReconnects(-1)) // outlive a restart of the broker
	if err != nil {
		return fmt.Errorf("connect to %s: %w", url, err)
	}
	defer nc.Close()

	mux := worker.NewMux()
	mux.Use(logged)
	worker.Handle(mux, mail.Send, send)
	w, err := worker.New(nc, mux, worker.Config{
		Queues:      []string{"emails"},
		Concurrency: 8,
		Reserves:    map[pelton.Priority]int{pelton.Critical: 1},
		Logger:      slog.Default(),
	})
	if err != nil {
		return err
	}
	return w.Run(ctx) // until SIGTERM; then running handlers may finish
}

// send is the handler. An error leads to a retry with a growing delay.
func send(ctx context.Context, e mail.Email) (mail.Receipt, error) {
	if e.To == "" {
		return mail.Receipt{}, pelton.Discard(fmt.Errorf("no recipient")) // trying again would not help
	}
	task := worker.From(ctx)
	return mail.Receipt{MessageID: "m-" + task.ID.String()[:8], SentAt: time.Now().UTC()}, nil
}

// logged is middleware around every handler, as in net/http.
func logged(next worker.Handler) worker.Handler {
	return worker.HandlerFunc(func(ctx context.Context, task *pelton.Task) (json.RawMessage, error) {
		start := time.Now()
		result, err := next.ServeTask(ctx, task)
		slog.InfoContext(ctx, "task ran", "task_id", task.ID.String(), "kind", task.Kind, "took", time.Since(start).String(), "error", err)
		return result, err
	})
}
