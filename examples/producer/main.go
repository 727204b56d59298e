// Command producer enqueues one email and waits for its receipt.
//
//	go run ./producer ada@example.com
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/examples/mail"
	"github.com/peltonq/pelton/producer"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: producer ADDRESS")
		os.Exit(2)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := run(ctx, os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "producer:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, to string) error {
	url := os.Getenv("PELTON_NATS")
	if url == "" {
		url = nats.DefaultURL
	}
	nc, err := nats.Connect(url, nats.MaxReconnects(-1))
	if err != nil {
		return fmt.Errorf("connect to %s: %w", url, err)
	}
	defer nc.Close()
	client, err := producer.New(ctx, nc, producer.Config{})
	if err != nil {
		return err
	}
	defer client.Close()

	task, err := producer.Enqueue(ctx, client, mail.Send, mail.Email{To: to, Subject: "Hello"}, pelton.WithPriority(pelton.High))
	if err != nil {
		return err
	}
	fmt.Println("enqueued", task.ID)

	receipt, err := producer.Await(ctx, client, mail.Send, task.ID)
	if errors.Is(err, pelton.ErrFailed) {
		return fmt.Errorf("the email was not sent: %w", err)
	}
	if err != nil {
		return err
	}
	fmt.Println("sent", receipt.MessageID)
	return nil
}
