package broker

import (
	"fmt"
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
		var known knownPlaces
		lines := []Line{{}, {Key: "a"}, {Key: "b"}, {Kind: "a"}} // the first is none
		reached := map[Line]uint64{}
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
			"": func(t *rapid.T) {
				line := rapid.SampledFrom(lines[1:]).Draw(t, "line")
				after := reached[line] + rapid.Uint64Range(0, 3).Draw(t, "called since")
				place, found, none := known.next(conn, line, reached[line], after)
				for seq := after + 1; seq <= uint64(len(stream)); seq++ {
					if stream[seq-1] != line {
						continue
					}
					if found && (place.seq != seq || string(place.data) != strconv.FormatUint(seq, 10) || place.subject != line.token()) {
						t.Fatalf("behind %d comes %d, it says %+v", after, seq, place)
					}
					if !found && seq < none {
						t.Fatalf("behind %d comes %d, it says that there is none before %d", after, seq, none)
					}
					if found {
						reached[line] = rapid.SampledFrom([]uint64{reached[line], seq}).Draw(t, "reached")
					}
					return
				}
				if found {
					t.Fatalf("behind %d comes nobody, it says %+v", after, place)
				}
			},
		})
	})
}

// What a process knows is bounded, in all and of each line, and what there was no room for
// is asked for.
func TestKnownPlacesAreBounded(t *testing.T) {
	t.Parallel()
	var known knownPlaces
	arrive := func(seq uint64, line Line, size int) { known.arrived(0, &Delivery{Seq: seq}, line, make([]byte, size)) }
	a := Line{Key: "a"}
	const many = mostKnownOf + 10
	for seq := uint64(1); seq <= many; seq++ {
		arrive(seq, a, 1)
	}
	if _, found, _ := known.next(0, a, 1, mostKnownOf-1); !found {
		t.Error("the last place that there was room for is not known")
	}
	if _, found, none := known.next(0, a, 1, mostKnownOf); found || none != mostKnownOf+1 {
		t.Errorf("behind the last that there was room for: %t, none before %d", found, none)
	}
	if _, found, none := known.next(0, a, many, many); found || none != 0 {
		t.Errorf("behind the end of the run: %t, none before %d", found, none)
	}
	arrive(many+1, a, 1) // the gap is over
	if place, found, _ := known.next(0, a, many, many); !found || place.seq != many+1 {
		t.Errorf("behind the gap: %+v, %t", place, found)
	}
	known = knownPlaces{}
	for seq := uint64(1); seq <= 3*mostKnown; seq++ {
		arrive(seq, Line{Key: strconv.FormatUint(seq, 10)}, 1000)
		if known.places > mostKnown || known.bytes > mostKnownData || len(known.lines) > 2*mostKnown+1 {
			t.Fatalf("%d places of %d lines in %d bytes are known", known.places, len(known.lines), known.bytes)
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
