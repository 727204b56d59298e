// Package migration is the code of docs/migrate-from-asynq.md: a small program with
// asynq, the same with Pelton, and what carries tasks from one to the other.
package migration

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/hibiken/asynq"
)

// Mailer is what both programs send with.
type Mailer interface {
	Welcome(ctx context.Context, user int) error
}

const typeWelcome = "email:welcome"

type welcome struct {
	User int `json:"user"`
}

// EnqueueAsynq gives the id of the task.
func EnqueueAsynq(ctx context.Context, client *asynq.Client, user int) (string, error) {
	payload, err := json.Marshal(welcome{User: user})
	if err != nil {
		return "", err
	}
	info, err := client.EnqueueContext(ctx, asynq.NewTask(typeWelcome, payload),
		asynq.Queue("emails"), asynq.MaxRetry(5), asynq.Timeout(30*time.Second),
		asynq.Unique(time.Hour), asynq.Retention(24*time.Hour))
	if err != nil {
		return "", err // asynq.ErrDuplicateTask: there is one
	}
	return info.ID, nil
}

// AsynqMux has the handlers.
func AsynqMux(mailer Mailer) *asynq.ServeMux {
	mux := asynq.NewServeMux()
	mux.HandleFunc(typeWelcome, func(ctx context.Context, t *asynq.Task) error {
		var w welcome
		if err := json.Unmarshal(t.Payload(), &w); err != nil {
			return err
		}
		if w.User == 0 {
			return fmt.Errorf("no user: %w", asynq.SkipRetry)
		}
		return mailer.Welcome(ctx, w.User)
	})
	return mux
}

// WorkAsynq runs until the process gets a signal.
func WorkAsynq(redis asynq.RedisConnOpt, mailer Mailer) error {
	server := asynq.NewServer(redis, asynq.Config{Concurrency: 10, Queues: map[string]int{"emails": 3, "default": 1}})
	return server.Run(AsynqMux(mailer))
}
