package broker

import (
	"fmt"
	"slices"
	"strconv"
	"testing"

	"pgregory.net/rapid"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/brokertest"
)

// Whatever comes, in whatever order and with whatever missing: what is known of a line is
// what is in the stream.
func TestKnownPlacesAreTrue(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		known := knownPlaces{keptBehind: rapid.IntRange(0, 3).Draw(t, "kept behind")}
		lines := []Line{{}, {Key: "a"}, {Key: "b"}, {Kind: "a"}} // the first is none
		marks := map[Line]lineMark{}
		var stream []Line // by sequence − 1
		var conn, upTo uint64
		arrive := func(seq uint64) {
			line := stream[seq-1]
			known.arrived(conn, &Delivery{Seq: seq, subject: line.token()}, line, []byte(strconv.FormatUint(seq, 10)))
		}
		t.Repeat(map[string]func(*rapid.T){
			"store": func(t *rapid.T) { stream = append(stream, rapid.SampledFrom(lines).Draw(t, "line")) },
			"next": func(t *rapid.T) {
				if upTo < uint64(len(stream)) {
					upTo++
					arrive(upTo)
				}
			},
			"elsewhere": func(*rapid.T) { upTo = min(upTo+1, uint64(len(stream))) },
			"again": func(t *rapid.T) {
				if upTo > 0 {
					arrive(rapid.Uint64Range(1, upTo).Draw(t, "seq"))
				}
			},
			"unreadable": func(t *rapid.T) {
				if upTo < uint64(len(stream)) {
					upTo++
					known.unreadable(conn, &Delivery{Seq: upTo})
				}
			},
			"reconnect": func(*rapid.T) { conn++ },
			"read on": func(t *rapid.T) {
				known.came.n, known.came.of = shareOf, 2*shareOf
				behind := rapid.Uint64Range(0, uint64(len(stream))).Draw(t, "behind")
				from, reads := known.readsOn(conn, behind, known.to)
				var places []readPlace
				for seq := from; reads && seq <= uint64(len(stream)) && rapid.IntRange(0, 3).Draw(t, "more") > 0; seq++ {
					place := readPlace{knownPlace{stream[seq-1].token(), seq, []byte(strconv.FormatUint(seq, 10))}, stream[seq-1], false}
					if rapid.IntRange(0, 9).Draw(t, "unreadable") == 0 {
						place.line, place.unread = Line{}, true
					}
					places = append(places, place)
				}
				if reads && !known.readUpTo(conn, from, places) {
					t.Fatalf("what was read from %d on was not taken note of: %+v", from, &known)
				}
			},
			"forget half": func(*rapid.T) {
				if known.read {
					known.forgetHalf()
				}
			},
			"look for places before": func(*rapid.T) {
				first := uint64(1)
				for first <= uint64(len(stream)) && (stream[first-1] == Line{} || first <= marks[stream[first-1]].reached) {
					first++
				}
				known.begins(conn, first)
			},
			"others take and leave room": func(t *rapid.T) {
				known.places = rapid.SampledFrom([]int{0, mostKnown}).Draw(t, "places")
				known.bare = rapid.SampledFrom([]int{0, mostBare}).Draw(t, "sequences")
			},
			"go back": func(t *rapid.T) { // behind what all processes knew to be reached for good
				line := rapid.SampledFrom(lines[1:]).Draw(t, "line")
				m := marks[line]
				m.back, m.reached = max(m.back, m.reached), rapid.Uint64Range(0, m.reached).Draw(t, "to")
				marks[line] = m
			},
			"": func(t *rapid.T) {
				line := rapid.SampledFrom(lines[1:]).Draw(t, "line")
				mark := marks[line]
				mark.relays = rapid.Bool().Draw(t, "somebody may go back")
				after := mark.reached + rapid.Uint64Range(0, 3).Draw(t, "called since")
				if rapid.IntRange(0, 4).Draw(t, "nobody has a turn") == 0 {
					nobodyHasATurn(t, known.next(conn, line, lineMark{nobody: true}, 0, 1), stream, line, max(mark.reached, mark.back), upTo)
					return
				}
				waiting := known.waiting(conn, line, after)
				got := known.next(conn, line, mark, after, rapid.IntRange(0, 3).Draw(t, "at most"))
				var behind []uint64
				for seq := after + 1; seq <= uint64(len(stream)); seq++ {
					if stream[seq-1] == line {
						behind = append(behind, seq)
					}
				}
				if waiting > len(behind) || waiting == 0 && got.found {
					t.Fatalf("behind %d come %d, it says %d: %+v", after, len(behind), waiting, got)
				}
				if len(behind) == 0 {
					if got.found || len(got.bare) > 0 {
						t.Fatalf("behind %d comes nobody, it says %+v", after, got)
					}
					return
				}
				switch first := behind[0]; {
				case got.found && (got.seq != first || string(got.data) != strconv.FormatUint(first, 10) || got.subject != line.token()):
					t.Fatalf("behind %d comes %d, it says %+v", after, first, got)
				case len(got.bare) > len(behind) || !slices.Equal(got.bare, behind[:len(got.bare)]):
					t.Fatalf("behind %d come %d, it says %+v", after, behind, got)
				case !got.found && len(got.bare) == 0 && first < got.none:
					t.Fatalf("behind %d comes %d, it says that there is none before %d", after, first, got.none)
				case got.all && first <= upTo && got.none > upTo:
					t.Fatalf("%d came and waits, it says that nobody does: %+v", first, got)
				}
				if got.found || len(got.bare) > 0 {
					mark.reached = rapid.SampledFrom([]uint64{mark.reached, behind[0]}).Draw(t, "reached")
					marks[line] = lineMark{reached: mark.reached, back: mark.back}
				}
			},
		})
	})
}

