package cli

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"
	"charm.land/lipgloss/v2"

	"github.com/peltonq/pelton"
)

// topColumn is a column of a section: its title, its width, and where its text
// stands. A width of zero takes what is left of the line.
type topColumn struct {
	title string
	width int
	left  bool
}

func columnsOf(section topSection) []topColumn {
	switch section { //nolint:exhaustive // the rest is topDead
	case topQueues:
		return []topColumn{
			{"QUEUE", 0, true},
			{"CRIT", 5, false},
			{"HIGH", 5, false},
			{"NORM", 5, false},
			{"LOW", 5, false},
			{"RUN", 5, false},
			{"SCHED", 5, false},
			{"DEAD", 5, false},
			{"OLDEST", 7, false},
			{"IN/S", 6, false},
			{"OUT/S", 6, false},
		}
	case topWorkers:
		return []topColumn{{"WORKER", 26, true}, {"BUSY", 7, false}, {"SEEN", 5, false}, {"QUEUES", 14, true}, {"RUNNING", 0, true}}
	default:
		return []topColumn{{"AGO", 5, false}, {"KIND", 16, true}, {"QUEUE", 10, true}, {"ERROR", 0, true}}
	}
}

func queueRows(queues []topQueue) []topRow {
	rows := make([]topRow, len(queues))
	for i := range queues {
		q := &queues[i]
		oldestReady := oldest(&queueAnswer{Queue: q.Queue})
		name := q.Name
		if q.Paused {
			name += " (paused)"
		}
		in, out, cellIn, cellOut := 0.0, 0.0, "-", "-"
		if q.Rates != nil {
			in, out = q.Rates.Enqueued, q.Rates.Finished
			cellIn, cellOut = perSecond(in), perSecond(out)
		}
		row := topRow{
			name: q.Name, text: q.Name, alarm: q.Paused && q.Ready > 0,
			numbers: map[string]float64{
				"ready": float64(q.Ready), "running": float64(q.Running), "oldest": oldestReady.Seconds(), "in": in, "out": out, "dead": float64(q.Dead),
			},
			cells: []string{name},
		}
		for _, p := range pelton.Priorities() {
			row.cells = append(row.cells, short(q.Priorities[p].Ready))
		}
		row.cells = append(row.cells, short(q.Running), short(q.Scheduled+q.Waiting), short(q.Dead), shortAge(oldestReady), cellIn, cellOut)
		rows[i] = row
	}
	return rows
}

func workerRows(workers []pelton.Worker, now time.Time) []topRow {
	rows := make([]topRow, len(workers))
	for i := range workers {
		w := &workers[i]
		ids := make([]string, len(w.Running))
		for j, id := range w.Running {
			ids[j] = id.String()
		}
		busy := fmt.Sprintf("%d/%d", len(w.Running), w.Concurrency)
		if w.Leaked > 0 {
			busy += "!"
		}
		rows[i] = topRow{
			name: w.ID, text: strings.Join([]string{w.ID, w.Host, strings.Join(w.Queues, " "), strings.Join(w.Kinds, " ")}, " "), alarm: w.Leaked > 0,
			numbers: map[string]float64{"running": float64(len(w.Running)), "slots": float64(w.Concurrency)},
			cells:   []string{w.ID, busy, shortAge(max(now.Sub(w.SeenAt), 0)), strings.Join(w.Queues, ","), strings.Join(ids, " ")},
		}
	}
	return rows
}

func failureRows(failures []pelton.Task, now time.Time) []topRow {
	rows := make([]topRow, len(failures))
	for i := range failures {
		t := &failures[i]
		message := ""
		if t.Error != nil {
			message = string(t.Error.Reason) + ": " + t.Error.Message
		}
		rows[i] = topRow{
			name: t.Kind, text: t.Kind + " " + t.Queue + " " + message, alarm: true,
			numbers: map[string]float64{"time": float64(t.FinishedAt.UnixMilli())},
			cells:   []string{shortAge(max(now.Sub(t.FinishedAt), 0)), t.Kind, t.Queue, message},
		}
	}
	return rows
}

// short is a number in five places: 12345, 123k, 1.2M.
func short(n uint64) string {
	switch {
	case n < 100_000:
		return strconv.FormatUint(n, 10)
	case n < 1_000_000:
		return strconv.FormatUint(n/1000, 10) + "k"
	case n < 100_000_000:
		return fmt.Sprintf("%.1fM", float64(n)/1e6)
	default:
		return strconv.FormatUint(n/1_000_000, 10) + "M"
	}
}

func perSecond(rate float64) string {
	if rate > 0 && rate < 10 {
		return strconv.FormatFloat(rate, 'f', 1, 64)
	}
	return short(uint64(rate + 0.5))
}

// shortAge is a duration of one unit: 850ms, 12s, 3m, 5h, 2d.
func shortAge(d time.Duration) string {
	switch {
	case d <= 0:
		return "-"
	case d < time.Second:
		return fmt.Sprintf("%dms", max(d.Milliseconds(), 1))
	case d < 2*time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < 2*time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	default:
		return fmt.Sprintf("%dd", int(d.Hours()/24))
	}
}

// View is the whole screen, no line wider and no more lines than there are.
func (m topModel) View() tea.View {
	v := tea.NewView(strings.Join(m.screen(), "\n"))
	v.AltScreen, v.WindowTitle = true, "pelton top"
	return v
}

