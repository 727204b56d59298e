package pelton_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"pgregory.net/rapid"

	"github.com/peltonq/pelton"
)

// lastMilli is the last instant that an id can hold, in the year 10889.
const lastMilli = 1<<48 - 1

func TestIDHoldsTimeAndShard(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		ms := rapid.Int64Range(0, lastMilli).Draw(t, "ms")
		shard := rapid.Byte().Draw(t, "shard")
		nanos := rapid.Int64Range(0, 999_999).Draw(t, "nanos")
		id := pelton.NewID(time.UnixMilli(ms).Add(time.Duration(nanos)), shard)

		if got := id.Time(); !got.Equal(time.UnixMilli(ms)) || got.Location() != time.UTC {
			t.Errorf("Time = %s, want %s", got, time.UnixMilli(ms).UTC())
		}
		if id.Shard() != shard {
			t.Errorf("Shard = %d, want %d", id.Shard(), shard)
		}
		if !id.Minted() {
			t.Error("not minted")
		}
		if id.IsZero() {
			t.Error("zero")
		}
		u := uuid.UUID(id)
		if u.Version() != 8 || u.Variant() != uuid.RFC4122 {
			t.Errorf("version %d, variant %s", u.Version(), u.Variant())
		}
	})
}

func TestIDRoundTrip(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		id := drawID(t)
		s := id.String()
		if len(s) != 36 || s != strings.ToLower(s) {
			t.Errorf("String = %q", s)
		}
		for _, form := range []string{s, strings.ToUpper(s)} {
			if got, err := pelton.ParseID(form); err != nil || got != id {
				t.Errorf("ParseID(%q) = %s, %v", form, got, err)
			}
		}
		data, err := json.Marshal(map[pelton.ID]pelton.ID{id: id})
		if err != nil {
			t.Fatal(err)
		}
		var back map[pelton.ID]pelton.ID
		if err := json.Unmarshal(data, &back); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(map[pelton.ID]pelton.ID{id: id}, back); diff != "" {
			t.Error(diff)
		}
	})
}

func TestIDsSortByTime(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		earlier := rapid.Int64Range(0, lastMilli-1).Draw(t, "earlier")
		later := rapid.Int64Range(earlier+1, lastMilli).Draw(t, "later")
		a := pelton.NewID(time.UnixMilli(earlier), rapid.Byte().Draw(t, "a"))
		b := pelton.NewID(time.UnixMilli(later), rapid.Byte().Draw(t, "b"))
		if a.String() >= b.String() {
			t.Errorf("%s of %d does not sort before %s of %d", a, earlier, b, later)
		}
	})
}

func TestIDsAreUnique(t *testing.T) {
	t.Parallel()
	const n = 100_000
	now := time.Now()
	seen := make(map[pelton.ID]bool, n)
	for range n {
		seen[pelton.NewID(now, 0)] = true
	}
	if len(seen) != n {
		t.Errorf("%d of %d ids of one millisecond are distinct", len(seen), n)
	}
}

func TestIDClampsTime(t *testing.T) {
	t.Parallel()
	for in, want := range map[time.Time]int64{
		{}:                      0,
		time.Unix(-1, 0):        0,
		time.UnixMilli(0):       0,
		time.Unix(1<<40, 0):     lastMilli,
		time.UnixMilli(1 << 48): lastMilli,
	} {
		if got := pelton.NewID(in, 3); got.Time().UnixMilli() != want || got.Shard() != 3 {
			t.Errorf("NewID(%s) has time %d and shard %d, want %d and 3", in, got.Time().UnixMilli(), got.Shard(), want)
		}
	}
}