// nobodyHasATurn checks what is said of a line that has no document: all up to a sequence were called, and are over.
func nobodyHasATurn(t *rapid.T, got knownNext, stream []Line, line Line, over, upTo uint64) {
	for seq := over + 1; seq <= uint64(len(stream)); seq++ {
		if stream[seq-1] != line {
			continue
		}
		switch {
		case got.found && got.seq > seq, len(got.bare) > 0 && got.bare[0] > seq, !got.found && len(got.bare) == 0 && got.none > seq, got.all && seq <= upTo && got.none > upTo:
			t.Fatalf("%d is the first, it says %+v", seq, got)
		}
		return
	}
}

// What a process knows is bounded, in all and of each line, and what there was no room for
// is asked for.
func TestKnownPlacesAreBounded(t *testing.T) {
	t.Parallel()
	var known knownPlaces
	arrive := func(seq uint64, line Line, size int) { known.arrived(0, &Delivery{Seq: seq}, line, make([]byte, size)) }
	a := Line{Key: "a"}
	first := func(line Line, behind uint64) knownNext { return known.next(0, line, lineMark{reached: 1}, behind, 1) }
	var seq uint64
	for known.bare == 0 {
		seq++
		arrive(seq, a, 1)
	}
	last := seq // of which only the sequence is known
	if last < mostKnown/10 || last > mostKnown/8 {
		t.Errorf("%d places of one line are known, want a part of %d", last, mostKnown)
	}
	if got := first(a, last-2); !got.found || got.seq != last-1 {
		t.Errorf("the last place that there was room for: %+v", got)
	}
	if got := first(a, last-1); got.found || len(got.bare) != 1 || got.bare[0] != last {
		t.Errorf("the first one that there was no room for: %+v", got)
	}
	for known.lines[a].gapFrom == 0 {
		seq++
		arrive(seq, a, 1)
	}
	if known.bare != mostBare || len(known.lines[a].bare) != mostBare {
		t.Errorf("%d sequences are known, want %d", known.bare, mostBare)
	}
	if got := first(a, seq-1); got.found || len(got.bare) > 0 || got.none != seq || got.all {
		t.Errorf("behind the last that there was room for: %+v", got)
	}
	if got := first(a, seq); got.found || got.all || got.none != seq+1 {
		t.Errorf("behind the end of the run: %+v", got)
	}
	known.next(0, a, lineMark{reached: seq}, seq, 1)
	arrive(seq+1, a, 1) // the gap is over
	if got := known.next(0, a, lineMark{reached: seq}, seq, 1); !got.found || got.seq != seq+1 {
		t.Errorf("behind the gap: %+v", got)
	}
	if known.bare != 0 || known.places != 1 || known.bytes != 1 {
		t.Errorf("%d places of %d bytes and %d sequences are counted, want one place", known.places, known.bytes, known.bare)
	}
	known = knownPlaces{}
	for seq := uint64(1); seq <= 3*mostKnown; seq++ {
		arrive(seq, Line{Key: strconv.FormatUint(seq, 10)}, 1000)
		if known.places > mostKnown || known.bytes > mostKnownData || known.bare > mostKnown || len(known.lines) > 2*mostKnown+1 {
			t.Fatalf("%d places of %d lines in %d bytes are known, and %d sequences", known.places, len(known.lines), known.bytes, known.bare)
		}
	}
	if known.from == 1 {
		t.Error("what nobody asks for stays for ever")
	}
}

