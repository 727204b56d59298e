package scheduler_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/embed"
	"github.com/peltonq/pelton/scheduler"
)

// A service declares its schedules when it starts: what it does not declare any more
// goes, and schedules of others stay. The ticks are fired by pelton serve.
func ExampleClient_Apply() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	nightly := pelton.Schedule{
		Name: "billing-nightly", Cron: "30 2 * * *", Zone: "Europe/Berlin", Overlap: pelton.OverlapSkip,
		Task: pelton.Spec{Kind: "billing.close-day", Priority: pelton.Low},
	}
	rates := pelton.Schedule{
		Name: "billing-rates", Every: 15 * time.Minute, Jitter: time.Minute, CatchUp: pelton.CatchUpNone,
		Task: pelton.Spec{Kind: "billing.fetch-rates"},
	}
	err := withScheduler(ctx, func(client *scheduler.Client) error {
		for _, want := range [][]pelton.Schedule{{nightly, rates}, {nightly}} {
			applied, err := client.Apply(ctx, "billing", want)
			if err != nil {
				return err
			}
			fmt.Println("created", applied.Created, "unchanged", applied.Unchanged, "deleted", applied.Deleted)
		}
		return nil
	})
	if err != nil {
		log.Print(err)
	}
	// Output:
	// created [billing-nightly billing-rates] unchanged [] deleted []
	// created [] unchanged [billing-nightly] deleted [billing-rates]
}

// withScheduler stands for a client on a connection to an installation.
func withScheduler(ctx context.Context, use func(*scheduler.Client) error) error {
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
	client, err := scheduler.New(ctx, nc, scheduler.Config{})
	if err != nil {
		return err
	}
	defer client.Close()
	return use(client)
}
