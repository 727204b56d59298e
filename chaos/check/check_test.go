package check_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/chaos/check"
	"github.com/peltonq/pelton/chaos/history"
)

// rule names, as the checker lists them.
var names = []string{
	"lost", "missing", "refused", "invented", "final", "moves", "stale", "owners", "runs", "promoted",
	"attempts", "crashes", "results", "fences", "duplicates", "overlaps", "early", "delayed", "cancels", "ctx-ends", "recovery",
	"key-limits", "key-order", "unique", "replaced", "idempotent", "locks", "ticks",
}

// example is a hand-made history that a rule must reject, or accept.
type example struct {
	rule string
	what string
	make func() *script
}

// Every rule rejects its bad histories. Others may have something to say, too.
func TestRejected(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, e := range slices.Concat(rejectedRecords(), rejectedRuns(), rejectedCalls(), rejectedDelayed(), rejectedRecovery(), rejectedExclusion(), rejectedLocated(), rejectedTerms(), rejectedTicks()) {
		seen[e.rule] = true
		t.Run(e.rule+"/"+e.what, func(t *testing.T) {
			t.Parallel()
			report := check.Check(e.make().sorted(), config)
			if !slices.ContainsFunc(report.Violations, func(v check.Violation) bool { return v.Rule == e.rule }) {
				t.Errorf("not rejected: %v", report.Violations)
			}
		})
	}
	for _, name := range names {
		if !seen[name] {
			t.Errorf("no history that %s must reject", name)
		}
	}
}

// Histories that come near to a bad one and are good.
func TestAccepted(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, e := range slices.Concat(acceptedRecords(), acceptedRuns(), acceptedCalls(), acceptedDelayed(), acceptedRecovery(), acceptedExclusion(), acceptedLocated(), acceptedTerms(), acceptedTicks()) {
		seen[e.rule] = true
		t.Run(e.rule+"/"+e.what, func(t *testing.T) {
			t.Parallel()
			for _, v := range check.Check(e.make().sorted(), config).Violations {
				t.Error(v)
			}
		})
	}
	for _, name := range names {
		if !seen[name] {
			t.Errorf("no history that %s must accept", name)
		}
	}
}

// The list of this test is the checker's.
func TestNames(t *testing.T) {
	t.Parallel()
	if diff := cmp.Diff(check.Names(), names); diff != "" {
		t.Error(diff)
	}
}

func TestCounts(t *testing.T) {
	t.Parallel()
	s := killed(100, 400)
	s.add(5, "producer", history.EnqueueUnknown)
	s.add(6, "producer", history.EnqueueRefused)
	s.fault(2000, 2100, "kill", "w1")
	s.accept(2200, two, "r2")
	s.read(2300, two, pelton.Expired, 9)
	got := check.Check(s.sorted(), config).Counts
	want := check.Counts{
		Accepted: 2, Unknown: 1, Refused: 1, Succeeded: 1, Expired: 1,
		Runs: 2, Duplicates: 1, Faults: map[string]int{"kill": 2}, Reads: 5,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for _, part := range []string{"2 accepted", "1 duplicates", "kill 2"} {
		if !strings.Contains(got.String(), part) {
			t.Errorf("%q lacks %q", got, part)
		}
	}
}

// Runs that began without a record are counted, and of those the ones that left no trace.
func TestCountsOfBareRuns(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		script          *script
		bare, traceless int
	}{
		"a record at once":   {plain(), 0, 0},
		"ended":              {short(), 1, 0},
		"lasted":             {lasting(80), 1, 0},
		"died":               {diedYoung(0), 1, 1},
		"began with a token": {killed(100, 400), 0, 0},
	} {
		got := check.Check(c.script.sorted(), config).Counts
		if got.Bare != c.bare || got.Traceless != c.traceless {
			t.Errorf("%s: %d without a record and %d without a trace, want %d and %d", name, got.Bare, got.Traceless, c.bare, c.traceless)
		}
	}
}

// Zombies are counted, and do not count as runs of their key.
func TestCountsOfKeys(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		script        *script
		most, zombies int
	}{
		"no key":       {side(60, 70), 0, 0},
		"in turn":      {pair("k", 20, 30, 40, 50, 2, 4), 1, 0},
		"side by side": {pair("wide", 20, 40, 30, 50, 2, 4), 2, 0},
		"a zombie":     {lostAnd(history.StopFault), 1, 1},
		"a cut":        {lostAnd(history.NetworkFault + "drop"), 2, 0},
	} {
		got := check.Check(c.script.sorted(), config).Counts
		if got.MostPerKey != c.most || got.Zombies != c.zombies {
			t.Errorf("%s: at most %d and %d zombies, want %d and %d", name, got.MostPerKey, got.Zombies, c.most, c.zombies)
		}
	}
}

// A violation names its rule and its task, and brings the task's events.
func TestViolation(t *testing.T) {
	t.Parallel()
	found := check.Check(queued().sorted(), config).Violations
	if len(found) != 1 || len(found[0].Events) != 2 || !strings.Contains(found[0].String(), "lost: task "+one.String()) {
		t.Errorf("%v", found)
	}
}
