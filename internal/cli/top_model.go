package cli

import (
	"slices"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"
)

// topSection is one of the lists on the screen.
type topSection int

const (
	topQueues topSection = iota
	topWorkers
	topDead
	topSections // how many there are
)

const (
	minInterval = 250 * time.Millisecond
	maxInterval = time.Minute
)

// topModel is the state of "top". It decides purely; what it asks for comes as
// messages.
type topModel struct {
	url      string
	interval time.Duration
	look     func() tea.Msg // a topLook

	width, height int
	history       topHistory
	last          *topSnapshot // nil before the first
	err           error        // of the last look
	looking       bool
	paused        bool

	focus   topSection
	offset  [topSections]int
	sort    [topSections]int // an index into the section's sorts
	reverse [topSections]bool

	filter    string
	filtering bool // keys go into the filter
}

// topLook is what came of a look.
type topLook struct {
	snapshot *topSnapshot
	err      error
}

// topTick says that it is time for the next look, if it is of the present interval.
type topTick struct{ interval time.Duration }

func (m topModel) Init() tea.Cmd { return m.look }

func (m topModel) tick() tea.Cmd {
	interval := m.interval
	return tea.Tick(interval, func(time.Time) tea.Msg { return topTick{interval} })
}

func (m topModel) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		m.width, m.height = msg.Width, msg.Height
	case topLook:
		m.looking, m.err = false, msg.err
		if msg.err == nil {
			m.history.add(msg.snapshot)
			m.last = msg.snapshot
		}
		return m, m.tick()
	case topTick:
		switch {
		case msg.interval != m.interval || m.looking: // another one is on its way
		case m.paused:
			return m, m.tick()
		default:
			m.looking = true
			return m, m.look
		}
	case tea.KeyPressMsg:
		if m.filtering {
			return m.typed(msg), nil
		}
		return m.pressed(msg)
	}
	return m, nil
}

// typed is a key while the filter is written.
func (m topModel) typed(key tea.KeyPressMsg) topModel {
	switch key.String() {
	case "enter", "tab":
		m.filtering = false
	case "esc", "ctrl+c":
		m.filter, m.filtering = "", false
	case "backspace":
		if runes := []rune(m.filter); len(runes) > 0 {
			m.filter = string(runes[:len(runes)-1])
		}
	default:
		m.filter = clip(m.filter+key.Text, 40)
	}
	m.offset = [topSections]int{}
	return m
}

func (m topModel) pressed(key tea.KeyPressMsg) (tea.Model, tea.Cmd) {
	switch key.String() {
	case "q", "ctrl+c":
		return m, tea.Quit
	case "tab":
		m.focus = (m.focus + 1) % topSections
	case "1", "2", "3":
		m.focus = topSection(key.Code - '1')
	case "s":
		m.sort[m.focus] = (m.sort[m.focus] + 1) % len(sortsOf(m.focus))
		m.reverse[m.focus] = false
	case "r":
		m.reverse[m.focus] = !m.reverse[m.focus]
	case "/":
		m.filtering = true
	case "esc":
		m.filter = ""
	case "p":
		m.paused = !m.paused
	case "+", "=":
		return m.every(m.interval / 2)
	case "-":
		return m.every(m.interval * 2)
	case "down", "j":
		m.offset[m.focus]++
	case "up", "k":
		m.offset[m.focus]--
	case "pgdown", "space":
		m.offset[m.focus] += 10
	case "pgup":
		m.offset[m.focus] -= 10
	case "home", "g":
		m.offset[m.focus] = 0
	}
	m.offset[m.focus] = max(0, min(m.offset[m.focus], m.lengthOf(m.focus)-1))
	return m, nil
}

// every looks that often from now on.
func (m topModel) every(interval time.Duration) (tea.Model, tea.Cmd) {
	interval = max(minInterval, min(interval, maxInterval))
	if interval == m.interval {
		return m, nil
	}
	m.interval = interval
	if m.looking {
		return m, nil // its answer starts the new one
	}
	return m, m.tick()
}

// topSort is a way to sort a section's rows.
type topSort struct {
	name string
	less func(a, b *topRow) int
}

// sortsOf are the ways to sort a section, the first being the default. Numbers begin
// with the largest.
func sortsOf(section topSection) []topSort {
	byText := topSort{"name", func(a, b *topRow) int { return strings.Compare(a.name, b.name) }}
	number := func(name string) topSort {
		return topSort{name, func(a, b *topRow) int {
			switch x, y := a.numbers[name], b.numbers[name]; {
			case x > y:
				return -1
			case x < y:
				return 1
			default:
				return strings.Compare(a.name, b.name)
			}
		}}
	}
	switch section { //nolint:exhaustive // the rest is topDead
	case topQueues:
		return []topSort{byText, number("ready"), number("running"), number("oldest"), number("in"), number("out"), number("dead")}
	case topWorkers:
		return []topSort{byText, number("running"), number("slots")}
	default:
		return []topSort{number("time"), byText}
	}
}

// topRow is a line of a section: what is shown, and what it is sorted and filtered by.
type topRow struct {
	name    string
	numbers map[string]float64
	text    string // what the filter looks at
	cells   []string
	alarm   bool // somebody should look
}

// rows are a section's, filtered and sorted.
func (m topModel) rows(section topSection) []topRow {
	if m.last == nil {
		return nil
	}
	var rows []topRow
	switch section { //nolint:exhaustive // the rest is topDead
	case topQueues:
		rows = queueRows(m.last.Queues)
	case topWorkers:
		rows = workerRows(m.last.Workers, m.last.At)
	default:
		rows = failureRows(m.last.Failures, m.last.At)
	}
	filter := strings.ToLower(m.filter)
	rows = slices.DeleteFunc(rows, func(r topRow) bool { return !strings.Contains(strings.ToLower(r.text), filter) })
	by := sortsOf(section)[m.sort[section]].less
	slices.SortStableFunc(rows, func(a, b topRow) int {
		if m.reverse[section] {
			return by(&b, &a)
		}
		return by(&a, &b)
	})
	return rows
}

func (m topModel) lengthOf(section topSection) int { return len(m.rows(section)) }
