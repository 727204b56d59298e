//go:build !chaos

package failpoint

import "time"

// Instrumented is true in builds with the tag.
const Instrumented = false

// At does nothing.
func At(Point) {}

// Now is time.Now.
func Now() time.Time { return time.Now() }

// Broken is false.
func Broken(Rule) bool { return false }
