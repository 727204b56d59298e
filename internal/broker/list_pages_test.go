package broker

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/peltonq/pelton"
)

// A task of a page that is put back has a record then, which counts, and is listed once.
func TestRequeueOutOfAPage(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	records := enqueuedPlain(t, b, 3)
	for _, err := range succeedTogether(t, b, []*Record{successOf(records[0], "1"), successOf(records[1], "1"), successOf(records[2], "1")}) {
		must(t, err)
	}
	var changing sync.WaitGroup
	for range 4 {
		changing.Go(func() { _, _ = b.Requeue(t.Context(), records[1].ID) })
	}
	changing.Wait()
	got, err := b.LoadRecord(t.Context(), records[1].ID)
	if err != nil || got.State != pelton.Queued || got.Epoch != 1 || got.Paged {
		t.Fatalf("requeued: %+v, %v", got, err)
	}
	again, err := b.Requeue(t.Context(), records[0].ID)
	must(t, err)
	must(t, b.SaveRecord(t.Context(), again)) // over its own revision
	again.State, again.FinishedAt = pelton.Succeeded, time.Now().UTC()
	must(t, b.SaveRecord(t.Context(), again))
	if ids := listed(t, b, ListFilter{State: pelton.Succeeded}); !slices.Equal(ids, []pelton.ID{records[0].ID, records[2].ID}) {
		t.Errorf("succeeded: %v", ids)
	}
	if ids := listed(t, b, ListFilter{}); len(ids) != 3 || !slices.Contains(ids, records[1].ID) {
		t.Errorf("all: %v", ids)
	}
}

// Pages are listed task by task, the newest first, from wherever a call ended.
func TestListPages(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	rounds := map[pelton.ID]int{}
	for round := range 3 {
		var done []*Record
		for i, r := range enqueuedPlain(t, b, 40, func(i int, r *Record) { r.Kind = []string{"even", "odd"}[i%2] }) {
			if i%2 == 0 {
				rounds[r.ID] = round
			}
			done = append(done, successOf(r, fmt.Sprint(round)))
		}
		for _, err := range succeedTogether(t, b, done) {
			must(t, err)
		}
	}
	last, seen := 2, map[pelton.ID]bool{}
	for _, id := range listed(t, b, ListFilter{State: pelton.Succeeded, Kind: "even"}) {
		round, even := rounds[id]
		if !even || round > last || seen[id] {
			t.Errorf("%s of round %d (%t) after round %d, listed before: %t", id, round, even, last, seen[id])
		}
		last, seen[id] = round, true
	}
	if len(seen) != len(rounds) {
		t.Errorf("%d listed of %d", len(seen), len(rounds))
	}
	if got := listed(t, b, ListFilter{}); len(got) != 120 {
		t.Errorf("%d listed of all", len(got))
	}
	for _, cursor := range []string{"o2-", "o2-0", "o2--1", "o2-1-1", "o-1", "o2-zzzz"} {
		var invalid *pelton.ValidationError
		if _, err := b.EachListed(t.Context(), ListFilter{State: pelton.Succeeded}, cursor, func(*Record) bool { return true }); !errors.As(err, &invalid) {
			t.Errorf("cursor %q: %v", cursor, err)
		}
	}
}
