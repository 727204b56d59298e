package main

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
)

// riverPostgres is River with its defaults, but for the workers of a process: it
// asks for tasks every 100 ms, so that few workers would bound what it drains.
type riverPostgres struct {
	sender
	postgres
	dir    string
	pool   *pgxpool.Pool
	client *river.Client[pgx.Tx]
}

const (
	riverWorkers = 1000
	// Connections of what enqueues and of a worker process. PostgreSQL has 100.
	riverSenders = 64
	riverConns   = 12
)

// riverArgs is a payload as it is.
type riverArgs struct{ payload []byte }

func (riverArgs) Kind() string                   { return "bench_noop" }
func (a riverArgs) MarshalJSON() ([]byte, error) { return a.payload, nil } //nolint:unparam // as json.Marshaler has it
func (a *riverArgs) UnmarshalJSON(b []byte) error { //nolint:unparam // as json.Unmarshaler has it
	a.payload = append([]byte(nil), b...)
	return nil
}

func riverPool(ctx context.Context, url string, conns int32) (*pgxpool.Pool, error) {
	cfg, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, err
	}
	cfg.MaxConns = conns
	return pgxpool.NewWithConfig(ctx, cfg)
}

func (r *riverPostgres) start(ctx context.Context, dir string) (err error) {
	r.dir = dir
	if err := r.startPostgres(ctx, dir); err != nil {
		return err
	}
	if err := r.open(ctx); err != nil {
		if r.pool != nil {
			r.pool.Close()
		}
		return errors.Join(err, r.stopPostgres())
	}
	return nil
}

func (r *riverPostgres) open(ctx context.Context) (err error) {
	if r.pool, err = riverPool(ctx, r.url, riverSenders); err != nil {
		return err
	}
	driver := riverpgxv5.New(r.pool)
	migrator, err := rivermigrate.New(driver, &rivermigrate.Config{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	if _, err := migrator.Migrate(ctx, rivermigrate.DirectionUp, nil); err != nil {
		return err
	}
	if r.client, err = river.NewClient(driver, &river.Config{Logger: slog.New(slog.DiscardHandler)}); err != nil {
		return err
	}
	r.sender = sender{
		one: func(ctx context.Context, payload []byte) error {
			_, err := r.client.Insert(ctx, riverArgs{payload}, nil)
			return err
		},
		many: func(ctx context.Context, n int) error {
			params := make([]river.InsertManyParams, n)
			for i := range params {
				params[i].Args = riverArgs{payload}
			}
			_, err := r.client.InsertManyFast(ctx, params)
			return err
		},
	}
	return nil
}

func (r *riverPostgres) reset(ctx context.Context) error {
	_, err := r.pool.Exec(ctx, "TRUNCATE river_job")
	return err
}

func (r *riverPostgres) hire(ctx context.Context, c *crew, processes int) (func() error, error) {
	return workers(ctx, c, processes, filepath.Join(r.dir, "worker"), "river", r.url)
}

func (r *riverPostgres) stop() error {
	r.pool.Close()
	return r.stopPostgres()
}

// riverWorker is the role of a worker process. Its argument is the database's URL.
func riverWorker(ctx context.Context, args []string, t *tally) error {
	pool, err := riverPool(ctx, args[0], riverConns)
	if err != nil {
		return err
	}
	defer pool.Close()
	all := river.NewWorkers()
	river.AddWorker(all, river.WorkFunc(func(_ context.Context, job *river.Job[riverArgs]) error {
		t.handled(sentAt(job.Args.payload))
		return nil
	}))
	client, err := river.NewClient(riverpgxv5.New(pool), &river.Config{
		Logger: slog.New(slog.DiscardHandler), Queues: map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: riverWorkers}}, Workers: all,
	})
	if err != nil {
		return err
	}
	if err := client.Start(ctx); err != nil {
		return err
	}
	<-client.Stopped()
	return nil
}
