// Package invoices has the handlers of docs/write-and-test-a-worker.md: each of
// them shows one thing that handlers do.
package invoices

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/worker"
)

type Order struct {
	Customer string `json:"customer"`
	Cents    int64  `json:"cents"`
}

type Invoice struct {
	Number string `json:"number"`
	PDF    string `json:"pdf"`
}

type Charge struct {
	Invoice  string `json:"invoice"`
	Customer string `json:"customer"`
	Cents    int64  `json:"cents"`
}

type Import struct {
	Customers []string `json:"customers"`
}

// The kinds, with the options that their tasks have unless they say otherwise.
var (
	Render = pelton.NewKind[Order, Invoice]("invoice.render",
		pelton.WithQueue("invoices"), pelton.WithTimeout(time.Minute))
	Collect = pelton.NewKind[Charge, string]("invoice.collect",
		pelton.WithQueue("invoices"), pelton.WithMaxAttempts(10), pelton.WithBackoff(pelton.Backoff{Initial: 5 * time.Second, Max: time.Hour}))
	ImportAll = pelton.NewKind[Import, struct{}]("invoice.import",
		pelton.WithQueue("imports"), pelton.WithTimeout(30*time.Minute))
)

// What the bank may answer beside an error that nobody expects.
var (
	ErrDeclined = errors.New("card declined")
	ErrTooMany  = errors.New("too many requests")
	ErrClosed   = errors.New("bank is closed")
)

// Bank is who is asked for money. The token is of a lock: a bank that has seen a
// higher one for the customer refuses.
type Bank interface {
	Charge(ctx context.Context, key, customer string, cents int64, token uint64) (receipt string, err error)
}

// Store keeps what was imported. It refuses a fence below the highest it has seen.
type Store interface {
	Put(ctx context.Context, customer string, fence uint64) error
}

// NewMux has the handlers of all kinds.
func NewMux(bank Bank, store Store, log *slog.Logger) *worker.Mux {
	h := handlers{bank: bank, store: store}
	mux := worker.NewMux()
	mux.Use(logged(log))
	worker.Handle(mux, Render, h.render, worker.CPUBound())
	worker.Handle(mux, Collect, h.collect)
	worker.HandleFunc(mux, ImportAll, h.importAll)
	return mux
}

type handlers struct {
	bank  Bank
	store Store
}

func (h handlers) render(ctx context.Context, o Order) (Invoice, error) {
	if o.Cents <= 0 {
		return Invoice{}, pelton.Discard(fmt.Errorf("order of %d cents", o.Cents))
	}
	number := "R-" + worker.From(ctx).ID.String()[:8]
	return Invoice{Number: number, PDF: number + ".pdf"}, ctx.Err()
}

func (h handlers) collect(ctx context.Context, c Charge) (string, error) {
	lock, err := worker.Lock(ctx, "customer/"+c.Customer)
	if err != nil {
		return "", err
	}
	defer func() { _ = lock.Unlock() }()

	receipt, err := h.bank.Charge(lock.Context(), "invoice/"+c.Invoice, c.Customer, c.Cents, lock.Token())
	switch {
	case errors.Is(err, ErrDeclined):
		return "", pelton.Discard(err) // failed, now
	case errors.Is(err, ErrTooMany):
		return "", pelton.RetryAfter(time.Minute, err, pelton.PauseKind) // and nobody else asks either
	case errors.Is(err, ErrClosed):
		return "", pelton.Snooze(time.Hour) // no fault of ours: counts no attempt
	case err != nil:
		return "", fmt.Errorf("charge %s: %w", c.Customer, err) // again, with the kind's backoff
	}
	return receipt, nil
}

func (h handlers) importAll(ctx context.Context, i Import) error {
	for n, customer := range i.Customers {
		if err := h.store.Put(ctx, customer, worker.Fence(ctx)); err != nil {
			return err
		}
		worker.Progress(ctx, int64(n+1), int64(len(i.Customers)), customer)
	}
	return nil
}

// logged is middleware: it is around every handler, as in net/http.
func logged(log *slog.Logger) func(worker.Handler) worker.Handler {
	return func(next worker.Handler) worker.Handler {
		return worker.HandlerFunc(func(ctx context.Context, task *pelton.Task) (json.RawMessage, error) {
			began := time.Now()
			result, err := next.ServeTask(ctx, task)
			log.InfoContext(ctx, "handled", "task_id", task.ID.String(), "kind", task.Kind, "attempt", task.Attempt, "took", time.Since(began), "error", err)
			return result, err
		})
	}
}
