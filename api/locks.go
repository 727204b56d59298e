package api

import (
	"context"
	"errors"
	"slices"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/peltonq/pelton"
)

// Locks is what the API needs to serve named locks.
type Locks interface {
	// Locks lists locks that are held, sorted by name. A query that makes no sense
	// is a *pelton.ValidationError.
	Locks(ctx context.Context, q pelton.LockQuery) (*pelton.LockPage, error)
	// ReleaseLock takes a lock from all who hold it, or from those with the given
	// tokens, and gives who that was; ErrNotFound if there is none.
	ReleaseLock(ctx context.Context, name string, tokens ...uint64) (*pelton.Lock, error)
}

// lockListInput is the request of GET /locks.
type lockListInput struct {
	Name   string `query:"name" doc:"Only the lock of this name." example:"invoice/42"`
	Limit  int    `query:"limit" minimum:"1" maximum:"500" default:"50" doc:"The most locks of the page."`
	Cursor string `query:"cursor" doc:"The next_cursor of the page before."`
}

func (s *server) listLocks(ctx context.Context, in *lockListInput) (*answer, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	page, err := s.Locks.Locks(ctx, pelton.LockQuery{Name: in.Name, Limit: in.Limit, Cursor: in.Cursor})
	var invalid *pelton.ValidationError
	if errors.As(err, &invalid) && len(invalid.Fields) > 0 {
		return nil, fieldProblem(kindInvalid, fieldErrors("query", invalid)...)
	}
	if err != nil {
		return nil, err
	}
	if page.Items == nil {
		page = &pelton.LockPage{Items: []pelton.Lock{}, NextCursor: page.NextCursor} // [] and not null
	}
	return encodeAnswer(page)
}

// lockInput is the request of DELETE /locks/{name}.
type lockInput struct {
	Name  string   `path:"name" doc:"The lock's name, percent-encoded." example:"invoice/42"`
	Token []uint64 `query:"token,explode" doc:"Only from the holder with this fencing token; may be repeated. Without one, from all of them." example:"[4711]"`

	err error
}

// Resolve refuses an empty token, of a script whose variable was not set: it must
// not mean all holders.
func (in *lockInput) Resolve(ctx huma.Context) []error {
	r, _ := humago.Unwrap(ctx)
	if slices.Contains(r.URL.Query()["token"], "") {
		in.err = fieldProblem(kindInvalid, fieldError{"query.token", "must not be empty: leave it out instead"})
	}
	return nil
}

func (s *server) releaseLock(ctx context.Context, in *lockInput) (*answer, error) {
	if in.err != nil {
		return nil, in.err
	}
	if err := pelton.ValidateLock(in.Name); err != nil {
		return nil, fieldProblem(kindInvalid, fieldError{"path.name", plain(err.Error())})
	}
	ctx, cancel := detached(ctx, callTimeout)
	defer cancel()
	lock, err := s.Locks.ReleaseLock(ctx, in.Name, in.Token...)
	if err != nil {
		return nil, unlessKnown(err)
	}
	return encodeAnswer(lock)
}
