//go:build !chaos

package failpoint

import "time"

// At does nothing.
func At(Point) {}

// Now is time.Now.
func Now() time.Time { return time.Now() }

// Broken is false.
func Broken(Rule) bool { return false }
