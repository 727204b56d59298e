package pelton

import "fmt"

// Priority orders the tasks of a queue: a free worker takes the highest that
// has a task. The zero value means Normal.
type Priority string

// The four priorities, highest first.
const (
	Critical Priority = "critical"
	High     Priority = "high"
	Normal   Priority = "normal"
	Low      Priority = "low"
)

// Priorities lists all priorities, highest first.
func Priorities() []Priority { return []Priority{Critical, High, Normal, Low} }

// ParsePriority reads a priority's name; anything else is ErrInvalid. The empty
// string is Normal.
func ParsePriority(s string) (Priority, error) {
	switch p := Priority(s); p {
	case Critical, High, Normal, Low:
		return p, nil
	case "":
		return Normal, nil
	default:
		return "", fmt.Errorf("%w: priority %q is none of critical, high, normal, low", ErrInvalid, clip(s, 64))
	}
}

// Rank is 0 for Critical to 3 for Low, and -1 for a name that is no priority.
func (p Priority) Rank() int {
	switch p {
	case Critical:
		return 0
	case High:
		return 1
	case Normal, "":
		return 2
	case Low:
		return 3
	default:
		return -1
	}
}
