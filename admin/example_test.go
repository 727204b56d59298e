package admin_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/admin"
	"github.com/peltonq/pelton/internal/embed"
)

// No more than four tasks of low priority run at a time, over all workers, and then
// none at all.
func ExampleClient_SetQueue() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	err := withBroker(ctx, func(client *admin.Client) error {
		_, err := client.SetQueue(ctx, "emails", func(s *pelton.QueueSettings) {
			s.MaxRunning = map[pelton.Priority]int{pelton.Low: 4}
			s.Timeout = 30 * time.Second
		})
		if err != nil {
			return err
		}
		queue, err := client.Pause(ctx, "emails", pelton.Low)
		if err != nil {
			return err
		}
		fmt.Println(queue.Settings.MaxRunning, queue.Settings.Timeout, queue.Priorities[pelton.Low].Paused, queue.Paused)
		return nil
	})
	if err != nil {
		log.Print(err)
	}
	// Output: map[low:4] 30s true false
}

// Which workers are there, and what they run.
func ExampleClient_Workers() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	err := withBroker(ctx, func(client *admin.Client) error {
		page, err := client.Workers(ctx, pelton.WorkerQuery{})
		if err != nil {
			return err
		}
		for _, w := range page.Items {
			fmt.Println(w.Host, w.Queues, len(w.Running), "of", w.Concurrency)
		}
		fmt.Println(len(page.Items), "workers")
		return nil
	})
	if err != nil {
		log.Print(err)
	}
	// Output: 0 workers
}

// withBroker stands for a client on a connection to an installation.
func withBroker(ctx context.Context, use func(*admin.Client) error) error {
	dir, err := os.MkdirTemp("", "pelton-example-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	srv, err := embed.Start(ctx, embed.Config{Dir: dir})
	if err != nil {
		return err
	}
	defer func() { _ = srv.Shutdown(context.WithoutCancel(ctx)) }()
	nc, err := srv.Connect()
	if err != nil {
		return err
	}
	defer nc.Close()
	client, err := admin.New(ctx, nc, admin.Config{})
	if err != nil {
		return err
	}
	defer client.Close()
	return use(client)
}
