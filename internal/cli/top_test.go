package cli

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	tea "charm.land/bubbletea/v2"
	"charm.land/lipgloss/v2"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/peltonq/pelton"
)

func topQueueOf(name string, ready, running, deliveries uint64) topQueue {
	q := pelton.Queue{Name: name, Ready: ready, Running: running, Priorities: map[pelton.Priority]pelton.Depth{
		pelton.Normal: {Ready: ready, Running: running, Deliveries: deliveries, OldestReady: time.Duration(ready) * time.Second},
	}}
	return topQueue{Queue: q}
}

func topAt(second int, queues ...topQueue) *topSnapshot {
	return &topSnapshot{At: time.Unix(int64(second), 0), Queues: queues}
}

func TestTopRates(t *testing.T) {
	t.Parallel()
	before := topAt(0, topQueueOf("a", 10, 2, 100), topQueueOf("b", 0, 0, 500), topQueueOf("c", 3, 0, 7))
	// a: 50 came and 40 went in 10 s; b began anew; c is as it was; d is new.
	now := topAt(10, topQueueOf("a", 16, 6, 144), topQueueOf("b", 0, 0, 3), topQueueOf("c", 3, 0, 7), topQueueOf("d", 1, 1, 1))
	now.rate(before)
	want := []*topRates{{5, 4}, nil, {0, 0}, nil}
	for i, q := range now.Queues {
		if diff := cmp.Diff(want[i], q.Rates); diff != "" {
			t.Errorf("%s: %s", q.Name, diff)
		}
	}
	now.rate(now) // no time has passed
	if diff := cmp.Diff(want[0], now.Queues[0].Rates); diff != "" {
		t.Error(diff)
	}
}

// Rates are over the last seconds, and the history does not grow.
func TestTopHistory(t *testing.T) {
	t.Parallel()
	var h topHistory
	for second := range 60 {
		count := uint64(10 * second)
		if second >= 50 {
			count = 500 // it has stopped
		}
		s := topAt(second, topQueueOf("a", 0, 0, count))
		h.add(s)
		if len(h) > 8 {
			t.Fatalf("%d looks are kept", len(h))
		}
		if second == 40 && s.Queues[0].Rates.Finished != 10 || second == 59 && s.Queues[0].Rates.Finished != 0 {
			t.Errorf("second %d: %+v", second, s.Queues[0].Rates)
		}
	}
}

// topScreenOf is a model with something on it.
func topScreenOf(width, height int) topModel {
	queues := []topQueue{topQueueOf("default", 1_234_567, 16, 9), topQueueOf("emails", 5, 0, 3), topQueueOf("reports", 70, 1, 3)}
	queues[1].Paused = true
	s := topAt(1000, queues...)
	s.Workers = []pelton.Worker{
		{ID: "host-1-aaaa", Queues: []string{"default"}, Concurrency: 16, Running: []pelton.ID{pelton.NewID(time.Unix(5, 0), 0)}, SeenAt: time.Unix(998, 0)},
		{ID: "host-2-bbbb", Queues: []string{"emails"}, Concurrency: 4, Leaked: 1, SeenAt: time.Unix(999, 0)},
	}
	s.Failures = []pelton.Task{
		{Kind: "email.send", Queue: "emails", FinishedAt: time.Unix(900, 0), Error: &pelton.Failure{Reason: "error", Message: "mailbox \x1b[31mfull\nat 1"}},
		{Kind: "report.build", Queue: "reports", FinishedAt: time.Unix(990, 0)},
	}
	m := topModel{url: "http://x", interval: time.Second, look: func() tea.Msg { return nil }, width: width, height: height}
	next, _ := m.Update(topLook{snapshot: s})
	return next.(topModel)
}

func keys(t *testing.T, m topModel, names ...string) topModel {
	t.Helper()
	for _, name := range names {
		next, _ := m.Update(keyPress(name))
		m = next.(topModel)
	}
	return m
}

func keyPress(name string) tea.KeyPressMsg {
	switch name {
	case "tab":
		return tea.KeyPressMsg{Code: tea.KeyTab}
	case "enter":
		return tea.KeyPressMsg{Code: tea.KeyEnter}
	case "esc":
		return tea.KeyPressMsg{Code: tea.KeyEscape}
	case "backspace":
		return tea.KeyPressMsg{Code: tea.KeyBackspace}
	case "down":
		return tea.KeyPressMsg{Code: tea.KeyDown}
	case "up":
		return tea.KeyPressMsg{Code: tea.KeyUp}
	default:
		return tea.KeyPressMsg{Code: []rune(name)[0], Text: name}
	}
}

