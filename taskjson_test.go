package pelton

import (
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// What is written by hand is what encoding/json writes, byte for byte, and tasks of the usual kind
// are written by hand.
func TestUsualTasksAreWrittenAsByEncodingJSON(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.OneOf(rapid.StringMatching(`[a-z0-9._-]{0,12}`), rapid.SampledFrom([]string{"<", ">", "&", `"`, `\`, "\x00", "\x7f", "é", "\xff", "\u2028"}))
		at := rapid.Custom(func(t *rapid.T) time.Time {
			if rapid.Bool().Draw(t, "none") {
				return time.Time{}
			}
			when := time.Unix(rapid.Int64Range(0, 300000000000).Draw(t, "unix"), rapid.Int64Range(0, 999999999).Draw(t, "ns"))
			return when.In(time.FixedZone("", 60*rapid.IntRange(-1439, 1439).Draw(t, "zone")))
		})
		span := rapid.Custom(func(t *rapid.T) time.Duration { return time.Duration(rapid.Int64Range(-1, 1e15).Draw(t, "d")) })
		task := Task{
			ID: NewID(time.Unix(1, 0), 0), Kind: text.Draw(t, "kind"), Queue: text.Draw(t, "queue"), Priority: Priority(text.Draw(t, "priority")), State: State(text.Draw(t, "state")),
			Attempt: rapid.Int().Draw(t, "attempt"), MaxAttempts: rapid.Int().Draw(t, "max"), Crashes: rapid.Int().Draw(t, "crashes"),
			Timeout: span.Draw(t, "timeout"), Retention: span.Draw(t, "retention"), Revision: rapid.Uint64().Draw(t, "revision"),
			CreatedAt: at.Draw(t, "created"), RunAt: at.Draw(t, "run at"), ExpiresAt: at.Draw(t, "expires"), StartedAt: at.Draw(t, "started"), FinishedAt: at.Draw(t, "finished"),
			Worker: text.Draw(t, "worker"), ConcurrencyKey: text.Draw(t, "key"), RateKey: text.Draw(t, "rate key"),
		}
		got, ok := task.appendUsual([]byte("before"))
		want, err := task.appendMeta([]byte("before"))
		switch {
		case !ok && string(got) != "before":
			t.Fatalf("%q was left behind", got)
		case ok && (err != nil || string(got) != string(want)):
			t.Fatalf("written:\n%s\nencoding/json (%v):\n%s", got, err, want)
		}
		easy := strings.Trim(task.Kind+task.Queue+string(task.Priority)+string(task.State)+task.Worker+task.ConcurrencyKey+task.RateKey, "abcdefghijklmnopqrstuvwxyz0123456789._-") == ""
		if easy && err == nil && !ok {
			t.Fatalf("%s was left to encoding/json", want)
		}
		task.Labels = map[string]string{"a": "b"}
		if _, ok := task.appendUsual(nil); ok {
			t.Fatal("a label was forgotten")
		}
	})
}
