package producer_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/embed"
	"github.com/peltonq/pelton/producer"
	"github.com/peltonq/pelton/worker"
)

// connect stands for nats.Connect to the broker of an installation.
func connect(ctx context.Context) (nc *nats.Conn, end func(), err error) {
	dir, err := os.MkdirTemp("", "pelton-example-")
	if err != nil {
		return nil, nil, err
	}
	srv, err := embed.Start(ctx, embed.Config{Dir: dir})
	if err != nil {
		return nil, nil, errors.Join(err, os.RemoveAll(dir))
	}
	if nc, err = srv.Connect(); err != nil {
		return nil, nil, errors.Join(err, srv.Shutdown(ctx), os.RemoveAll(dir))
	}
	return nc, func() {
		nc.Close()
		if err := errors.Join(srv.Shutdown(context.WithoutCancel(ctx)), os.RemoveAll(dir)); err != nil {
			log.Print(err)
		}
	}, nil
}

// One process enqueues a typed task and waits for its result; another, here the
// same, runs it.
func Example() {
	type email struct{ To string }
	type receipt struct{ ID string }
	sendEmail := pelton.NewKind[email, receipt]("email.send", pelton.WithQueue("emails"), pelton.WithTimeout(30*time.Second))

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	nc, end, err := connect(ctx)
	if err != nil {
		log.Print(err)
		return
	}
	defer end()

	client, err := producer.New(ctx, nc, producer.Config{})
	if err != nil {
		log.Print(err)
		return
	}
	defer client.Close()
	task, err := producer.Enqueue(ctx, client, sendEmail, email{To: "ada@example.org"}, pelton.WithPriority(pelton.High))
	if err != nil {
		log.Print(err)
		return
	}
	fmt.Println(task.Kind, "in", task.Queue, "is", task.State)

	stop := work(ctx, nc, func(mux *worker.Mux) {
		worker.Handle(mux, sendEmail, func(_ context.Context, e email) (receipt, error) {
			return receipt{ID: "sent-to-" + e.To}, nil
		})
	})
	defer stop()

	got, err := producer.Await(ctx, client, sendEmail, task.ID)
	if err != nil {
		log.Print(err)
		return
	}
	fmt.Println(got.ID)
	// Output:
	// email.send in emails is queued
	// sent-to-ada@example.org
}

// A unique key keeps a second task of the kind out while the first is unfinished, an
// idempotency key makes repeating a request safe.
func ExampleClient_Enqueue_keys() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	nc, end, err := connect(ctx)
	if err != nil {
		log.Print(err)
		return
	}
	defer end()
	client, err := producer.New(ctx, nc, producer.Config{})
	if err != nil {
		log.Print(err)
		return
	}
	defer client.Close()

	report := pelton.Spec{Kind: "report.build", Payload: []byte(`{"customer":42}`)}
	first, err := client.Enqueue(ctx, report, pelton.WithUnique(pelton.Unique{Key: "customer-42"}))
	if err != nil {
		log.Print(err)
		return
	}
	_, err = client.Enqueue(ctx, report, pelton.WithUnique(pelton.Unique{Key: "customer-42"}))
	var held *pelton.UniqueError
	fmt.Println("refused:", errors.As(err, &held) && held.Holder == first.ID)

	mail := pelton.Spec{Kind: "email.send", Payload: []byte(`{"to":"ada@example.org"}`)}
	one, err := client.Enqueue(ctx, mail, pelton.WithIdempotencyKey("order-4711"))
	if err != nil {
		log.Print(err)
		return
	}
	again, err := client.Enqueue(ctx, mail, pelton.WithIdempotencyKey("order-4711"))
	fmt.Println("one task:", err == nil && again.ID == one.ID)
	// Output:
	// refused: true
	// one task: true
}

// Entries of one account are posted one at a time, in the order in which they were
// enqueued, however many workers there are.
func Example_concurrencyKey() {
	type entry struct{ Amount int }
	post := pelton.NewKind[entry, int]("ledger.post", pelton.WithQueue("emails"))

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	nc, end, err := connect(ctx)
	if err != nil {
		log.Print(err)
		return
	}
	defer end()
	client, err := producer.New(ctx, nc, producer.Config{})
	if err != nil {
		log.Print(err)
		return
	}
	defer client.Close()

	balance := 0 // needs no lock: no two handlers of an account run at a time
	stop := work(ctx, nc, func(mux *worker.Mux) {
		worker.Handle(mux, post, func(_ context.Context, e entry) (int, error) {
			balance += e.Amount
			return balance, nil
		})
	})
	defer stop()

	var tasks []pelton.ID
	for _, amount := range []int{100, -30, 7} {
		task, err := producer.Enqueue(ctx, client, post, entry{amount}, pelton.WithConcurrencyKey("account-42"))
		if err != nil {
			log.Print(err)
			return
		}
		tasks = append(tasks, task.ID)
	}
	for _, id := range tasks {
		after, err := producer.Await(ctx, client, post, id)
		if err != nil {
			log.Print(err)
			return
		}
		fmt.Println(after)
	}
	// Output:
	// 100
	// 70
	// 77
}

// work serves the queue emails until stop is called.
func work(ctx context.Context, nc *nats.Conn, register func(*worker.Mux)) (stop func()) {
	mux := worker.NewMux()
	register(mux)
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		w, err := worker.New(nc, mux, worker.Config{Queues: []string{"emails"}})
		if err == nil {
			err = w.Run(ctx)
		}
		if err != nil {
			log.Print(err)
		}
	}()
	return func() { cancel(); <-ended }
}
