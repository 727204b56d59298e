package pelton_test

import (
	"errors"
	"math"
	"regexp"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/peltonq/pelton"
)

const day = 24 * time.Hour

func TestParseDuration(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]time.Duration{
		"90s":                      90 * time.Second,
		"1h30m":                    90 * time.Minute,
		"1.5h":                     90 * time.Minute,
		"250ms":                    250 * time.Millisecond,
		"7d":                       7 * day,
		"1d12h":                    36 * time.Hour,
		"1d0.5s":                   day + 500*time.Millisecond,
		"0":                        0,
		"0s":                       0,
		"0d":                       0,
		"00d":                      0,
		"007d":                     7 * day,
		"100000d":                  100_000 * day,
		"2562047h47m16.854775807s": math.MaxInt64,
	} {
		if got, err := pelton.ParseDuration(in); err != nil || got != want {
			t.Errorf("ParseDuration(%q) = %s, %v, want %s", in, got, err, want)
		}
	}
	for _, in := range []string{
		"", " ", "90", "s", "d", "1x", "1d1", "1 d", "1d 1h", "1h1d", "1.5d", "-1s", "-1d", "1d-25h", "1d-1h2", "d1h",
		"100001d", "9999999d", "100000d2562047h", "2562048h", "1d\n", "1d\xff", "NaN", strings.Repeat("9", 1<<12) + "h",
	} {
		got, err := pelton.ParseDuration(in)
		if !errors.Is(err, pelton.ErrInvalid) || got != 0 {
			t.Errorf("ParseDuration(%.20q) = %s, %v", in, got, err)
		} else if len(err.Error()) > 300 {
			t.Errorf("ParseDuration(%.20q) repeats %d bytes", in, len(err.Error()))
		}
	}
}

func TestFormatDuration(t *testing.T) {
	t.Parallel()
	for in, want := range map[time.Duration]string{
		0:                                  "0s",
		time.Nanosecond:                    "1ns",
		90 * time.Millisecond:              "90ms",
		time.Second:                        "1s",
		time.Minute:                        "1m",
		90 * time.Second:                   "1m30s",
		10 * time.Minute:                   "10m",
		time.Hour:                          "1h",
		90 * time.Minute:                   "1h30m",
		day:                                "24h",
		7 * day:                            "168h",
		time.Hour + 5*time.Second:          "1h5s",
		10*time.Hour + time.Millisecond:    "10h0.001s",
		100*time.Hour + 10*time.Minute + 1: "100h10m0.000000001s",
		-90 * time.Minute:                  "-1h30m",
	} {
		if got := pelton.FormatDuration(in); got != want {
			t.Errorf("FormatDuration(%d) = %q, want %q", in, got, want)
		}
	}
}

var zeroUnit = regexp.MustCompile(`(^|[a-z])0[hms]`)

func TestDurationRoundTrip(t *testing.T) {
	t.Parallel()
	units := []time.Duration{1, time.Millisecond, time.Second, time.Minute, time.Hour}
	rapid.Check(t, func(t *rapid.T) {
		unit := rapid.SampledFrom(units).Draw(t, "unit")
		d := unit * time.Duration(rapid.Int64Range(0, int64(math.MaxInt64/unit)).Draw(t, "n"))
		s := pelton.FormatDuration(d)
		if got, err := pelton.ParseDuration(s); err != nil || got != d {
			t.Errorf("ParseDuration(%q) = %s, %v, want %d", s, got, err, d)
		}
		if got, err := time.ParseDuration(s); err != nil || got != d {
			t.Errorf("time.ParseDuration(%q) = %s, %v, want %d", s, got, err, d)
		}
		if d != 0 && zeroUnit.MatchString(s) {
			t.Errorf("FormatDuration(%d) = %q has a zero unit", d, s)
		}
	})
}

func FuzzParseDuration(f *testing.F) {
	for _, s := range []string{"", "0", "90s", "1h30m", "7d", "1d12h", "100000d", "1d-1h", "-1s", "1.5d", "2562047h47m16.854775807s"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		d, err := pelton.ParseDuration(s)
		if err != nil {
			if !errors.Is(err, pelton.ErrInvalid) || d != 0 {
				t.Fatalf("ParseDuration(%q) = %s, %v", s, d, err)
			}
			return
		}
		if d < 0 {
			t.Fatalf("ParseDuration(%q) = %s", s, d)
		}
		if back, err := pelton.ParseDuration(pelton.FormatDuration(d)); err != nil || back != d {
			t.Fatalf("ParseDuration(FormatDuration(%q)) = %s, %v", s, back, err)
		}
	})
}
