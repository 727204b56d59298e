package migration

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/producer"
	"github.com/peltonq/pelton/worker"
)

var welcomeKind = pelton.NewKind[welcome, struct{}]("email:welcome",
	pelton.WithQueue("emails"), pelton.WithMaxAttempts(6), pelton.WithTimeout(30*time.Second))

// EnqueuePelton gives the id of the task.
func EnqueuePelton(ctx context.Context, client *producer.Client, user int) (string, error) {
	key := strconv.Itoa(user) // what makes two of them the same
	task, err := producer.Enqueue(ctx, client, welcomeKind, welcome{User: user},
		pelton.WithUnique(pelton.Unique{Key: key, Window: time.Hour}))
	if err != nil {
		return "", err // *pelton.UniqueError: there is one, and it says which
	}
	return task.ID.String(), nil
}

// PeltonMux has the handlers.
func PeltonMux(mailer Mailer) *worker.Mux {
	mux := worker.NewMux()
	worker.HandleFunc(mux, welcomeKind, func(ctx context.Context, w welcome) error {
		if w.User == 0 {
			return pelton.Discard(errors.New("no user"))
		}
		return mailer.Welcome(ctx, w.User)
	})
	return mux
}

// WorkPelton runs until ctx ends.
func WorkPelton(ctx context.Context, nc *nats.Conn, mailer Mailer) error {
	w, err := worker.New(nc, PeltonMux(mailer), worker.Config{Concurrency: 10, Queues: []string{"emails", "default"}})
	if err != nil {
		return err
	}
	return w.Run(ctx)
}
