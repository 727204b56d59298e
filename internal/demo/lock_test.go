package demo

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/worker"
)

func TestLock(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx := worker.WithTask(t.Context(), &pelton.Task{Kind: Lock})
		start := time.Now()
		first := make(chan lockResult, 1)
		go func() {
			got, err := lock(ctx, lockArgs{Name: "x", MS: 3000})
			if err != nil {
				t.Error(err)
			}
			first <- got
		}()
		synctest.Wait()
		second, err := lock(ctx, lockArgs{Name: "x", MS: 1000})
		if took := time.Since(start); err != nil || took != 4*time.Second {
			t.Errorf("the second: %v after %s", err, took)
		}
		if got := <-first; got.Token == 0 || got.Token >= second.Token {
			t.Errorf("tokens %d, %d", got.Token, second.Token)
		}
		ending, cancel := context.WithTimeoutCause(t.Context(), time.Second, pelton.ErrTimeout)
		defer cancel()
		if _, err := lock(worker.WithTask(ending, &pelton.Task{}), lockArgs{Name: "x", Slots: 2, MS: 3000}); !errors.Is(err, pelton.ErrTimeout) {
			t.Errorf("until its ctx ends: %v", err)
		}
		for want, args := range map[string]lockArgs{"is empty": {}, "ms -1": {Name: "x", MS: -1}, "257 slots": {Name: "x", Slots: 257}} {
			if _, err := lock(ctx, args); !errors.Is(err, pelton.ErrInvalid) || !strings.Contains(err.Error(), want) {
				t.Errorf("%+v: %v", args, err)
			}
		}
	})
}
