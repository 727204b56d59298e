package main

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"
)

// fake stands for a contestant: what the modes of the test measure is in it.
type fake struct {
	sender
	log    *[]string
	name   string
	value  float64
	breaks bool
}

func (f *fake) start(context.Context, string) error {
	*f.log = append(*f.log, "start "+f.name)
	f.sender = sender{one: func(context.Context, []byte) error { return nil }}
	return nil
}

func (f *fake) hire(context.Context, *crew, int) (func() error, error) {
	return nil, errors.New("nobody works")
}
func (f *fake) footprint() ([]int, string) { return nil, "" }
func (f *fake) stop() error                { *f.log = append(*f.log, "stop "+f.name); return nil }

// missing is not installed.
type missing struct{ fake }

func (*missing) start(context.Context, string) error { return fmt.Errorf("x: %w", errMissing) }

func TestContestantsTakeTurns(t *testing.T) {
	var log []string
	entries := []entry{
		{name: "pelton", make: func() contestant { return &fake{log: &log, name: "pelton", value: 30} }},
		{name: nameFloor, make: func() contestant { return &fake{log: &log, name: nameFloor, value: 40} }},
		{name: nameAsynq, make: func() contestant { return &fake{log: &log, name: nameAsynq, value: 10} }},
		{name: "broken", make: func() contestant { return &fake{log: &log, name: "broken", breaks: true} }},
		{name: "absent", make: func() contestant { return &missing{} }},
		{name: "elsewhere", make: func() contestant { return &fake{log: &log, name: "elsewhere"} }, modes: []string{"other"}},
	}
	first := modes[0]
	measuredAs := first.metrics[0].Name
	var turns []int
	first.run = func(_ context.Context, c contestant, s scale, have int) ([]measured, error) {
		f := c.(*fake)
		if f.name == "pelton" {
			turns = append(turns, s.turn)
		}
		if have != warmTasks {
			t.Errorf("%d tasks to warm up", have)
		}
		log = append(log, "run "+f.name)
		if f.breaks {
			return nil, errors.New("broke")
		}
		f.value++
		return []measured{{measuredAs, f.value}}, nil
	}
	c, err := compare(t.Context(), entries, []mode{first}, scale{Reps: 3})
	if err != nil {
		t.Fatal(err)
	}
	var runs []string
	for _, line := range log {
		if name, ok := strings.CutPrefix(line, "run "); ok {
			runs = append(runs, name)
		}
	}
	want := "pelton floor asynq broken floor asynq pelton asynq pelton floor"
	if got := strings.Join(runs, " "); got != want {
		t.Errorf("turns %s, want %s", got, want)
	}
	if !slices.Equal(turns, []int{0, 1, 2}) {
		t.Errorf("repetitions %d", turns)
	}
	for name, takesPart := range map[string]bool{"pelton": true, nameFloor: true, nameAsynq: true, "broken": true, "elsewhere": false} {
		started, stopped := 0, 0
		for _, line := range log {
			switch line {
			case "start " + name:
				started++
			case "stop " + name:
				stopped++
			}
		}
		if started != stopped || started > 0 != takesPart {
			t.Errorf("%s was started %d times and stopped %d times", name, started, stopped)
		}
	}
	if c.Failed != 1 || len(c.Skipped) != 2 {
		t.Errorf("%d failed, skipped %q", c.Failed, c.Skipped)
	}
	r, ok := c.row(first.metrics[0], "pelton")
	if !ok || r.Median != 32 || !slices.Equal(r.Values, []float64{31, 32, 33}) || r.OfFloor != 32.0/42 || r.OfAsynq != 32.0/12 {
		t.Errorf("Pelton's row is %+v", r)
	}

	var table, markdown, svg bytes.Buffer
	if err := errors.Join(c.table(&table), c.plot(&svg)); err != nil {
		t.Fatal(err)
	}
	c.markdown(&markdown)
	for out, want := range map[string]string{
		table.String():    "0.76×",
		markdown.String(): "| enqueue, 1 caller, tasks/s | 32 | 42 | 12 |",
		svg.String():      ">pelton<",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	for parse := xml.NewDecoder(&svg); ; {
		if _, err := parse.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("the plot is no XML: %v", err)
		}
	}
}

// A run that is stopped has what it measured until then.
func TestStoppedRunKeepsWhatItHas(t *testing.T) {
	var log []string
	ctx, cancel := context.WithCancelCause(t.Context())
	first := modes[0]
	first.run = func(_ context.Context, c contestant, _ scale, _ int) ([]measured, error) {
		defer cancel(errors.New("enough"))
		return []measured{{first.metrics[0].Name, 1}}, nil
	}
	entries := []entry{{name: "a", make: func() contestant { return &fake{log: &log, name: "a"} }}}
	c, err := compare(ctx, entries, []mode{first}, scale{Reps: 3})
	if err != nil || c.Failed != 1 || !slices.Contains(c.Skipped, "the rest: enough") {
		t.Fatalf("%+v, %v", c, err)
	}
	if r, ok := c.row(first.metrics[0], "a"); !ok || len(r.Values) != 1 {
		t.Errorf("it kept %+v", r)
	}
	if log[len(log)-1] != "stop a" {
		t.Errorf("it was not stopped: %q", log)
	}
}

