package main

import (
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// around gives n samples that differ by up to spread, as shares, on both sides of center,
// in an order that puts as many of each size into both halves and both parities.
func around(center, spread float64, n int) []float64 {
	values := make([]float64, n)
	for i := range values {
		values[i] = center * (1 + spread*float64((i*7)%n-n/2)/float64(n/2))
	}
	return values
}

func same(value float64, n int) []float64 { return around(value, 0, n) }

func TestJudge(t *testing.T) {
	t.Parallel()
	seconds, size, allocs := bounds()[0], bounds()[1], bounds()[2]
	halves := append(around(10, 0.02, 6), around(16, 0.02, 6)...) // other load came in the middle
	for _, tc := range []struct {
		name       string
		bound      bound
		base, head []float64
		worse      bool
	}{
		{"equal", seconds, around(10, 0.05, 10), around(10, 0.05, 10), false},
		{"faster", seconds, around(10, 0.02, 10), around(5, 0.02, 10), false},
		{"slower within the bound, significantly", seconds, around(10, 0.01, 10), around(11.4, 0.01, 10), false},
		{"slower beyond the bound", seconds, around(10, 0.02, 10), around(11.7, 0.02, 10), true},
		{"as few samples as there may be", seconds, around(10, 0.02, 6), around(13, 0.02, 6), true},
		{"too few samples", seconds, around(10, 0.02, 5), around(20, 0.02, 5), false},
		{"slower beyond the bound, but by chance", seconds, around(10, 0.9, 10), around(12, 0.9, 10), false},
		{"slower within the noise of the base", seconds, halves, same(16.5, 12), false},
		{"slower within the noise of the head", seconds, same(9.9, 12), halves, false},
		{"slower than the noise", seconds, halves, same(30, 12), true},
		{"one outlier", seconds, same(10, 10), append(same(10, 9), 500), false},
		{"allocations, exactly", allocs, same(10, 10), same(13, 10), true},
		{"allocations, at most two more", allocs, same(3, 10), same(5, 10), false},
		{"allocations, at most a tenth more", allocs, same(100, 10), same(110, 10), false},
		{"allocations where there were none", allocs, same(0, 10), same(3, 10), true},
		{"few allocations where there were none", allocs, same(0, 10), same(2, 10), false},
		{"none", allocs, same(0, 10), same(0, 10), false},
		{"bytes", size, around(1000, 0.01, 10), around(1200, 0.01, 10), true},
		{"a few bytes", size, same(100, 10), same(160, 10), false},
		{"bytes that vary", size, around(1000, 0.3, 10), around(1150, 0.3, 10), false},
	} {
		if v := judge(tc.bound, tc.base, tc.head); v.worse != tc.worse {
			t.Errorf("%s: worse = %v, want %v (%+.0f %%, noise %.0f %%, %s)", tc.name, v.worse, tc.worse, 100*v.change(), 100*v.noise, v.comparison)
		}
	}
}

// What the noise may hide is looked at for longer; what chance may have made is not.
func TestSuspect(t *testing.T) {
	t.Parallel()
	seconds := bounds()[0]
	halves := append(around(10, 0.02, 6), around(14, 0.02, 6)...)
	if v := judge(seconds, halves, same(16, 12)); !v.suspect || v.worse {
		t.Errorf("within the noise of %.0f %%: suspect = %v, worse = %v (%+.0f %%, %s)", 100*v.noise, v.suspect, v.worse, 100*v.change(), v.comparison)
	}
	if v := judge(seconds, around(10, 0.9, 10), around(12, 0.9, 10)); v.suspect {
		t.Errorf("by chance: suspect (%+.0f %%, %s)", 100*v.change(), v.comparison)
	}
	if v := judge(seconds, same(10, 10), same(11, 10)); v.suspect {
		t.Errorf("within the bound: suspect (%+.0f %%, %s)", 100*v.change(), v.comparison)
	}
}

func TestNoise(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		samples []float64
		want    float64
	}{
		{nil, 0},
		{[]float64{5}, 0},
		{same(5, 9), 0},
		{[]float64{1, 2, 1, 2, 1, 2}, 1},             // who comes second is slower
		{[]float64{2, 2, 2, 3, 3, 3}, 0.5},           // the second half is slower
		{[]float64{3, 3, 3, 2, 2, 2}, 0.5},           // or the first
		{[]float64{0, 0, 0, 3, 3, 3}, 3},             // from nothing: the difference itself
		{[]float64{10, 10, 10, 10, 10, 1000}, 0},     // an outlier
		{[]float64{1, 3, 1, 3, 1, 3, 3, 3, 3, 3}, 2}, // the larger of the two
	} {
		if got := noise(tc.samples); math.Abs(got-tc.want) > 1e-9 {
			t.Errorf("noise of %v = %v, want %v", tc.samples, got, tc.want)
		}
	}
}

func TestLeastOfTheRuns(t *testing.T) {
	t.Parallel()
	const out = `goos: linux
pkg: example.com/p
BenchmarkA-2   	     500	    200 ns/op	   11 B/op	      4 allocs/op
a line of a test
BenchmarkA-2   	     500	    100 ns/op	   12 B/op	      3 allocs/op
BenchmarkA-2   	     500	    300 ns/op	   11 B/op	      4 allocs/op
BenchmarkB/one-2-way-2  5  2 ms/op
PASS
`
	got, err := least("p", strings.NewReader(out))
	if err != nil {
		t.Fatal(err)
	}
	want := map[id]float64{
		{"p", "BenchmarkA", "sec/op"}: 1e-7, {"p", "BenchmarkA", "B/op"}: 11, {"p", "BenchmarkA", "allocs/op"}: 3,
		{"p", "BenchmarkB/one-2-way", "ms/op"}: 2,
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateApprox(1e-9, 0)); diff != "" {
		t.Error(diff)
	}
}

func TestAccepted(t *testing.T) {
	t.Parallel()
	got, err := parseAccepted("\nBenchmarkDrain (each task is read back (twice))\n\nBenchmarkGet/waiting   (why)\n")
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"BenchmarkDrain": "each task is read back (twice)", "BenchmarkDrain/sub": "each task is read back (twice)", "BenchmarkDrainMore": "",
		"BenchmarkGet/waiting": "why", "BenchmarkGet": "", "BenchmarkGet/finished": "",
	} {
		if why, ok := got.reason(name); why != want || ok != (want != "") {
			t.Errorf("reason of %s = %q, %v, want %q", name, why, ok, want)
		}
	}
	for _, line := range []string{"BenchmarkDrain", "BenchmarkDrain ()", "Drain (why)", "BenchmarkDrain: why"} {
		if got, err := parseAccepted(line); err == nil || len(got) != 0 {
			t.Errorf("%q accepts %v, want an error", line, got)
		}
	}
}

func TestExactly(t *testing.T) {
	t.Parallel()
	if got, want := exactly("BenchmarkA/b.c/d"), `^BenchmarkA$/^b\.c$/^d$`; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}
