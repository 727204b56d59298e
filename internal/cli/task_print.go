package cli

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/peltonq/pelton"
)

// mostCell is how much of a payload, result or error a table shows, in bytes.
const mostCell = 2000

// taskList prints several tasks.
func (a *app) taskList(out *outputFlag) *printer[*taskAnswer] {
	return newPrinter(a.stdout, out.value,
		func(t *taskAnswer) []byte { return t.raw },
		[]string{"ID", "KIND", "QUEUE", "PRIORITY", "STATE", "ATTEMPT", "CREATED"},
		func(t *taskAnswer) []string {
			return []string{t.ID.String(), t.Kind, t.Queue, string(t.Priority), string(t.State), attempts(t), instant(t.CreatedAt)}
		})
}

// printTask prints one task; for people, with everything it has.
func (a *app) printTask(out *outputFlag, t *taskAnswer) error {
	if out.value != formatTable {
		return printJSON(a.stdout, out.value, t.raw)
	}
	pairs := [][2]string{
		{"ID", t.ID.String()},
		{"Kind", t.Kind},
		{"Queue", t.Queue},
		{"Priority", string(t.Priority)},
		{"State", string(t.State)},
		{"Attempt", attempts(t)},
		{"Created", instant(t.CreatedAt)},
		{"Run at", instant(t.RunAt)},
		{"Expires", instant(t.ExpiresAt)},
		{"Started", instant(t.StartedAt)},
		{"Finished", instant(t.FinishedAt)},
		{"Worker", t.Worker},
		{"Rate key", t.RateKey},
		{"Labels", labelText(t.Labels)},
		{"Unique", uniqueText(t.Unique)},
		{"Concurrency key", t.ConcurrencyKey},
		{"Schedule", tickText(t.Schedule)},
	}
	if t.Crashes > 0 {
		pairs = append(pairs, [2]string{"Crashes", strconv.Itoa(t.Crashes)})
	}
	if p := t.Progress; p != nil {
		pairs = append(pairs, [2]string{"Progress", strings.TrimSpace(fmt.Sprintf("%d/%d %s", p.Done, p.Total, p.Message))})
	}
	before := t.Errors
	if e := t.Error; e != nil { // the last of them; a task that succeeded has none
		pairs = append(pairs, [2]string{"Error", clip(fmt.Sprintf("%s: %s", e.Reason, e.Message), mostCell)})
		before = before[:max(0, len(before)-1)]
	}
	for _, e := range before {
		pairs = append(pairs, [2]string{"Before", clip(fmt.Sprintf("%s, attempt %d: %s: %s", instant(e.At), e.Attempt, e.Reason, e.Message), mostCell)})
	}
	pairs = append(pairs, [2]string{"Payload", value(t.Payload)}, [2]string{"Result", value(t.Result)})
	if err := fields(a.stdout, pairs); err != nil {
		return fmt.Errorf("write output: %w", err)
	}
	return nil
}

func attempts(t *taskAnswer) string { return fmt.Sprintf("%d/%d", t.Attempt, t.MaxAttempts) }

func instant(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

func value(raw []byte) string {
	if len(raw) <= mostCell {
		return string(raw)
	}
	return fmt.Sprintf("%s (%d bytes; -o json shows all)", clip(string(raw), mostCell), len(raw))
}

// uniqueText is a unique key and for how long it is held.
func uniqueText(u *pelton.Unique) string {
	switch {
	case u == nil:
		return ""
	case u.Window > 0:
		return fmt.Sprintf("%s (until %s, window %s)", u.Key, u.Until, pelton.FormatDuration(u.Window))
	default:
		return fmt.Sprintf("%s (until %s)", u.Key, u.Until)
	}
}

// tickText is which tick of which schedule a task is of.
func tickText(s *pelton.TaskSchedule) string {
	switch {
	case s == nil:
		return ""
	case s.Manual:
		return s.Name + ", by hand"
	default:
		return s.Name + ", tick " + instant(s.Tick)
	}
}

func labelText(labels map[string]string) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(labels)) {
		parts = append(parts, name+"="+labels[name])
	}
	return strings.Join(parts, " ")
}
