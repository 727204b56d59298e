package main

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"
)

// Each bound is about figures that the modes measure.
func TestBoundsAreAboutWhatIsMeasured(t *testing.T) {
	t.Parallel()
	entries := contestants("")
	measures := func(metricName, contestant string) bool {
		for _, e := range entries {
			for _, m := range modes {
				has := slices.ContainsFunc(m.metrics, func(m metric) bool { return m.Name == metricName })
				if e.name == contestant && has && e.takesPart(m, true) {
					return true
				}
			}
		}
		return false
	}
	for _, b := range bounds {
		if b.kind != must && b.kind != goal || b.limit <= 0 {
			t.Errorf("%+v", b)
		}
		if !measures(b.metric, b.contestant) {
			t.Errorf("%s has no %q", b.contestant, b.metric)
		}
		other := b.ofMetric
		if other == "" {
			other = b.metric
		}
		if b.of != "" && !measures(other, b.of) {
			t.Errorf("%s has no %q", b.of, other)
		}
	}
}

func TestJudge(t *testing.T) {
	t.Parallel()
	rate, took := metric{Name: "drain", Unit: rateUnit}, metric{Name: "latency", Unit: "ms", Less: true}
	many := metric{Name: "drain of many", Unit: rateUnit}
	rows := []row{
		{Metric: rate, Contestant: namePelton, Median: 80},
		{Metric: rate, Contestant: nameFloor, Median: 100},
		{Metric: many, Contestant: namePelton, Median: 64},
		{Metric: took, Contestant: namePelton, Median: 5},
	}
	for _, tc := range []struct {
		bound bound
		want  verdict
	}{
		{bound{must, "drain", namePelton, 0.8, "", nameFloor}, verdict{"≥ 80 % of floor", 80, true}},
		{bound{must, "drain", namePelton, 0.81, "", nameFloor}, verdict{"≥ 81 % of floor", 81, false}},
		{bound{must, "drain", nameFloor, 1.5, "drain of many", namePelton}, verdict{"≥ 1.5× pelton, drain of many", 96, true}},
		{bound{must, "drain of many", namePelton, 0.8, "drain", namePelton}, verdict{"≥ 80 % of drain", 64, true}},
		{bound{must, "drain", namePelton, 6000, "", ""}, verdict{"≥ 6,000 tasks/s", 6000, false}},
		{bound{must, "latency", namePelton, 5, "", ""}, verdict{"≤ 5 ms", 5, true}},
		{bound{must, "latency", namePelton, 4.9, "", ""}, verdict{"≤ 4.9 ms", 4.9, false}},
	} {
		c := &comparison{Rows: slices.Clone(rows)}
		c.judge([]bound{tc.bound})
		got := c.verdicts()
		if len(got) != 1 || got[0].verdict != tc.want || got[0].row.Contestant != tc.bound.contestant {
			t.Errorf("%+v is %+v, want %+v", tc.bound, got, tc.want)
		}
	}

	c := &comparison{Rows: slices.Clone(rows)}
	c.judge([]bound{
		{goal, "drain", namePelton, 2, "", nameAsynq}, // was not measured
		{must, "drain", nameAsynq, 2, "", nameFloor},  // is not what this run is about
	})
	if len(c.verdicts()) != 0 || !slices.Equal(c.Unjudged, []string{"goal drain, pelton: ≥ 2× asynq"}) {
		t.Errorf("judged %+v, not judged %q", c.verdicts(), c.Unjudged)
	}
}

// A bound stands beside its figure and in the list, wherever a run is printed.
func TestBoundsArePrinted(t *testing.T) {
	t.Parallel()
	rate := modes[0].metrics[0]
	c := &comparison{order: []string{namePelton, nameFloor}, Rows: []row{
		{Metric: rate, Contestant: namePelton, Values: []float64{80}},
		{Metric: rate, Contestant: nameFloor, Values: []float64{100}},
	}}
	c.finish()
	var table, list, markdown, asJSON bytes.Buffer
	if err := errors.Join(c.table(&table), c.list(&list), printJSON(&asJSON, c)); err != nil {
		t.Fatal(err)
	}
	c.markdown(&markdown)
	for out, want := range map[string]string{
		table.String():    "must ≥ 90 % of floor: no",
		list.String():     "held: 0 of 1 must, 0 of 0 goal",
		markdown.String(): "| must | no | enqueue, 1 caller | pelton | 80 tasks/s | ≥ 90 % of floor, 90 |",
		asJSON.String():   `"held": false`,
	} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	if !strings.Contains(table.String(), list.String()) {
		t.Errorf("no list in\n%s", table.String())
	}
}

// Who is measured by a mode, in the short form and in the long one.
func TestTakesPart(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		entry       entry
		mode        mode
		short, full bool
	}{
		{entry{name: "a"}, mode{name: "m"}, true, true},
		{entry{name: "a", modes: []string{"m"}}, mode{name: "m"}, true, true},
		{entry{name: "a", modes: []string{"n"}}, mode{name: "m"}, false, false},
		{entry{name: "a"}, mode{name: "m", only: []string{"b"}}, false, false},
		{entry{name: "a"}, mode{name: "m", brief: []string{"b"}}, false, true},
		{entry{name: "a"}, mode{name: "m", brief: nobody}, false, true},
		{entry{name: "a"}, mode{name: "m", brief: []string{"a"}}, true, true},
	} {
		if short, full := tc.entry.takesPart(tc.mode, false), tc.entry.takesPart(tc.mode, true); short != tc.short || full != tc.full {
			t.Errorf("%+v in %s: %t and %t, want %t and %t", tc.entry.modes, tc.mode.name, short, full, tc.short, tc.full)
		}
	}
}

func TestPart(t *testing.T) {
	t.Parallel()
	got := fullScale.part(0.1)
	if got.Drain != fullScale.Drain/10 || got.Within != fullScale.Within/10 || got.Quiet != fullScale.Quiet/10 || got.Reps != fullScale.Reps {
		t.Errorf("a tenth is %+v", got)
	}
	least := shortScale.part(1e-9)
	if least.Samples != shortScale.Samples || least.Drain != batchSize || least.Poll <= 0 || least.Quiet <= 0 {
		t.Errorf("the least is %+v", least)
	}
}