func TestRepeat(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		load       load
		size, want int
	}{
		{load{callers: 1, n: 10, within: time.Minute}, 1, 10},
		{load{callers: 64, n: 10, within: time.Minute}, 1, 10},
		{load{callers: 1, n: 2000, within: time.Minute}, 1000, 2000},
		{load{callers: 4, n: 10, within: 0}, 1, 0},
	} {
		got, _, err := repeat(t.Context(), tc.load, tc.size, func(context.Context) error { return nil })
		if got != tc.want || err != nil {
			t.Errorf("%+v by %d: %d, %v, want %d", tc.load, tc.size, got, err, tc.want)
		}
	}
	calls := 0
	broke := errors.New("broke")
	_, _, err := repeat(t.Context(), load{callers: 1, n: 100, within: time.Minute}, 1, func(context.Context) error { calls++; return broke })
	if !errors.Is(err, broke) || calls != 1 {
		t.Errorf("%d calls, %v", calls, err)
	}
}

func TestNumbers(t *testing.T) {
	t.Parallel()
	for v, want := range map[float64]string{0.7123: "0.712", 999.4: "999", 1000: "1,000", 1234567: "1,234,567", -4321: "-4,321", -12: "-12"} {
		if got := number(v); got != want {
			t.Errorf("number(%v) = %s, want %s", v, got, want)
		}
	}
	if a, b := median([]float64{3, 1, 2}), median([]float64{4, 1, 2, 3}); a != 2 || b != 2.5 {
		t.Errorf("medians %v and %v", a, b)
	}
	name := func(s string) string { return s }
	if got, err := chosen([]string{"a", "b", "c"}, "c,a", name); err != nil || !slices.Equal(got, []string{"a", "c"}) {
		t.Errorf("chose %q, %v", got, err)
	}
	if _, err := chosen([]string{"a"}, "a,x", name); err == nil || !strings.Contains(err.Error(), "x") {
		t.Errorf("an unknown name: %v", err)
	}
}

// What is read late is read when all modes are done, of the contestant as it was set
// aside, while another one in its place was measured.
func TestSetAside(t *testing.T) {
	var log []string
	n := 0
	entries := []entry{{name: "a", make: func() contestant {
		n++
		return &fake{log: &log, name: fmt.Sprint("a", n)}
	}}}
	early, next := modes[0], modes[1]
	early.once = true
	early.run = func(_ context.Context, c contestant, s scale, _ int) ([]measured, error) {
		f := c.(*fake)
		s.later(func(context.Context) ([]measured, error) {
			log = append(log, "late "+f.name)
			return []measured{{early.metrics[1].Name, 2}}, nil
		})
		return []measured{{early.metrics[0].Name, 1}}, nil
	}
	next.run = func(_ context.Context, c contestant, _ scale, _ int) ([]measured, error) {
		log = append(log, "run "+c.(*fake).name)
		return []measured{{next.metrics[0].Name, 3}}, nil
	}
	c, err := compare(t.Context(), entries, []mode{early, next}, scale{Reps: 1})
	if err != nil || c.Failed != 0 {
		t.Fatalf("%v, %q", err, c.Skipped)
	}
	want := []string{
		"start a1", "stop a1", "start a1", // reset
		"start a2", "stop a2", "start a2", "run a2", "late a1", "stop a1", "stop a2",
	}
	if !slices.Equal(log, want) {
		t.Errorf("%q, want %q", log, want)
	}
	for m, want := range map[metric]float64{early.metrics[0]: 1, early.metrics[1]: 2, next.metrics[0]: 3} {
		if r, ok := c.row(m, "a"); !ok || r.Median != want {
			t.Errorf("%s is %+v, want %v", m.Name, r, want)
		}
	}
}

// A machine that is too slow for all repetitions has all modes, less often.
func TestShortOfTime(t *testing.T) {
	var log []string
	ctx, cancel := context.WithTimeout(t.Context(), spare)
	defer cancel()
	first, second := modes[0], modes[1]
	first.run = func(context.Context, contestant, scale, int) ([]measured, error) {
		return []measured{{first.metrics[0].Name, 1}}, nil
	}
	second.run = func(context.Context, contestant, scale, int) ([]measured, error) {
		return []measured{{second.metrics[0].Name, 1}}, nil
	}
	entries := []entry{{name: "a", make: func() contestant { return &fake{log: &log, name: "a"} }}}
	c, err := compare(ctx, entries, []mode{first, second}, scale{Reps: 3})
	if err != nil || c.Failed != 0 || len(c.Skipped) != 1 || !strings.Contains(c.Skipped[0], "from number 2 on") {
		t.Fatalf("%d failed, skipped %q, %v", c.Failed, c.Skipped, err)
	}
	for _, m := range []metric{first.metrics[0], second.metrics[0]} {
		if r, ok := c.row(m, "a"); !ok || len(r.Values) != 1 {
			t.Errorf("%s: %+v", m.Name, r)
		}
	}
}
