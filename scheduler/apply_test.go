package scheduler

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/peltonq/pelton"
)

// A page ends early when its payloads become large.
func TestListKeepsPagesSmall(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	const n = 20
	payload := json.RawMessage(`"` + strings.Repeat("x", 250<<10) + `"`)
	for i := range n {
		b.put(pelton.Schedule{Name: fmt.Sprintf("s%02d", i), Every: time.Hour, Task: pelton.Spec{Kind: "k", Payload: payload}})
	}
	first, err := b.c.List(t.Context(), pelton.ScheduleQuery{})
	if err != nil {
		t.Fatal(err)
	}
	rest, err := b.c.List(t.Context(), pelton.ScheduleQuery{Cursor: first.NextCursor})
	if err != nil || first.NextCursor == "" || rest.NextCursor != "" || len(first.Items) < 10 || len(first.Items)+len(rest.Items) != n {
		t.Errorf("%d, then %d of %d: %v", len(first.Items), len(rest.Items), n, err)
	}
}

// A change under a revision is made to that one alone.
func TestRevisionsGuardChanges(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	s := pelton.Schedule{Name: "s", Every: time.Hour, Task: pelton.Spec{Kind: "k"}, Revision: pelton.NoRevision}
	first, created, err := b.c.Put(t.Context(), s)
	if err != nil || !created {
		t.Fatalf("%v, created %v", err, created)
	}
	if _, _, err := b.c.Put(t.Context(), s); !errors.Is(err, pelton.ErrConflict) {
		t.Errorf("a second one was made: %v", err)
	}
	s.Revision, s.Every = first.Revision, time.Minute
	second, _, err := b.c.Put(t.Context(), s)
	if err != nil || second.Revision == first.Revision {
		t.Fatalf("%v, %+v", err, second)
	}
	if err := b.c.Delete(t.Context(), "s", first.Revision); !errors.Is(err, pelton.ErrConflict) {
		t.Errorf("deleted by its old revision: %v", err)
	}
	if err := b.c.Delete(t.Context(), "s", first.Revision, second.Revision); err != nil {
		t.Error(err)
	}
	if err := b.c.Delete(t.Context(), "s", second.Revision); !errors.Is(err, pelton.ErrNotFound) {
		t.Errorf("deleted twice: %v", err)
	}
}

// An owner that cannot be is refused, also where nothing is wanted.
func TestApplyForAnOwnerThatCannotBe(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for _, owner := range []string{"", strings.Repeat("y", 257), "a\n"} {
		_, err := b.c.Apply(t.Context(), owner, nil)
		var bad *pelton.ValidationError
		if !errors.As(err, &bad) || len(bad.Fields) != 1 || bad.Fields[0].Field != "owner" {
			t.Errorf("owner %.10q: %v", owner, err)
		}
	}
}