func (m topModel) screen() []string {
	if m.width <= 0 || m.height <= 0 {
		return nil // before the first word of the size
	}
	bold, faint := lipgloss.NewStyle().Bold(true), lipgloss.NewStyle().Faint(true)
	lines := []string{bold.Render(fit(m.title(), m.width)), fit(m.totals(), m.width)}
	const around = 3 + 2*int(topSections) // title, totals and help; a blank line and a head for each section
	var rows [topSections][]topRow
	var want [topSections]int
	for s := range topSections {
		rows[s] = m.rows(s)
		want[s] = max(len(rows[s]), 1)
	}
	for s, room := range share(max(m.height-around, 0), want) {
		lines = append(lines, "")
		lines = append(lines, m.sectionLines(topSection(s), rows[s], room)...)
	}
	for len(lines) < m.height-1 {
		lines = append(lines, "")
	}
	lines = append(lines[:m.height-1], faint.Render(fit(m.help(), m.width)))
	return lines
}

// share gives sections what they want of the lines there are. When there are too few,
// the first gets half, and what one does not need is the others'.
func share(room int, want [topSections]int) (got [topSections]int) {
	weights := [topSections]int{2, 1, 1}
	for room > 0 {
		given := 0
		for s := range topSections {
			for range weights[s] {
				if room > given && got[s] < want[s] {
					got[s]++
					given++
				}
			}
		}
		if given == 0 {
			return got
		}
		room -= given
	}
	return got
}

func (m topModel) sectionLines(section topSection, rows []topRow, room int) []string {
	columns := columnsOf(section)
	head := make([]string, len(columns))
	for i, c := range columns {
		head[i] = c.title
	}
	style := lipgloss.NewStyle().Bold(true)
	if section == m.focus {
		style = lipgloss.NewStyle().Reverse(true)
	}
	lines := []string{style.Render(m.line(columns, head))}
	if len(rows) == 0 && room > 0 {
		return append(lines, lipgloss.NewStyle().Faint(true).Render(fit(nothingOf(section, m), m.width)))
	}
	first := max(0, min(m.offset[section], len(rows)-room))
	for _, row := range rows[first:min(len(rows), first+room)] {
		line := m.line(columns, row.cells)
		if row.alarm {
			line = lipgloss.NewStyle().Foreground(lipgloss.Yellow).Render(line)
		}
		lines = append(lines, line)
	}
	return lines
}

func nothingOf(section topSection, m topModel) string {
	if m.filter != "" {
		return "nothing that the filter lets through"
	}
	return [...]string{"no queues yet: a queue appears with its first task", "no workers: 'pelton worker run' is one", "no dead letters"}[section]
}

// line puts cells into columns, as wide as the screen.
func (m topModel) line(columns []topColumn, cells []string) string {
	rest := m.width - len(columns) + 1
	for _, c := range columns {
		rest -= c.width
	}
	parts := make([]string, len(columns))
	for i, c := range columns {
		width := c.width
		if width == 0 {
			width = max(rest, 8)
		}
		cell := fit(cells[i], width)
		if space := width - lipgloss.Width(cell); c.left {
			cell += strings.Repeat(" ", space)
		} else {
			cell = strings.Repeat(" ", space) + cell
		}
		parts[i] = cell
	}
	return fit(strings.Join(parts, " "), m.width)
}

// fit is text that is safe for the screen, at most so many columns wide.
func fit(text string, width int) string {
	text = printable(text, oneLine)
	if lipgloss.Width(text) <= width {
		return text
	}
	for runes := []rune(text); len(runes) > 0; runes = runes[:len(runes)-1] {
		if cut := string(runes) + "…"; lipgloss.Width(cut) <= width {
			return cut
		}
	}
	return ""
}

func (m topModel) title() string {
	parts := []string{"pelton top", m.url, "every " + pelton.FormatDuration(m.interval)}
	if m.last != nil {
		parts = append(parts, m.last.At.Format(time.TimeOnly))
	}
	if m.paused {
		parts = append(parts, "PAUSED")
	}
	if m.err != nil {
		parts = append(parts[:1], "NO ANSWER: "+m.err.Error())
	}
	return strings.Join(parts, "  ")
}

// totals are those of all queues and workers, filtered or not.
func (m topModel) totals() string {
	if m.last == nil {
		return ""
	}
	var ready, running, dead uint64
	var in, out float64
	for i := range m.last.Queues {
		q := &m.last.Queues[i]
		ready, running, dead = ready+q.Ready, running+q.Running, dead+q.Dead
		if q.Rates != nil {
			in, out = in+q.Rates.Enqueued, out+q.Rates.Finished
		}
	}
	slots := 0
	for i := range m.last.Workers {
		slots += m.last.Workers[i].Concurrency
	}
	return fmt.Sprintf("ready %s  running %s  slots %d  dead %s  in %s/s  out %s/s  workers %d",
		short(ready), short(running), slots, short(dead), perSecond(in), perSecond(out), len(m.last.Workers))
}

func (m topModel) help() string {
	if m.filtering {
		return "filter: " + m.filter + "_   enter keeps it, esc drops it"
	}
	by := sortsOf(m.focus)[m.sort[m.focus]].name
	if m.reverse[m.focus] {
		by += " reversed"
	}
	text := "q quit  tab section  s sort (" + by + ")  r reverse  / filter  p pause  +- speed"
	if m.filter != "" {
		text = "filter " + m.filter + " (esc drops it)  " + text
	}
	return text
}
