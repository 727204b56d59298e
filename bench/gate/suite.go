package main

import "time"

// entry is some benchmarks of one package that run in one process.
type entry struct {
	pkg        string // its folder in the tree
	names      string // an expression that whole names of benchmarks without sub-benchmarks match
	iterations int    // of each run: both trees do the same work
	runs       int    // in one process, of which the fastest is the sample
}

// suite is what the gate holds: hot paths whose benchmarks are short. One run takes
// a few milliseconds, or up to 70 with a broker, so that on a busy machine some are not
// interrupted.
func suite() []entry {
	return []entry{
		{"internal/broker", "Benchmark(En|De)code(Envelope|Record)", 2000, 10},
		{"api", "BenchmarkPostTask", 200, 10},
		{"producer", "BenchmarkGet(Waiting|Finished)", 300, 4},
		{"producer", "BenchmarkEnqueue", 1000, 4},
		{"producer", "BenchmarkEnqueueMany", 2, 4},
		{"worker", "BenchmarkDrain", 1000, 3},
	}
}

// sampleTimeout is for one process; none should come near it.
const sampleTimeout = 2 * time.Minute
