package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/peltonq/pelton"
)

// deadPageBytes is what DeadLetters keeps the payloads and results of a page to.
const deadPageBytes = 8 << 20

// bulkTimeout bounds a call by filter, which bounds itself to less.
const bulkTimeout = 30 * time.Second

// DeadLetters is what the API needs to serve dead letters. A query that makes no
// sense is a *pelton.ValidationError.
type DeadLetters interface {
	// DeadLetters lists letters, newest first. Their payloads and results are 8 MiB
	// together, or one letter.
	DeadLetters(ctx context.Context, q pelton.DeadQuery) (*pelton.DeadPage, error)
	// DeadLetter is one letter, or ErrNotFound.
	DeadLetter(ctx context.Context, id pelton.ID) (*pelton.Task, error)
	// DeleteDeadLetter deletes one letter; ErrNotFound if there is none.
	DeleteDeadLetter(ctx context.Context, id pelton.ID) error
	// RetryDeadLetter puts one dead task back into its queue; ErrNotFound if there
	// is no letter, ErrConflict if it was out of date.
	RetryDeadLetter(ctx context.Context, id pelton.ID) (*pelton.Task, error)
	// RetryDeadLetters and PurgeDeadLetters act on what q selects, or only count
	// it, and bound their time by themselves.
	RetryDeadLetters(ctx context.Context, q pelton.DeadQuery, dryRun bool) (*pelton.BulkResult, error)
	PurgeDeadLetters(ctx context.Context, q pelton.DeadQuery, dryRun bool) (*pelton.BulkResult, error)
}

// deadListInput is the request of GET /dead.
type deadListInput struct {
	Queue  string `query:"queue" doc:"Only letters of this queue." example:"default"`
	Kind   string `query:"kind" doc:"Only letters of this kind." example:"email.send"`
	Error  string `query:"error" doc:"Only letters whose last failure, written as 'reason: message', has this text in it." example:"connection refused"`
	Limit  int    `query:"limit" minimum:"1" maximum:"500" default:"50" doc:"The most letters of the page."`
	Cursor string `query:"cursor" doc:"The next_cursor of the page before."`
}

func (s *server) listDead(ctx context.Context, in *deadListInput) (*answer, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if err := claimOf(ctx).page(in.Limit, deadPageBytes); err != nil {
		return nil, err
	}
	if err := mayFilter(ctx, &in.Queue); err != nil {
		return nil, err
	}
	page, err := s.Dead.DeadLetters(ctx, pelton.DeadQuery{
		DeadFilter: pelton.DeadFilter{Queue: in.Queue, Kind: in.Kind, Error: in.Error},
		Cursor:     in.Cursor, Limit: in.Limit,
	})
	var invalid *pelton.ValidationError
	if errors.As(err, &invalid) && len(invalid.Fields) > 0 {
		return nil, fieldProblem(kindInvalid, fieldErrors("query", invalid)...)
	}
	if err != nil {
		return nil, err
	}
	return pageAnswer(ctx, page.Items, page.NextCursor)
}

// pageAnswer is a page of tasks for which memory was claimed: what it did not need is
// given back.
func pageAnswer(ctx context.Context, tasks []*pelton.Task, next string) (*answer, error) {
	size := int64(0)
	for _, task := range tasks {
		size += weigh(task)
	}
	claimOf(ctx).shrink(readWeight * size)
	return listAnswer(tasks, next)
}

// appender writes its own JSON, payloads byte for byte.
type appender interface {
	AppendJSON(dst []byte) ([]byte, error)
}

// listAnswer is a page of what writes its own JSON.
func listAnswer[T appender](items []T, next string) (*answer, error) {
	body := []byte(`{"items":[`)
	var err error
	for i, item := range items {
		if i > 0 {
			body = append(body, ',')
		}
		if body, err = item.AppendJSON(body); err != nil {
			return nil, fmt.Errorf("write a list: %w", err)
		}
	}
	body = append(body, ']')
	if next != "" {
		body = fmt.Appendf(body, `,"next_cursor":%q`, next)
	}
	return jsonAnswer(http.StatusOK, append(body, "}\n"...)), nil
}

// deadInput is the request of calls on one letter.
type deadInput struct {
	ID string `path:"id" doc:"The task's id, a UUID."`
}

func (s *server) getDead(ctx context.Context, in *deadInput) (*answer, error) {
	id, err := pathID(in.ID)
	if err != nil {
		return nil, err
	}
	letter, err := s.readOne(ctx, id, s.Dead.DeadLetter)
	if err != nil {
		return nil, err
	}
	return taskAnswer(http.StatusOK, letter)
}

func (s *server) deleteDead(ctx context.Context, in *deadInput) (*answer, error) {
	id, err := pathID(in.ID)
	if err != nil {
		return nil, err
	}
	if err := s.mayTask(ctx, id, s.Dead.DeadLetter); err != nil {
		return nil, err
	}
	ctx, cancel := detached(ctx, callTimeout)
	defer cancel()
	if err := s.Dead.DeleteDeadLetter(ctx, id); err != nil {
		return nil, unlessKnown(err)
	}
	return &answer{Status: http.StatusNoContent}, nil
}

func (s *server) retryDead(ctx context.Context, in *deadInput) (*answer, error) {
	return s.retryWith(ctx, in.ID, s.Dead.DeadLetter, s.Dead.RetryDeadLetter)
}

// retryInput is the request of POST /tasks/{id}/retry.
type retryInput struct {
	ID string `path:"id" doc:"The task's id, a UUID."`
}

func (s *server) retry(ctx context.Context, in *retryInput) (*answer, error) {
	return s.retryWith(ctx, in.ID, s.Tasks.Get, s.Tasks.Retry)
}

func (s *server) retryWith(ctx context.Context, path string, get, retry func(context.Context, pelton.ID) (*pelton.Task, error)) (*answer, error) {
	id, err := pathID(path)
	if err != nil {
		return nil, err
	}
	if err := s.makeRoom(ctx, id, get); err != nil {
		return nil, err
	}
	ctx, cancel := detached(ctx, callTimeout)
	defer cancel()
	task, err := retry(ctx, id)
	if err != nil {
		return nil, unlessKnown(err)
	}
	return taskAnswer(http.StatusOK, task)
}

// bulkInput is the request of a call by filter.
type bulkInput struct {
	body []byte
	err  error
}

// Resolve reads the body.
func (in *bulkInput) Resolve(ctx huma.Context) []error {
	in.body, in.err = readBody(ctx, maxTaskBody)
	return nil
}

func (s *server) retryDeadMany(ctx context.Context, in *bulkInput) (*answer, error) {
	return bulkWith(ctx, in, parseDeadQuery, s.Dead.RetryDeadLetters)
}

func (s *server) purgeDead(ctx context.Context, in *bulkInput) (*answer, error) {
	return bulkWith(ctx, in, parseDeadQuery, s.Dead.PurgeDeadLetters)
}

// bulkWith is not detached: when the caller has gone, nobody learns how far it
// came, so it stops. Each letter or task is dealt with as a whole.
func bulkWith[Q any](ctx context.Context, in *bulkInput, parse func([]byte) (Q, bool, error), bulk func(context.Context, Q, bool) (*pelton.BulkResult, error)) (*answer, error) {
	if in.err != nil {
		return nil, in.err
	}
	q, dryRun, err := parse(in.body)
	if err == nil {
		err = mayFilterBy(ctx, &q)
	}
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, bulkTimeout)
	defer cancel()
	result, err := bulk(ctx, q, dryRun)
	if err != nil {
		return nil, err
	}
	return encodeAnswer(result)
}
