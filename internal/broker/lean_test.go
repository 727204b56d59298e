package broker

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/peltonq/pelton"
)

// Defaults, and the time that an id says, are not written, and are there again when the line is read. Lines
// that say them are understood, as all did at first.
func TestLinesOfAllVersions(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 3, 4, 5, 6, 7, 890_123_456, time.UTC)
	spec, err := pelton.Spec{Kind: "k", Payload: []byte(`1`)}.Normalized(now)
	if err != nil {
		t.Fatal(err)
	}
	want := NewRecord(pelton.NewID(now, 0).At(7), spec, now)
	data, err := encodeEnvelope(want.Envelope())
	if err != nil {
		t.Fatal(err)
	}
	const defaults, created = `,"max_attempts":20,"timeout":300000000000,"retention":86400000000000`, `,"created_at":"2026-03-04T05:06:07.89Z"`
	line := func(fields string) string {
		return `{"v":1,"id":"` + want.ID.String() + `","kind":"k","queue":"default","priority":"normal"` + fields + "}\n1"
	}
	if string(data) != line("") {
		t.Errorf("a plain task is\n%s, want\n%s", data, line(""))
	}
	want.Version = version
	for _, fields := range []string{"", defaults, created, defaults + created} {
		got, err := decodeEnvelope([]byte(line(fields)))
		if err != nil {
			t.Fatalf("decode %s: %v", line(fields), err)
		}
		if diff := cmp.Diff(want.Envelope(), got); diff != "" {
			t.Errorf("%s reads (-want +got):\n%s", line(fields), diff)
		}
	}
	minted := *want
	minted.ID = pelton.NewID(now, 0)
	other := *want
	other.MaxAttempts, other.Timeout, other.Retention, other.CreatedAt = 1, time.Second, time.Hour, now.Add(time.Millisecond)
	for name, r := range map[string]Record{"minted id": minted, "other values": other} {
		if data, err = encodeRecord(&r); err != nil {
			t.Fatal(err)
		}
		if told := strings.Contains(string(data), `"created_at":`); told != (name == "other values") {
			t.Errorf("%s: %s", name, data)
		}
		got, err := decodeRecord(data, 0)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(&r, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}
