package api

import (
	"context"
	"errors"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/peltonq/pelton"
)

const idempotencyHeader = "Idempotency-Key"

// idempotencyKey reads the header of that name. The error is a problem.
func idempotencyKey(ctx huma.Context) (string, error) {
	r, _ := humago.Unwrap(ctx)
	values := r.Header.Values(idempotencyHeader)
	wrong := func(message string) (string, error) {
		return "", fieldProblem(kindInvalid, fieldError{"header." + idempotencyHeader, message})
	}
	switch {
	case len(values) == 0:
		return "", nil
	case len(values) > 1:
		return wrong("stands there more than once")
	case values[0] == "":
		return wrong("must not be empty")
	}
	if err := pelton.ValidateKey(values[0]); err != nil {
		return wrong(plain(err.Error()))
	}
	return values[0], nil
}

// noIdempotencyKey refuses the header where it would stand for many tasks.
func noIdempotencyKey(ctx huma.Context) error {
	if r, _ := humago.Unwrap(ctx); len(r.Header.Values(idempotencyHeader)) > 0 {
		return fieldProblem(kindInvalid, fieldError{"header." + idempotencyHeader, "is for one task: in a batch each has its idempotency_key"})
	}
	return nil
}

// underKey is a spec with an idempotency key in the caller's scope, if it has one.
func underKey(ctx context.Context, spec pelton.Spec, key string) pelton.Spec {
	if key != "" {
		spec.IdempotencyKey, spec.IdempotencyScope = key, idempotencyScope(ctx)
	}
	return spec
}

// idempotencyScope keeps the keys of the API apart from those of Go programs, and
// those of one token from another's. The token itself must not be found in the
// broker.
func idempotencyScope(ctx context.Context) string {
	if c := callerOf(ctx); c.key != "" {
		return "http:" + c.key
	}
	return "http"
}

// atHeader names the header in an error of the idempotency key, which is no field
// of the body.
func atHeader(err error) error {
	var invalid *pelton.ValidationError
	if errors.As(err, &invalid) && len(invalid.Fields) == 1 && invalid.Fields[0].Field == "idempotency_key" {
		return fieldProblem(kindInvalid, fieldError{"header." + idempotencyHeader, plain(invalid.Fields[0].Message)})
	}
	return err
}
