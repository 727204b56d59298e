package worker

import (
	"time"

	"github.com/peltonq/pelton"
)

// SetLinger shortens how long handlers may ignore the end of their ctx.
func (w *Worker) SetLinger(d time.Duration) { w.linger, w.lingerShutdown = d, d }

// NakRunning gives the message of a running task back to the broker, as if the
// broker had handed it out twice.
func (w *Worker) NakRunning(id pelton.ID) error {
	r := w.running(id)
	if r == nil {
		return pelton.ErrNotFound
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.delivery.Nak()
}

// Leaked is the number of handlers that ignored the end of their ctx and still run.
func (w *Worker) Leaked() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.leaked
}