func namesOf(rows []topRow) []string {
	var names []string
	for _, row := range rows {
		names = append(names, row.name)
	}
	return names
}

func TestTopSorts(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		keys []string
		of   topSection
		want []string
	}{
		{nil, topQueues, []string{"default", "emails", "reports"}},
		{[]string{"r"}, topQueues, []string{"reports", "emails", "default"}},
		{[]string{"s"}, topQueues, []string{"default", "reports", "emails"}}, // ready
		{[]string{"s", "r"}, topQueues, []string{"emails", "reports", "default"}},
		{[]string{"s", "s"}, topQueues, []string{"default", "reports", "emails"}}, // running
		{[]string{"s", "s", "s", "s", "s", "s", "s"}, topQueues, []string{"default", "emails", "reports"}},
		{nil, topWorkers, []string{"host-1-aaaa", "host-2-bbbb"}},
		{[]string{"tab", "s", "r"}, topWorkers, []string{"host-2-bbbb", "host-1-aaaa"}},
		{nil, topDead, []string{"report.build", "email.send"}}, // newest first
		{[]string{"3", "s"}, topDead, []string{"email.send", "report.build"}},
	} {
		m := keys(t, topScreenOf(80, 24), tc.keys...)
		if diff := cmp.Diff(tc.want, namesOf(m.rows(tc.of))); diff != "" {
			t.Errorf("%q: %s", tc.keys, diff)
		}
	}
}

func TestTopFilters(t *testing.T) {
	t.Parallel()
	m := keys(t, topScreenOf(80, 24), "/", "E", "m", "a", "x", "backspace")
	if !strings.Contains(m.help(), "filter: Ema_") {
		t.Errorf("help %q", m.help())
	}
	m = keys(t, m, "i", "enter", "s") // s sorts again
	for section, want := range [][]string{{"emails"}, {"host-2-bbbb"}, {"email.send"}} {
		if diff := cmp.Diff(want, namesOf(m.rows(topSection(section)))); diff != "" {
			t.Error(diff)
		}
	}
	if m.sort[topQueues] != 1 {
		t.Error("s went into the filter")
	}
	m = keys(t, m, "/", "z")
	if screen := strings.Join(m.screen(), "\n"); !strings.Contains(screen, "nothing that the filter lets through") {
		t.Error(screen)
	}
	if m = keys(t, m, "enter", "esc"); len(m.rows(topQueues)) != 3 || m.filter != "" {
		t.Errorf("filter %q stays", m.filter)
	}
}

func TestTopShows(t *testing.T) {
	t.Parallel()
	screen := strings.Join(topScreenOf(80, 24).screen(), "\n")
	for _, want := range []string{"http://x", "default", "1.2M", "emails (paused)", "host-1-aaaa", "1/16", "0/4!", " 100s email.send", `error: mailbox \u001b[31mfull at 1`, "q quit", "slots 20"} {
		if !strings.Contains(screen, want) {
			t.Errorf("no %q in\n%s", want, screen)
		}
	}
	m := topScreenOf(80, 24)
	next, _ := m.Update(topLook{err: errors.New("connection refused")})
	m = next.(topModel)
	if screen := strings.Join(m.screen(), "\n"); !strings.Contains(screen, "NO ANSWER: connection refused") || !strings.Contains(screen, "default") {
		t.Errorf("what was seen is gone, or the error:\n%s", screen)
	}
	empty := topModel{width: 80, height: 24, last: topAt(0)}
	if screen := strings.Join(empty.screen(), "\n"); !strings.Contains(screen, "no queues yet") || !strings.Contains(screen, "no workers") {
		t.Error(screen)
	}
}

