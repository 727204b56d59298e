package embed

import (
	"strings"
	"testing"
	"time"
)

func TestParseSync(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]Sync{
		"always": {Always: true},
		"1s":     {Interval: time.Second},
		"250ms":  {Interval: 250 * time.Millisecond},
		"10ms":   {Interval: 10 * time.Millisecond},
		"2m":     {Interval: 2 * time.Minute},
		"1h":     {Interval: time.Hour},
	} {
		got, err := ParseSync(in)
		if err != nil || got != want {
			t.Errorf("ParseSync(%q) = %+v, %v, want %+v", in, got, err, want)
		}
		if back, err := ParseSync(got.String()); err != nil || back != got {
			t.Errorf("ParseSync(%q.String()) = %+v, %v", in, back, err)
		}
	}
	for _, in := range []string{"", "0", "0s", "never", "Always", "1", "-1s", "9ms", "61m", "1d"} {
		if got, err := ParseSync(in); err == nil {
			t.Errorf("ParseSync(%q) = %+v, want an error", in, got)
		} else if !strings.Contains(err.Error(), "sync") {
			t.Errorf("ParseSync(%q): %v", in, err)
		}
	}
	if got := (Sync{}).String(); got != "1s" {
		t.Errorf("the default prints as %q", got)
	}
}

func TestConfigIsChecked(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, cfg := range map[string]Config{
		"no folder":      {},
		"no port":        {Dir: dir, Listen: "127.0.0.1"},
		"no number":      {Dir: dir, Listen: "127.0.0.1:nats"},
		"port too large": {Dir: dir, Listen: "127.0.0.1:65536"},
		"negative port":  {Dir: dir, Listen: "127.0.0.1:-1"},
		"short sync":     {Dir: dir, Sync: Sync{Interval: time.Millisecond}},
		"negative sync":  {Dir: dir, Sync: Sync{Interval: -time.Second}},
	} {
		if srv, err := Start(testCtx(t), cfg); err == nil {
			t.Errorf("%s: no error", name)
			stop(t, srv)
		}
	}
}

func TestParseListen(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]listenAddr{
		"127.0.0.1:4222": {"127.0.0.1", 4222},
		"127.0.0.1:0":    {"127.0.0.1", -1},
		"[::1]:4222":     {"::1", 4222},
		":4222":          {"", 4222},
		"localhost:1":    {"localhost", 1},
	} {
		if got, err := parseListen(in); err != nil || got != want {
			t.Errorf("parseListen(%q) = %+v, %v, want %+v", in, got, err, want)
		}
	}
}
