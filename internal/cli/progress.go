package cli

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/term"

	"github.com/peltonq/pelton"
)

const (
	progressDelay = 300 * time.Millisecond // what is done sooner needs none
	progressPause = 100 * time.Millisecond // between two looks of it
	progressBar   = 24                     // columns
)

// progress is a line on stderr that says how far a long command is: on a terminal
// alone. Whatever else is written hides it first. It may be nil, and is for one
// goroutine.
type progress struct {
	w     io.Writer
	width func() int
	now   func() time.Time
	verb  string // what was done: "enqueued"
	total int64  // of what the position counts; zero is unknown

	begin time.Time
	drawn time.Time
	shown bool
}

// newProgress is a line for a verb such as "enqueued"; nil where nobody looks at it.
func (a *app) newProgress(verb string, total int64) *progress {
	f, ok := a.stderr.(*os.File)
	if !ok || !isTerminal(f) || a.environ.get("TERM") == "dumb" {
		return nil
	}
	a.progress = &progress{w: f, verb: verb, total: total, now: time.Now, begin: time.Now(), width: func() int {
		width, _, err := term.GetSize(int(f.Fd()))
		if err != nil || width <= 0 {
			return 80
		}
		return width
	}}
	return a.progress
}

// at tells that so many are done, and how far in the total that is.
func (p *progress) at(done int, position int64) {
	if p == nil {
		return
	}
	now := p.now()
	if took := now.Sub(p.begin); took < progressDelay || p.shown && now.Sub(p.drawn) < progressPause {
		return
	}
	p.drawn, p.shown = now, true
	line := progressLine(p.verb, done, position, p.total, now.Sub(p.begin))
	_, _ = fmt.Fprintf(p.w, "\r%s\x1b[K", clip(line, p.width()-1)) // nobody is left to tell
}

// hide takes the line away, until it is drawn again.
func (p *progress) hide() {
	if p != nil && p.shown {
		p.shown = false
		_, _ = fmt.Fprint(p.w, "\r\x1b[K") // nobody is left to tell
	}
}

// aroundProgress is stdout on a terminal, on which the line may be, too.
type aroundProgress struct {
	w   io.Writer
	app *app
}

func (a aroundProgress) Write(p []byte) (int, error) {
	a.app.progress.hide()
	return a.w.Write(p)
}

// progressLine is "[#####-----]  50%  1200 enqueued, 400/s, 3s left", as far as that
// is known.
func progressLine(verb string, done int, position, total int64, took time.Duration) string {
	var b strings.Builder
	share := 0.0
	if total > 0 {
		share = min(float64(position)/float64(total), 1)
		full := int(share * progressBar)
		fmt.Fprintf(&b, "[%s%s] %3d%%  ", strings.Repeat("#", full), strings.Repeat("-", progressBar-full), int(share*100))
	}
	fmt.Fprintf(&b, "%d %s", done, verb)
	if took > 0 {
		fmt.Fprintf(&b, ", %.0f/s", float64(done)/took.Seconds())
	}
	if share > 0 && share < 1 {
		left := time.Duration(float64(took) * (1 - share) / share)
		fmt.Fprintf(&b, ", %s left", pelton.FormatDuration(max(left.Round(time.Second), time.Second)))
	}
	return b.String()
}