// Whoever calls the next one of a line from what it knows asks nobody, calls in order, and
// asks when it knows of no more.
func TestCallsOfKnownPlaces(t *testing.T) {
	t.Parallel()
	b := openOn(t, brokertest.Start(t), Config{})
	must(t, b.EnsureLane(t.Context(), Lane{Queue: "q", Priority: pelton.Low}))
	callLines(t, b)
	lane := deliveries(t, b, "q", pelton.Low, 10)
	records := inLineOf(t, b, "k", 4)
	line := Line{Key: "k"}
	reaches(t, "all arrivals are known", func() bool {
		b.known.mu.Lock()
		defer b.known.mu.Unlock()
		return b.known.to >= 4
	})
	for i, r := range records {
		d := wait(t, lane, fmt.Sprintf("call %d", i))
		if d.Err != nil || d.Envelope.ID != r.ID {
			t.Fatalf("call %d is of %+v, %v", i, d.Envelope, d.Err)
		}
		start(t, b, r, d.Seq)
		if i == 1 { // others know nothing, and the line goes on
			must(t, b.deleteFrom(t.Context(), b.keyed(0), 3))
		}
		r.State = pelton.Succeeded
		must(t, b.SaveRecord(t.Context(), r))
		must(t, b.LeaveLines(t.Context(), r, d.Seq))
		must(t, d.Ack())
	}
	reaches(t, "nobody is left", func() bool {
		doc, err := b.loadLine(t.Context(), line)
		must(t, err)
		return len(doc.Granted) == 0
	})
	shows(t, b, b.keyed(0), waitingConsumer("q"), 0)
}

// The message by which servers find out whether the broker takes writes is no gap in what is known.
func TestProbeIsNoGap(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	callLines(t, b)
	inLineOf(t, b, "k", 3)
	known := func() (from, to uint64) {
		b.known.mu.Lock()
		defer b.known.mu.Unlock()
		return b.known.from, b.known.to
	}
	reaches(t, "all arrivals are known", func() bool { _, to := known(); return to == 3 })
	before, _ := known()
	_, err := b.do(t.Context(), write{subject: b.keyedProbe(0), expect: anyRevision})
	must(t, err)
	inLineOf(t, b, "k", 1)
	reaches(t, "what came after the probe is known", func() bool { _, to := known(); return to == 5 })
	if from, _ := known(); from != before {
		t.Errorf("what is known begins at %d, began at %d", from, before)
	}
}
