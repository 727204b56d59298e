//go:build chaos

package failpoint

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Instrumented says that this is a build with the tag.
const Instrumented = true

// plan is what the environment says.
type plan struct {
	point Point
	left  atomic.Int64 // passes until the end
	off   []Rule
	skew  time.Duration // of the clock
}

var thePlan = sync.OnceValue(func() *plan {
	p := &plan{}
	if text := os.Getenv(EnvPoint); text != "" {
		name, pass, found := strings.Cut(text, ":")
		n, err := strconv.ParseInt(pass, 10, 64)
		p.point = Point(name)
		if !found || err != nil || n < 1 || !slices.Contains(All(), p.point) {
			panic(fmt.Sprintf("%s=%q: want POINT:PASS", EnvPoint, text))
		}
		p.left.Store(n)
	}
	for name := range strings.SplitSeq(os.Getenv(EnvBroken), ",") {
		switch rule := Rule(name); {
		case name == "":
		case rule == OwnClock || slices.Contains(Rules(), rule):
			p.off = append(p.off, rule)
		default:
			panic(fmt.Sprintf("%s: no rule %q", EnvBroken, name))
		}
	}
	if text := os.Getenv(EnvClock); text != "" {
		var err error
		if p.skew, err = time.ParseDuration(text); err != nil {
			panic(fmt.Sprintf("%s=%q: want a duration", EnvClock, text))
		}
	}
	return p
})

// At ends the process at once, as SIGKILL would, if this is its point and pass.
func At(point Point) {
	p := thePlan()
	if p.point == point && p.left.Add(-1) == 0 {
		fmt.Fprintf(os.Stderr, "failpoint %s\n", point)
		os.Exit(ExitCode)
	}
}

// Now is time.Now on a clock that is wrong by what the environment says.
func Now() time.Time { return time.Now().Add(thePlan().skew) }

// Broken reports whether the rule is off in this process.
func Broken(rule Rule) bool { return slices.Contains(thePlan().off, rule) }
