package pelton_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/peltonq/pelton"
)

func TestStates(t *testing.T) {
	t.Parallel()
	var terminal, open []pelton.State
	for _, s := range pelton.States() {
		if !s.Valid() {
			t.Errorf("%s is not valid", s)
		}
		if s.Terminal() {
			terminal = append(terminal, s)
		} else {
			open = append(open, s)
		}
	}
	if diff := cmp.Diff([]pelton.State{"scheduled", "queued", "running", "retrying"}, open); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]pelton.State{"succeeded", "failed", "cancelled", "expired"}, terminal); diff != "" {
		t.Error(diff)
	}
	for _, s := range []pelton.State{"", "Queued", "done"} {
		if s.Valid() || s.Terminal() {
			t.Errorf("%q: Valid %v, Terminal %v", s, s.Valid(), s.Terminal())
		}
	}
}

// moves is every legal move, one row per state; x is one, a dot is none. The
// columns stand in the order of the rows.
var moves = map[pelton.State]string{
	//                   sch que run ret suc fai can exp
	pelton.Scheduled: " x   x   x   .   .   x   x   x ",
	pelton.Queued:    " x   .   x   .   .   x   x   x ",
	pelton.Running:   " x   x   x   x   x   x   x   x ",
	pelton.Retrying:  " x   x   x   x   .   x   x   x ",
	pelton.Succeeded: " .   x   .   .   .   .   .   . ",
	pelton.Failed:    " .   x   .   .   .   .   .   . ",
	pelton.Cancelled: " .   x   .   .   .   .   .   . ",
	pelton.Expired:   " .   x   .   .   .   .   .   . ",
}

func TestCanBecome(t *testing.T) {
	t.Parallel()
	if len(moves) != len(pelton.States()) {
		t.Fatalf("the table has %d rows, there are %d states", len(moves), len(pelton.States()))
	}
	for from, row := range moves {
		for i, to := range pelton.States() {
			want := row[1+4*i] == 'x'
			if got := from.CanBecome(to); got != want {
				t.Errorf("%s.CanBecome(%s) = %v, want %v", from, to, got, want)
			}
			if from.Terminal() && want && to != pelton.Queued {
				t.Errorf("the table lets the terminal %s become %s", from, to)
			}
		}
		for _, unknown := range []pelton.State{"", "done"} {
			if from.CanBecome(unknown) {
				t.Errorf("%s.CanBecome(%q)", from, unknown)
			}
			if unknown.CanBecome(from) {
				t.Errorf("%q.CanBecome(%s)", unknown, from)
			}
		}
	}
}
