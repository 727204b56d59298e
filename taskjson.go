package pelton

import (
	"strconv"
	"time"
)

// usualTaskJSON is what a task's JSON form takes but for payload and result, in bytes. One that takes
// more is written all the same, at the price of a copy.
const usualTaskJSON = 512

// appendUsual is appendMeta for a task that has none of what few have, written by hand: an
// answer to POST /tasks is one, and reflection took a sixth of it. It is false for any
// other task, and then dst is as it was.
func (t *Task) appendUsual(dst []byte) ([]byte, bool) {
	if t.Progress != nil || t.Error != nil || len(t.Errors) > 0 || t.Unique != nil || len(t.Labels) > 0 || t.Schedule != nil || t.Backoff != (Backoff{}) {
		return dst, false
	}
	w := jsonWriter{out: dst, ok: true}
	w.out = append(w.out, `{"id":"`...)
	w.out, _ = t.ID.AppendText(w.out) // never fails
	w.out = append(w.out, '"')
	w.text(`,"kind":"`, t.Kind)
	w.text(`,"queue":"`, t.Queue)
	w.text(`,"priority":"`, string(t.Priority))
	w.text(`,"state":"`, string(t.State))
	w.integer(`,"attempt":`, t.Attempt)
	w.integer(`,"max_attempts":`, t.MaxAttempts)
	w.integer(`,"crashes":`, t.Crashes)
	w.duration(`,"timeout":"`, t.Timeout)
	w.duration(`,"retention":"`, t.Retention)
	w.out = strconv.AppendUint(append(w.out, `,"revision":`...), t.Revision, 10)
	w.time(`,"created_at":"`, t.CreatedAt)
	w.time(`,"run_at":"`, t.RunAt)
	w.time(`,"expires_at":"`, t.ExpiresAt)
	w.time(`,"started_at":"`, t.StartedAt)
	w.time(`,"finished_at":"`, t.FinishedAt)
	w.textUnlessEmpty(`,"worker":"`, t.Worker)
	w.textUnlessEmpty(`,"concurrency_key":"`, t.ConcurrencyKey)
	w.textUnlessEmpty(`,"rate_key":"`, t.RateKey)
	if !w.ok {
		return dst, false
	}
	return w.out, true
}

// jsonWriter appends fields. Each method takes the key as it is written, with what stands
// around it; ok is false once there was something that encoding/json would write otherwise.
type jsonWriter struct {
	out []byte
	ok  bool
}

func (w *jsonWriter) integer(key string, n int) {
	w.out = strconv.AppendInt(append(w.out, key...), int64(n), 10)
}

func (w *jsonWriter) textUnlessEmpty(key, s string) {
	if s != "" {
		w.text(key, s)
	}
}

// text writes what takes no escape.
func (w *jsonWriter) text(key, s string) {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&' {
			w.ok = false
			return
		}
	}
	w.out = append(append(append(w.out, key...), s...), '"')
}

func (w *jsonWriter) duration(key string, d time.Duration) {
	if d > 0 {
		w.out = append(append(append(w.out, key...), FormatDuration(d)...), '"')
	}
}

func (w *jsonWriter) time(key string, t time.Time) {
	if t.IsZero() {
		return
	}
	out, err := t.AppendText(append(w.out, key...))
	if err != nil { // encoding/json will say it
		w.ok = false
		return
	}
	w.out = append(out, '"')
}
