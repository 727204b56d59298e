//go:build race

package chaos_test

// raceEnabled builds the processes under test with the race detector too.
const raceEnabled = true