// It looks again after each answer, once, unless it is stopped.
func TestTopLooks(t *testing.T) {
	t.Parallel()
	looks := 0
	m := topModel{interval: time.Second, look: func() tea.Msg { looks++; return nil }}
	run := func(msg tea.Msg) tea.Cmd {
		next, cmd := m.Update(msg)
		m = next.(topModel)
		return cmd
	}
	m.Init()()
	m.looking = true
	if cmd := run(topTick{time.Second}); cmd != nil {
		t.Error("two looks at a time")
	}
	if cmd := run(topLook{snapshot: topAt(1)}); cmd == nil {
		t.Fatal("no next look after an answer")
	}
	if cmd := run(topTick{time.Second}); cmd == nil {
		t.Fatal("the tick does nothing")
	} else if cmd(); looks != 2 {
		t.Errorf("%d looks", looks)
	}
	run(topLook{snapshot: topAt(2)})
	run(keyPress("p"))
	if run(topTick{time.Second}); m.looking {
		t.Error("it looks while it is stopped")
	}
	run(keyPress("p"))
	if cmd := run(keyPress("+")); cmd == nil || m.interval != time.Second/2 {
		t.Errorf("interval %s", m.interval)
	}
	if cmd := run(topTick{time.Second}); cmd != nil {
		t.Error("the old interval goes on beside the new one")
	}
	for range 20 {
		run(keyPress("-"))
	}
	if m.interval != maxInterval {
		t.Errorf("interval %s", m.interval)
	}
	if cmd := run(keyPress("q")); cmd == nil {
		t.Error("q does not quit")
	} else if _, quits := cmd().(tea.QuitMsg); !quits {
		t.Error("q does not quit")
	}
}

func TestTopShare(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		room int
		want [topSections]int
		got  [topSections]int
	}{
		{12, [topSections]int{2, 1, 1}, [topSections]int{2, 1, 1}},
		{12, [topSections]int{50, 50, 50}, [topSections]int{6, 3, 3}},
		{12, [topSections]int{1, 50, 1}, [topSections]int{1, 10, 1}},
		{0, [topSections]int{5, 5, 5}, [topSections]int{}},
		{1, [topSections]int{5, 5, 5}, [topSections]int{1, 0, 0}},
	} {
		if got := share(tc.room, tc.want); got != tc.got {
			t.Errorf("%d, %v: %v, want %v", tc.room, tc.want, got, tc.got)
		}
	}
}

// Whatever the size of the screen and the keys, nothing sticks out of it.
func TestTopFits(t *testing.T) {
	t.Parallel()
	names := []string{"tab", "s", "r", "/", "e", "esc", "enter", "backspace", "down", "up", "p", "+", "-", "1", "2", "3", "g", "ü", "漢"}
	rapid.Check(t, func(rt *rapid.T) {
		m := topScreenOf(rapid.IntRange(1, 200).Draw(rt, "width"), rapid.IntRange(1, 60).Draw(rt, "height"))
		m.last.Queues[0].Name = rapid.SampledFrom([]string{"default", strings.Repeat("long", 30), "漢字漢字"}).Draw(rt, "name")
		for _, name := range rapid.SliceOf(rapid.SampledFrom(names)).Draw(rt, "keys") {
			next, _ := m.Update(keyPress(name))
			m = next.(topModel)
		}
		lines := m.screen()
		if len(lines) != m.height {
			rt.Fatalf("%d lines on a screen of %d", len(lines), m.height)
		}
		if wide := slices.IndexFunc(lines, func(l string) bool { return lipgloss.Width(l) > m.width }); wide >= 0 {
			rt.Fatalf("line %d is %d wide on a screen of %d: %q", wide, lipgloss.Width(lines[wide]), m.width, lines[wide])
		}
	})
}

func TestShortNumbers(t *testing.T) {
	t.Parallel()
	for n, want := range map[uint64]string{0: "0", 99_999: "99999", 100_000: "100k", 999_999: "999k", 1_234_567: "1.2M", 123_456_789: "123M"} {
		if got := short(n); got != want {
			t.Errorf("%d: %s", n, got)
		}
	}
	for d, want := range map[time.Duration]string{0: "-", time.Microsecond: "1ms", 850 * time.Millisecond: "850ms", 90 * time.Second: "90s", time.Hour: "60m", 30 * time.Hour: "30h", 100 * time.Hour: "4d"} {
		if got := shortAge(d); got != want {
			t.Errorf("%s: %s", d, got)
		}
	}
	for rate, want := range map[float64]string{0: "0", 0.25: "0.2", 9.94: "9.9", 12.6: "13", 123456: "123k"} {
		if got := perSecond(rate); got != want {
			t.Errorf("%s: %s", fmt.Sprint(rate), got)
		}
	}
}
