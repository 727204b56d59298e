package main

import (
	"slices"

	"golang.org/x/perf/benchmath"
)

// alpha is the chance at which a difference counts as one. A set of samples needs
// minRounds on each side to come below it with a pair of outliers to spare.
const (
	alpha      = 0.01
	confidence = 0.95
	minRounds  = 6
)

// bound is how much worse a unit may become.
type bound struct {
	unit  string
	share float64 // of the base
	least float64 // in the unit; a difference up to it is none
}

// bounds are the units that are held, in the order of the table.
func bounds() []bound {
	return []bound{{"sec/op", 0.15, 0}, {"B/op", 0.10, 64}, {"allocs/op", 0.10, 2}}
}

// verdict is the comparison of one unit of one benchmark.
type verdict struct {
	base, head benchmath.Summary
	comparison benchmath.Comparison
	noise      float64 // share by which one and the same program differs from itself
	suspect    bool    // beyond the bound, and not by chance
	worse      bool    // and beyond the noise
}

// change is the share by which head is above base; an increase from nothing is one of 100 %.
func (v verdict) change() float64 {
	if v.base.Center == 0 {
		if v.head.Center == 0 {
			return 0
		}
		return 1
	}
	return v.head.Center/v.base.Center - 1
}

// judge compares samples, in the order of the rounds in which they were taken.
func judge(b bound, base, head []float64) verdict {
	thresholds := benchmath.Thresholds{CompareAlpha: alpha}
	sample := func(values []float64) *benchmath.Sample {
		return benchmath.NewSample(slices.Clone(values), &thresholds) // which sorts
	}
	s1, s2 := sample(base), sample(head)
	v := verdict{
		base: benchmath.AssumeNothing.Summary(s1, confidence), head: benchmath.AssumeNothing.Summary(s2, confidence),
		comparison: benchmath.AssumeNothing.Compare(s1, s2),
		noise:      max(noise(base), noise(head)),
	}
	v.suspect = len(base) >= minRounds && len(head) >= minRounds &&
		v.comparison.P < alpha &&
		v.head.Center-v.base.Center > b.least &&
		v.change() > b.share+1e-9 // 110 to 100 is a tenth, also for a computer
	v.worse = v.suspect && v.change() > v.noise
	return v
}

// noise compares halves of the samples of one program: rounds in which it came first with
// those in which it came second, and the first half with the second.
func noise(samples []float64) float64 {
	var even, odd []float64
	for i, s := range samples {
		if i%2 == 0 {
			even = append(even, s)
		} else {
			odd = append(odd, s)
		}
	}
	half := len(samples) / 2
	return max(apart(even, odd), apart(samples[:half], samples[half:]))
}

// apart is the share by which the medians differ.
func apart(a, b []float64) float64 {
	if len(a) == 0 || len(b) == 0 {
		return 0
	}
	low, high := median(a), median(b)
	if low > high {
		low, high = high, low
	}
	if low == 0 {
		return high // of allocations: one more or less is 100 %
	}
	return high/low - 1
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	half := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[half]
	}
	return (sorted[half-1] + sorted[half]) / 2
}
