package cli

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/peltonq/pelton"
)

// enumValue is a flag that takes one of a few words.
type enumValue struct {
	value   string
	allowed []string
}

// enumOf is a flag that takes one of a vocabulary's words.
func enumOf[S ~string](value S, allowed ...S) enumValue {
	e := enumValue{value: string(value)}
	for _, word := range allowed {
		e.allowed = append(e.allowed, string(word))
	}
	return e
}

func (e *enumValue) String() string  { return e.value }
func (e *enumValue) Type() string    { return "string" }
func (e *enumValue) choices() string { return strings.Join(e.allowed, ", ") }

func (e *enumValue) Set(s string) error {
	if !slices.Contains(e.allowed, s) {
		return fmt.Errorf("%q is none of %s", clip(s, 64), e.choices())
	}
	e.value = s
	return nil
}

// completeEnum lets the shell complete the flag's words.
func completeEnum(cmd *cobra.Command, flag string, e *enumValue) {
	words := cobra.FixedCompletions(e.allowed, cobra.ShellCompDirectiveNoFileComp)
	if err := cmd.RegisterFlagCompletionFunc(flag, words); err != nil {
		panic("cli: " + err.Error()) // a flag that was not declared, or twice
	}
}

// durationValue is a flag that reads durations as the API does: 90s, 1h30m, 7d.
type durationValue time.Duration

func (d *durationValue) duration() time.Duration { return time.Duration(*d) }
func (d *durationValue) String() string          { return pelton.FormatDuration(d.duration()) }
func (d *durationValue) Type() string            { return "duration" }

func (d *durationValue) Set(s string) error {
	parsed, err := pelton.ParseDuration(s)
	if err != nil {
		return errors.New(plain(err))
	}
	*d = durationValue(parsed)
	return nil
}

// timeValue is a flag that reads an RFC 3339 time.
type timeValue time.Time

func (t *timeValue) Type() string { return "time" }

func (t *timeValue) String() string {
	if time.Time(*t).IsZero() {
		return ""
	}
	return time.Time(*t).Format(time.RFC3339Nano)
}

func (t *timeValue) Set(s string) error {
	parsed, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		return fmt.Errorf("%q is not an RFC 3339 time such as 2026-12-01T08:00:00Z", clip(s, 64))
	}
	*t = timeValue(parsed)
	return nil
}

// slotsValue is a flag of whole numbers by priority, "low=2,normal=8", which may
// be repeated.
type slotsValue struct {
	slots map[pelton.Priority]int
	least int // the smallest number that makes sense
}

func (v *slotsValue) Type() string { return "priority=n" }

func (v *slotsValue) String() string {
	var parts []string
	for _, p := range pelton.Priorities() {
		if n, ok := v.slots[p]; ok {
			parts = append(parts, fmt.Sprintf("%s=%d", p, n))
		}
	}
	return strings.Join(parts, ",")
}

func (v *slotsValue) Set(s string) error {
	for part := range strings.SplitSeq(s, ",") {
		name, number, found := strings.Cut(strings.TrimSpace(part), "=")
		n, err := strconv.Atoi(number)
		if !found || name == "" || err != nil {
			return fmt.Errorf("%q is not PRIORITY=N, such as low=2", clip(part, 64))
		}
		priority, err := pelton.ParsePriority(name)
		if err != nil {
			return errors.New(plain(err))
		}
		if n < v.least {
			return fmt.Errorf("%s=%d: must be at least %d", priority, n, v.least)
		}
		if v.slots == nil {
			v.slots = make(map[pelton.Priority]int)
		}
		v.slots[priority] = n
	}
	return nil
}

// plain is an error's text without the sentinel that its exit code says already.
func plain(err error) string {
	return strings.TrimPrefix(err.Error(), pelton.ErrInvalid.Error()+": ")
}
