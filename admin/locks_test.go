package admin_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/brokertest"
	"github.com/peltonq/pelton/worker"
)

// Locks that handlers hold are listed page by page, and taken from them by force.
func TestLocks(t *testing.T) {
	t.Parallel()
	nc := brokertest.Start(t)
	client, producing := open(t, nc)
	names := []string{"a", "b.c > *", "ä/b", "s"}
	held, lost := make(chan *worker.Held, 10), make(chan string, 10)
	mux := worker.NewMux()
	mux.Handle("holder", worker.HandlerFunc(func(ctx context.Context, _ *pelton.Task) (json.RawMessage, error) {
		for i, name := range append(names, "s") {
			slots := 1
			if i > 2 {
				slots = 3
			}
			lock, err := worker.Lock(ctx, name, worker.Slots(slots))
			if err != nil {
				return nil, err
			}
			go func() {
				<-lock.Context().Done()
				if errors.Is(context.Cause(lock.Context()), pelton.ErrLockLost) {
					lost <- fmt.Sprint(lock.Name(), lock.Token())
				}
			}()
			held <- lock
		}
		<-ctx.Done()
		return nil, ctx.Err()
	}))
	w, err := worker.New(nc, mux, worker.Config{Grace: 1})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-ended; !errors.Is(err, pelton.ErrGraceExceeded) {
			t.Errorf("worker: %v", err)
		}
	}()
	if page, err := client.Locks(t.Context(), pelton.LockQuery{}); err != nil || len(page.Items) != 0 || page.NextCursor != "" {
		t.Errorf("no locks: %+v, %v", page, err)
	}
	task, err := producing.Enqueue(t.Context(), pelton.Spec{Kind: "holder"})
	if err != nil {
		t.Fatal(err)
	}
	tokens := map[string][]uint64{}
	for range len(names) + 1 {
		lock := <-held
		tokens[lock.Name()] = append(tokens[lock.Name()], lock.Token())
	}

	var got []string
	query := pelton.LockQuery{Limit: 2}
	for pages := 1; ; pages++ {
		page, err := client.Locks(t.Context(), query)
		if err != nil {
			t.Fatal(err)
		}
		for _, lock := range page.Items {
			got = append(got, lock.Name)
			if len(lock.Holders) != len(tokens[lock.Name]) {
				t.Fatalf("lock %+v", lock)
			}
			for i, h := range lock.Holders {
				if h.TaskID != task.ID || h.Kind != "holder" || h.Worker != w.ID() || h.Token != tokens[lock.Name][i] || h.Fence == 0 || h.AcquiredAt.IsZero() || !h.ExpiresAt.After(h.AcquiredAt) {
					t.Errorf("holder of %q = %+v", lock.Name, h)
				}
			}
		}
		if query.Cursor = page.NextCursor; page.NextCursor == "" {
			if pages != 2 {
				t.Errorf("%d pages", pages)
			}
			break
		}
	}
	if diff := cmp.Diff([]string{"a", "b.c > *", "s", "ä/b"}, got); diff != "" {
		t.Errorf("names (-want +got):\n%s", diff)
	}
	for name, want := range map[string]int{"s": 1, "other": 0} {
		if page, err := client.Locks(t.Context(), pelton.LockQuery{Name: name}); err != nil || len(page.Items) != want {
			t.Errorf("lock %q: %+v, %v", name, page, err)
		}
	}

	second := tokens["s"][1]
	lock, err := client.ReleaseLock(t.Context(), "s", second)
	if err != nil || lock.Slots != 3 || len(lock.Holders) != 1 || lock.Holders[0].Token != second {
		t.Errorf("released %+v, %v", lock, err)
	}
	if name := <-lost; name != fmt.Sprint("s", second) {
		t.Errorf("lost %s", name)
	}
	if lock, err := client.ReleaseLock(t.Context(), "s"); err != nil || len(lock.Holders) != 1 || lock.Holders[0].Token != tokens["s"][0] {
		t.Errorf("released %+v, %v", lock, err)
	}
	<-lost
	if _, err := client.ReleaseLock(t.Context(), "s"); !errors.Is(err, pelton.ErrNotFound) {
		t.Errorf("released twice: %v", err)
	}
	if _, err := client.ReleaseLock(t.Context(), "a", tokens["a"][0]+1); !errors.Is(err, pelton.ErrNotFound) {
		t.Errorf("another token: %v", err)
	}
	if _, err := client.ReleaseLock(t.Context(), ".."); !errors.Is(err, pelton.ErrInvalid) {
		t.Errorf("no name: %v", err)
	}
}

func TestLockQueriesAreChecked(t *testing.T) {
	t.Parallel()
	client, _ := open(t, brokertest.Start(t))
	_, err := client.Locks(t.Context(), pelton.LockQuery{Name: "a\n", Cursor: "!", Limit: 501})
	var invalid *pelton.ValidationError
	if !errors.As(err, &invalid) || len(invalid.Fields) != 3 || invalid.Fields[0].Field != "name" || invalid.Fields[1].Field != "limit" || invalid.Fields[2].Field != "cursor" {
		t.Errorf("errors = %v", err)
	}
}
