package broker

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/peltonq/pelton"
)

// readBack follows a stream backwards to its end, call by call.
func readBack(t require, b *Broker, filter string, share int) (seqs []uint64, calls int) {
	t.Helper()
	for before := uint64(0); ; calls++ {
		w, err := b.readBackwards(t.Context(), b.tasks(0), filter, before, &looks{left: share, end: time.Now().Add(time.Hour)})
		if err != nil {
			t.Fatal(err)
		}
		for {
			msg, err := w.peek(t.Context())
			if errors.Is(err, errEnough) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if msg == nil {
				return seqs, calls
			}
			seqs = append(seqs, msg.seq)
			w.pass()
		}
		before = w.before
	}
}

// Whatever lies between them, and however little a call may read: all messages of a
// filter, each once, the newest first.
func TestReadBackwards(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	if seqs, _ := readBack(t, b, ">", 10); len(seqs) != 0 {
		t.Fatalf("an empty stream has %d", seqs)
	}
	lanes := []pelton.Priority{pelton.High, pelton.Low}
	there := map[pelton.Priority][]uint64{}
	rapid.Check(t, func(rt *rapid.T) {
		for range rapid.IntRange(0, 3).Draw(rt, "runs") {
			p := rapid.SampledFrom(lanes).Draw(rt, "lane")
			for range rapid.IntRange(1, 40).Draw(rt, "messages") {
				seq, err := b.PublishReady(t.Context(), aRecord("q", p).Envelope())
				must(t, err)
				there[p] = append(there[p], seq)
			}
			if n := rapid.IntRange(0, 30).Draw(rt, "gap"); n > 0 { // a run of messages goes
				from := rapid.IntRange(0, len(there[p])-1).Draw(rt, "from")
				for _, seq := range there[p][from:min(from+n, len(there[p]))] {
					must(t, b.DeleteMessage(t.Context(), 0, seq))
				}
				there[p] = slices.Delete(there[p], from, min(from+n, len(there[p])))
			}
		}
		for _, want := range []struct {
			filter string
			seqs   []uint64
		}{
			{b.ready(0, "q", pelton.High), there[pelton.High]},
			{b.ready(0, "q", pelton.Low), there[pelton.Low]},
			{b.readyPrefix(0) + "*.*", append(slices.Clone(there[pelton.High]), there[pelton.Low]...)},
			{b.ready(0, "other", pelton.High), nil},
		} {
			slices.Sort(want.seqs)
			slices.Reverse(want.seqs)
			share := rapid.SampledFrom([]int{1, 20, 1000}).Draw(rt, "share")
			got, _ := readBack(rt, b, want.filter, share)
			if !slices.Equal(want.seqs, got) {
				rt.Fatalf("%s, %d reads a call (-want +got):\n%s", want.filter, share, cmp.Diff(want.seqs, got))
			}
		}
		slices.Sort(there[pelton.High])
		slices.Sort(there[pelton.Low])
	})
}

func TestCovers(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		filter, subject string
		want            bool
	}{
		{">", "a.b", true},
		{"a.>", "a.b.c", true},
		{"a.>", "a", false},
		{"a.*", "a.b", true},
		{"a.*", "a.b.c", false},
		{"a.b", "a.b", true},
		{"a.b", "a.c", false},
		{"a.b", "a", false},
		{"a", "a.b", false},
		{"*.b", "a.b", true},
	} {
		if got := covers(tt.filter, tt.subject); got != tt.want {
			t.Errorf("covers(%q, %q) = %t", tt.filter, tt.subject, got)
		}
	}
}

// A list costs what it passes, not what is there.
func TestListsAreBounded(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	for range 60 {
		r := aRecord("q", pelton.Normal)
		r.State, r.FinishedAt = pelton.Succeeded, time.Now()
		must(t, b.CreateRecord(t.Context(), r))
	}
	b.deadReads = time.Hour // however slow the machine is
	visited := 0
	next, err := b.EachListed(t.Context(), ListFilter{State: pelton.Cancelled}, "", func(*Record) bool {
		visited++
		return true
	})
	if err != nil || next != "" || visited != 0 {
		t.Errorf("none of 60: %d, %q, %v", visited, next, err)
	}
	b.deadReads = 1 // a nanosecond
	next, err = b.EachListed(t.Context(), ListFilter{State: pelton.Cancelled}, "", func(*Record) bool { return true })
	if err != nil || next == "" {
		t.Errorf("without time: %q, %v, want a cursor", next, err)
	}
}
