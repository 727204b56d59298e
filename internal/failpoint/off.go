//go:build !chaos

package failpoint

// At does nothing.
func At(Point) {}

// Broken is false.
func Broken(Rule) bool { return false }
