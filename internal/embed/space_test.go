package embed

import "testing"

func TestLevels(t *testing.T) {
	t.Parallel()
	const mib = 1 << 20
	for name, c := range map[string]struct {
		total, free uint64
		was, want   level
	}{
		"small, empty":           {64 * mib, 60 * mib, roomy, roomy},
		"small, task reserve":    {64 * mib, 23 * mib, roomy, low},
		"small, last reserve":    {64 * mib, 7 * mib, roomy, full},
		"small, full":            {64 * mib, 0, low, full},
		"no room at all":         {20 * mib, 20 * mib, roomy, low},
		"back, not far enough":   {64 * mib, 26 * mib, low, low},
		"back":                   {64 * mib, 27 * mib, low, roomy},
		"from full, not yet":     {64 * mib, 8*mib + mib/2, full, full},
		"from full":              {64 * mib, 9 * mib, full, low},
		"from full, all at once": {64 * mib, 60 * mib, full, roomy},
		"1 GiB":                  {1024 * mib, 81 * mib, roomy, roomy},
		"1 GiB, low":             {1024 * mib, 79 * mib, roomy, low},
		"large":                  {1 << 40, 321 * mib, roomy, roomy},
		"large, low":             {1 << 40, 319 * mib, roomy, low},
		"large, full":            {1 << 40, 63 * mib, low, full},
	} {
		if got := (space{free: c.free, total: c.total}).next(c.was); got != c.want {
			t.Errorf("%s: level %d, want %d", name, got, c.want)
		}
	}
}
