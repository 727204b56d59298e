package broker

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// Actors look at a lock, and later take, renew, release and break what they saw,
// in any order and by states of any age. A model says which of it must succeed:
// a take when nothing has changed since its look, a renewal and a release when
// nobody has written to that permit. So there are never more holders than slots.
func TestLocksByModel(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	ctx := t.Context()
	runs := 0
	rapid.Check(t, func(t *rapid.T) {
		runs++
		name := fmt.Sprint("lock ", runs)
		slots := rapid.IntRange(1, 3).Draw(t, "slots")
		type look struct {
			state  *LockState
			change int // of the model, when it was read
		}
		var (
			looks   []look
			copies  []*Permit          // of permits at some revision, current or old
			current = map[int]uint64{} // revision by permit
			tokens  = map[int]uint64{} // token by permit
			changes = 0                // writes so far
			last    uint64             // token given last
			fail    = func(e error) {
				if e != nil {
					t.Fatal(e)
				}
			}
		)
		t.Repeat(map[string]func(*rapid.T){
			"look": func(t *rapid.T) {
				state, err := b.LockState(ctx, name)
				fail(err)
				looks = append(looks, look{state, changes})
			},
			"take": func(t *rapid.T) {
				if len(looks) == 0 {
					t.Skip()
				}
				l := rapid.SampledFrom(looks).Draw(t, "look")
				index, free := l.state.Free(slots)
				if !free {
					t.Skip()
				}
				p := aPermit(name, slots, time.Minute, fmt.Sprint("g", changes))
				p.Index = index
				switch err := b.TakeLock(ctx, l.state, p); {
				case l.change == changes:
					fail(err)
					if p.Token <= last {
						t.Fatalf("token %d after %d", p.Token, last)
					}
					changes, last = changes+1, p.Token
					current[index], tokens[index] = p.Revision, p.Token
					copies = append(copies, p)
				case !errors.Is(err, ErrStale):
					t.Fatalf("take after a change = %v", err)
				}
			},
			"renew": func(t *rapid.T) {
				if len(copies) == 0 {
					t.Skip()
				}
				p := *rapid.SampledFrom(copies).Draw(t, "permit")
				old := p.Revision
				switch err := b.RenewLock(ctx, &p); {
				case current[p.Index] == old:
					fail(err)
					changes++
					current[p.Index] = p.Revision
					copies = append(copies, &p)
				case !errors.Is(err, ErrStale):
					t.Fatalf("renewal by an old revision = %v", err)
				}
			},
			"release": func(t *rapid.T) {
				if len(copies) == 0 {
					t.Skip()
				}
				p := rapid.SampledFrom(copies).Draw(t, "permit")
				switch err := b.ReleaseLock(ctx, p); {
				case current[p.Index] == p.Revision:
					fail(err)
					changes++
					delete(current, p.Index)
					delete(tokens, p.Index)
				case !errors.Is(err, ErrStale):
					t.Fatalf("release by an old revision = %v", err)
				}
			},
			"break": func(t *rapid.T) {
				if len(copies) == 0 {
					t.Skip()
				}
				p := rapid.SampledFrom(copies).Draw(t, "permit")
				_, err := b.BreakLock(ctx, name, p.Token)
				if tokens[p.Index] != p.Token {
					if err == nil {
						t.Fatalf("broke token %d, which is held no more", p.Token)
					}
					return
				}
				fail(err)
				changes++
				delete(current, p.Index)
				delete(tokens, p.Index)
			},
			"": func(t *rapid.T) {
				state, err := b.LockState(ctx, name)
				fail(err)
				var got []uint64
				for _, p := range state.Permits {
					got = append(got, p.Token)
				}
				if want := slices.Sorted(maps.Values(tokens)); !slices.Equal(got, want) || len(got) > slots {
					t.Fatalf("held by %d, want %d, slots %d", got, want, slots)
				}
			},
		})
	})
}
