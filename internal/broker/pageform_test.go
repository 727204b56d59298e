package broker

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/peltonq/pelton"
)

// Entries that are no pages hide none, and those of a newer version are not passed over.
func TestForeignPages(t *testing.T) {
	t.Parallel()
	b := openNew(t)
	records := enqueuedPlain(t, b, 3)
	seg := segmentOf(records[0].ID)
	at := func(token string) string { return b.inSegment("page", seg) + "." + token }
	for i, data := range []string{"", "x", "{}\n", "{\"v\":1,\"tasks\":[1],\"lengths\":[]}\n", "{\"v\":1,\"tasks\":[1],\"lengths\":[7]}\n", "{\"v\":1,\"tasks\":[1],\"lengths\":[-1]}\n", "{\"v\":1,\"tasks\":[1],\"lengths\":[2]}\nzz"} {
		_, err := b.do(t.Context(), write{subject: at(fmt.Sprint("a", i)), data: []byte(data), expect: anyRevision})
		must(t, err)
	}
	must(t, succeed(b, successOf(records[0], "1")))
	if got, err := b.LoadRecord(t.Context(), records[0].ID); err != nil || got.State != pelton.Succeeded {
		t.Errorf("behind what is no page: %+v, %v", got, err)
	}
	if _, err := b.Cancel(t.Context(), records[1].ID); err != nil {
		t.Errorf("cancel beside what is no page: %v", err)
	}
	if ids := listed(t, b, ListFilter{State: pelton.Succeeded}); len(ids) != 1 {
		t.Errorf("listed: %v", ids)
	}
	_, err := b.do(t.Context(), write{subject: at("z"), data: []byte("{\"v\":2,\"tasks\":{}}\n"), expect: anyRevision})
	must(t, err)
	if _, err := b.LoadRecord(t.Context(), records[2].ID); !errors.Is(err, ErrNewer) {
		t.Errorf("a page of a newer version: %v", err)
	}
}

// A page is as the layout says.
func TestPageForm(t *testing.T) {
	t.Parallel()
	seg := segment{0, 4}
	id := pelton.NewID(time.Now(), 0)
	var outcomes []outcomeWrite
	for i, at := range []uint64{130, 128, 159} {
		r := aRecord("q", pelton.Low)
		r.ID = id.At(at)
		data, err := encodeRecord(successOf(r, strings.Repeat("x", i)))
		must(t, err)
		outcomes = append(outcomes, outcomeWrite{r: r, data: data})
	}
	data := encodePage(seg, outcomes)
	want := fmt.Sprintf(`{"v":1,"tasks":[2,0,31],"lengths":[%d,%d,%d]}`+"\n", len(outcomes[0].data), len(outcomes[1].data), len(outcomes[2].data))
	if !bytes.HasPrefix(data, []byte(want)) {
		t.Errorf("page begins with %.100q, want %q", data, want)
	}
	p, err := decodePage(seg, &stored{data: data, seq: 9})
	must(t, err)
	for _, o := range outcomes {
		if r, err := p.has(o.r.ID); err != nil || r == nil || r.ID != o.r.ID || r.Revision != 9 || !r.Paged {
			t.Errorf("%s: %+v, %v", o.r.ID, r, err)
		}
	}
	for _, other := range []pelton.ID{id.At(129), pelton.NewID(time.Now(), 0).At(130)} {
		if r, err := p.has(other); err != nil || r != nil {
			t.Errorf("%s: %+v, %v", other, r, err)
		}
	}
}