func TestParseIDRefuses(t *testing.T) {
	t.Parallel()
	valid := pelton.NewID(time.Now(), 0).String()
	for name, in := range map[string]string{
		"empty":         "",
		"text":          "not-an-id",
		"short":         valid[:35],
		"long":          valid + "0",
		"no hyphens":    strings.ReplaceAll(valid, "-", ""),
		"braces":        "{" + valid + "}",
		"urn":           "urn:uuid:" + valid,
		"space":         " " + valid[1:],
		"hyphens moved": valid[:7] + "-" + valid[7:8] + valid[9:],
		"no hex":        "g" + valid[1:],
		"subject":       "*" + valid[1:],
		"version 4":     "9b2c7a52-7c3f-4a8d-9a5e-0c3d6b1f2e4a",
		"version 7":     "01890a5d-ac96-774b-bcce-b302099a8057",
		"nil":           uuid.Nil.String(),
		"variant":       valid[:19] + "c" + valid[20:],
		"hostile":       strings.Repeat("\x00\xff", 1<<16),
	} {
		id, err := pelton.ParseID(in)
		if !errors.Is(err, pelton.ErrInvalid) || !id.IsZero() {
			t.Errorf("%s: ParseID = %s, %v", name, id, err)
			continue
		}
		if len(err.Error()) > 400 {
			t.Errorf("%s: the error repeats %d bytes", name, len(err.Error()))
		}
		into := pelton.NewID(time.Now(), 1)
		before := into
		if err := into.UnmarshalText([]byte(in)); !errors.Is(err, pelton.ErrInvalid) || into != before {
			t.Errorf("%s: UnmarshalText: %v", name, err)
		}
	}
}

func FuzzParseID(f *testing.F) {
	f.Add(pelton.NewID(time.Unix(1_700_000_000, 0), 7).String())
	f.Add(strings.ToUpper(pelton.NewID(time.Unix(0, 0), 255).String()))
	f.Add("01890a5d-ac96-774b-bcce-b302099a8057")
	f.Add("{01890a5d-ac96-874b-bcce-b302099a80}")
	f.Add("")
	f.Fuzz(func(t *testing.T, s string) {
		id, err := pelton.ParseID(s)
		var same pelton.ID
		if textErr := same.UnmarshalText([]byte(s)); same != id || fmt.Sprint(textErr) != fmt.Sprint(err) {
			t.Fatalf("UnmarshalText(%q) = %s, %v, but ParseID = %s, %v", s, same, textErr, id, err)
		}
		if err != nil {
			if !errors.Is(err, pelton.ErrInvalid) || !id.IsZero() {
				t.Fatalf("ParseID(%q) = %s, %v", s, id, err)
			}
			return
		}
		if text, err := id.AppendText([]byte("x")); string(text) != "x"+id.String() || err != nil {
			t.Fatalf("AppendText of %s appends %q, %v", id, text, err)
		}
		if id.String() != strings.ToLower(s) {
			t.Fatalf("ParseID(%q) = %s", s, id)
		}
		if u := uuid.UUID(id); u.Version() != 8 || u.Variant() != uuid.RFC4122 {
			t.Fatalf("ParseID(%q) has version %d, variant %s", s, u.Version(), u.Variant())
		}
	})
}

func drawID(t *rapid.T) pelton.ID {
	return pelton.NewID(time.UnixMilli(rapid.Int64Range(0, lastMilli).Draw(t, "ms")), rapid.Byte().Draw(t, "shard"))
}

func TestLocatedID(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		minted := pelton.NewID(time.UnixMilli(rapid.Int64Range(0, 1<<48-1).Draw(t, "ms")), rapid.Uint8().Draw(t, "shard"))
		seq := rapid.Uint64Range(1, 1<<53-1).Draw(t, "sequence")
		seed := minted.Seed()
		located := seed.At(seq)
		if seed.Minted() || seed.Sequence() != 0 || located.Minted() || located.Sequence() != seq || minted.Sequence() != 0 {
			t.Fatalf("minted %s, seed %s, located %s", minted, seed, located)
		}
		if located.Seed() != seed || !located.Time().Equal(minted.Time()) || located.Shard() != minted.Shard() || minted.At(seq) != located {
			t.Fatalf("minted %s, located %s", minted, located)
		}
		if parsed, err := pelton.ParseID(located.String()); err != nil || parsed != located {
			t.Fatalf("parsed %s, %v", parsed, err)
		}
	})
}

func TestIDTextTakesNoMemory(t *testing.T) {
	id, room := pelton.NewID(time.Now(), 0), make([]byte, 0, 64)
	if got := testing.AllocsPerRun(100, func() {
		text, err := id.AppendText(room)
		if err == nil {
			err = id.UnmarshalText(text)
		}
		if err != nil {
			t.Fatal(err)
		}
	}); got > 0 {
		t.Errorf("%v allocations", got)
	}
}
