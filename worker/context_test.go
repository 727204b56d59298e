package worker

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/peltonq/pelton"
)

type anyKey struct{}

// The ctx of a handler is as one with a deadline, whether somebody waited for its end before it came, or not, and whoever
// ends it.
func TestHandlerContext(t *testing.T) {
	t.Parallel()
	for name, looks := range map[string]func(context.Context){
		"not waited for": func(context.Context) {},
		"waited for":     func(ctx context.Context) { ctx.Done() },
		"searched":       func(ctx context.Context) { ctx.Value("key") },
	} {
		for _, byParent := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, with its parent %t", name, byParent), func(t *testing.T) {
				t.Parallel()
				checkHandlerContext(t, looks, byParent)
			})
		}
	}
}

func checkHandlerContext(t *testing.T, looks func(context.Context), byParent bool) {
	t.Helper()
	cause := errors.New("cause")
	begin := func(within time.Duration) (ctx *handlerContext, end context.CancelCauseFunc) {
		parent, endAll := context.WithCancelCause(context.WithValue(t.Context(), anyKey{}, 7))
		ctx = &handlerContext{parent: parent, deadline: time.Now().Add(within), value: contextValue{task: &pelton.Task{Kind: "k"}}}
		t.Cleanup(func() { ctx.release(); endAll(nil) })
		looks(ctx)
		if byParent {
			return ctx, endAll
		}
		return ctx, ctx.end
	}
	ended := func(ctx context.Context, want, cause error) {
		t.Helper()
		select {
		case <-ctx.Done():
		case <-time.After(10 * time.Second):
			t.Fatal("does not end")
		}
		if err, why := ctx.Err(), context.Cause(ctx); !errors.Is(err, want) || !errors.Is(why, cause) {
			t.Errorf("ended with %v, %v; want %v, %v", err, why, want, cause)
		}
	}

	ctx, end := begin(time.Hour)
	if at, ok := ctx.Deadline(); !ok || !at.Equal(ctx.deadline) || ctx.Err() != nil || context.Cause(ctx) != nil {
		t.Errorf("before its end: %s, %v", at, ctx.Err())
	}
	if From(ctx).Kind != "k" || ctx.Value(anyKey{}) != 7 {
		t.Errorf("values: %+v, %v", From(ctx), ctx.Value(anyKey{}))
	}
	child, stop := context.WithTimeout(ctx, time.Minute)
	defer stop()
	end(cause)
	ended(ctx, context.Canceled, cause)
	ended(child, context.Canceled, cause)

	ctx, end = begin(20 * time.Millisecond)
	child, stop = context.WithCancel(ctx)
	defer stop()
	ended(child, context.DeadlineExceeded, pelton.ErrTimeout)
	ended(ctx, context.DeadlineExceeded, pelton.ErrTimeout)
	end(cause)
	ended(ctx, context.DeadlineExceeded, pelton.ErrTimeout)

	ctx, end = begin(-time.Second) // and nobody looks before it is over
	end(cause)
	if err, why := ctx.Err(), context.Cause(ctx); !byParent && (!errors.Is(err, context.DeadlineExceeded) || !errors.Is(why, pelton.ErrTimeout)) || err == nil {
		t.Errorf("after the deadline: %v, %v", err, why)
	}

	ctx, end = begin(time.Hour)
	ctx.release()
	end(cause) // too late
	ended(ctx, context.Canceled, context.Canceled)

	ctx, end = begin(time.Hour)
	end(cause)
	ctx.end(errors.New("another"))
	if err, why := ctx.Err(), context.Cause(ctx); !errors.Is(err, context.Canceled) || !errors.Is(why, cause) {
		t.Errorf("ended twice, with %v, %v", err, why)
	}
}

// A handler that does not wait for the end of its ctx costs no timer.
func TestHandlerContextIsNotMade(t *testing.T) {
	t.Parallel()
	ctx := &handlerContext{parent: t.Context(), deadline: time.Now().Add(time.Hour), value: contextValue{task: &pelton.Task{}}}
	if _, _ = ctx.Deadline(); ctx.Err() != nil || From(ctx) == nil || Fence(ctx) != 0 {
		t.Error("ended, or of no task")
	}
	if ctx.release(); ctx.inner != nil {
		t.Error("it was made")
	}
}
