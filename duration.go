package pelton

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"
)

var daysPrefix = regexp.MustCompile(`^(\d{1,6})d(.*)$`)

// ParseDuration reads what time.ParseDuration reads, and whole days in front:
// "90s", "1h30m", "7d", "1d12h". Negative, empty and overflowing durations are
// ErrInvalid.
func ParseDuration(s string) (time.Duration, error) {
	if s == "" {
		return 0, fmt.Errorf("%w: an empty duration", ErrInvalid)
	}
	var days time.Duration
	rest := s
	if m := daysPrefix.FindStringSubmatch(s); m != nil {
		n, err := strconv.Atoi(m[1])
		if err != nil || n > 100_000 {
			return 0, fmt.Errorf("%w: duration %q is out of range", ErrInvalid, clip(s, 64))
		}
		days, rest = time.Duration(n)*24*time.Hour, m[2]
	}
	var d time.Duration
	if rest != "" {
		var err error
		if d, err = time.ParseDuration(rest); err != nil {
			return 0, fmt.Errorf("%w: %q is not a duration such as 90s, 1h30m or 7d", ErrInvalid, clip(s, 64))
		}
	}
	if d < 0 || days+d < 0 {
		return 0, fmt.Errorf("%w: duration %q is negative or out of range", ErrInvalid, clip(s, 64))
	}
	return days + d, nil
}

// FormatDuration writes a duration without zero units: 24h, 1h30m, 1h5s, 90ms;
// zero is 0s. Hours are the largest unit, so that every reader of Go durations
// can parse it.
func FormatDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	return strings.Replace(s, "h0m", "h", 1)
}
