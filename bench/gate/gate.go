package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// gate compares the tree with its base and prints what it finds. errRegressed is that
// something is worse, errNothing that nothing could be compared.
func gate(ctx context.Context, o options, out io.Writer) (err error) {
	defer func() {
		if ctx.Err() != nil { // whatever that looked like to those who were at work
			err = fmt.Errorf("%w: %v", ctx.Err(), err) //nolint:errorlint // it must not pass for errNothing
		}
	}()
	repo, err := openRepository(ctx, o.dir)
	if err != nil {
		return err
	}
	base, err := repo.base(ctx, o.base)
	if err != nil {
		return err
	}
	accepted, err := repo.accepted(ctx, base)
	if err != nil {
		return err
	}
	tmp, err := os.MkdirTemp("", "gate-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }()
	baseDir := filepath.Join(tmp, "base")
	remove, err := repo.checkout(ctx, base, baseDir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, remove()) }()

	c := &contest{out: out, trees: [2]tree{
		{name: "base", root: baseDir, bin: filepath.Join(tmp, "bin", "base"), tmp: filepath.Join(tmp, "data")},
		{name: "head", root: string(repo), bin: filepath.Join(tmp, "bin", "head"), tmp: filepath.Join(tmp, "data")},
	}}
	if err := os.Mkdir(filepath.Join(tmp, "data"), 0o700); err != nil {
		return err
	}
	fmt.Fprintf(out, "gate: against %s\n", base)
	if err := c.prepare(ctx, o); err != nil {
		return err
	}
	if len(c.plans) == 0 {
		fmt.Fprintln(out, "gate: passed: what could be run has not changed")
		return nil
	}
	return c.hold(ctx, o, accepted)
}

// contest is what two trees have in common.
type contest struct {
	out   io.Writer
	trees [2]tree // base, head
	plans []plan
}

// plan is an entry of the suite and what both trees have of it.
type plan struct {
	entry
	names []string // without sub-benchmarks
	match string   // what selects them
}

// prepare builds both trees and finds what there is to run. No plan and no error is that all
// programs are the same.
func (c *contest) prepare(ctx context.Context, o options) error {
	var pkgs []string
	for _, e := range o.suite {
		pkgs = append(pkgs, e.pkg)
	}
	slices.Sort(pkgs)
	pkgs = slices.Compact(pkgs)
	base, head := c.trees[0], c.trees[1]
	if err := head.build(ctx, pkgs); err != nil {
		return err
	}
	if err := base.build(ctx, pkgs); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("%w: %w", errNothing, err)
	}
	same := false
	for _, e := range o.suite {
		sumBase, err1 := base.sum(e.pkg)
		sumHead, err2 := head.sum(e.pkg)
		namesBase, err3 := base.benchmarks(ctx, e)
		namesHead, err4 := head.benchmarks(ctx, e)
		if err := errors.Join(err1, err2, err3, err4); err != nil {
			return err
		}
		for _, name := range namesHead {
			if !slices.Contains(namesBase, name) {
				fmt.Fprintf(c.out, "gate: %s of %s is new\n", name, e.pkg)
			}
		}
		common := slices.DeleteFunc(namesHead, func(name string) bool { return !slices.Contains(namesBase, name) })
		switch {
		case len(common) == 0:
		case sumBase == sumHead && !o.all:
			same = true
			fmt.Fprintf(c.out, "gate: the same program in both: %s of %s\n", strings.Join(common, ", "), e.pkg)
		default:
			p := plan{e, common, "^(" + strings.Join(common, "|") + ")$"}
			fit, err := c.try(ctx, p)
			if err != nil {
				return err
			}
			if fit {
				c.plans = append(c.plans, p)
			}
		}
	}
	if len(c.plans) == 0 && !same {
		return fmt.Errorf("%w: no benchmark is in both trees", errNothing)
	}
	return nil
}

// try runs each benchmark of the plan once, which also brings the programs into memory. One
// that fails in the base cannot be compared; one that fails in this tree is an error.
func (c *contest) try(ctx context.Context, p plan) (fit bool, err error) {
	p.iterations, p.runs = 1, 1
	if _, err := c.trees[1].sample(ctx, p.entry, p.match); err != nil {
		return false, err
	}
	_, err = c.trees[0].sample(ctx, p.entry, p.match)
	if err != nil {
		fmt.Fprintf(c.out, "gate: not compared: %v\n", err)
	}
	return err == nil, ctx.Err()
}

// hold measures, judges, and measures again what looks worse, each within the time
// of the options.
func (c *contest) hold(ctx context.Context, o options, accepted acceptances) error {
	began := time.Now()
	measuring, cancel := context.WithTimeout(ctx, o.within)
	defer cancel()
	s, err := c.measure(ctx, measuring, c.plans, o.rounds)
	if err != nil {
		return err
	}
	first := s.judge()
	if err := printTable(c.out, first); err != nil {
		return err
	}
	if s.rounds < minRounds {
		return fmt.Errorf("%w: %d rounds in %s are too few, the machine is too busy", errNothing, s.rounds, o.within)
	}
	confirming, cancel := context.WithTimeout(ctx, o.within)
	defer cancel()
	regressed, undecided := 0, 0
	for _, name := range suspects(first) {
		before, second, decided, err := c.confirm(ctx, confirming, name, first, longer*o.rounds)
		if err != nil {
			return err
		}
		why, meant := accepted.reason(name.name)
		switch {
		case !decided:
			undecided++
			fmt.Fprintf(c.out, "gate: UNDECIDED, for want of time: %s of %s\n", name.name, name.pkg)
		case !confirmed(name, before, second):
			fmt.Fprintf(c.out, "gate: not confirmed: %s of %s\n", name.name, name.pkg)
		case meant:
			fmt.Fprintf(c.out, "gate: accepted (%s): %s\n", why, describe(name, before, second))
		default:
			regressed++
			fmt.Fprintf(c.out, "gate: REGRESSION: %s\n", describe(name, before, second))
		}
	}
	switch {
	case regressed > 0:
		return fmt.Errorf("%d of the benchmarks %w", regressed, errRegressed)
	case undecided > 0:
		return fmt.Errorf("%w a second time: %d of the benchmarks looked worse, the machine is too busy", errNothing, undecided)
	}
	fmt.Fprintf(c.out, "\ngate: passed after %d rounds; measured for %.0f s\n", s.rounds, time.Since(began).Seconds())
	return nil
}

// longer is by how much a set of rounds that looks at one suspect is longer than the first,
// in which all benchmarks take part: its noise is smaller, and a suspect is rare.
const longer = 3

// confirm looks at one suspect alone, until two sets of rounds that have nothing in
// common could both say that it is worse: once more, or twice if it was within the noise
// of the first set. decided is false if time was over before that.
func (c *contest) confirm(ctx, confirming context.Context, name id, first map[id]verdict, rounds int) (before, after map[id]verdict, decided bool, err error) {
	after = first
	for range 2 {
		s, err := c.measure(ctx, confirming, c.only(name), rounds)
		if err != nil {
			return nil, nil, false, err
		}
		before, after = after, s.judge()
		fmt.Fprintf(c.out, "\n%s of %s alone:\n", name.name, name.pkg)
		if err := printTable(c.out, after); err != nil {
			return nil, nil, false, err
		}
		if s.rounds < minRounds {
			return before, after, false, nil
		}
		if !confirmed(name, after, after) || confirmed(name, before, after) {
			break
		}
	}
	return before, after, true, nil
}

// confirmed reports whether one and the same unit is worse in both.
func confirmed(name id, first, second map[id]verdict) bool {
	return slices.ContainsFunc(bounds(), func(b bound) bool {
		k := id{name.pkg, name.name, b.unit}
		return first[k].worse && second[k].worse
	})
}

// only is the plan for one benchmark alone.
func (c *contest) only(name id) []plan {
	for _, p := range c.plans {
		if top, _, _ := strings.Cut(name.name, "/"); p.pkg == name.pkg && slices.Contains(p.names, top) {
			return []plan{{p.entry, p.names, exactly(name.name)}}
		}
	}
	return nil
}

// samples are what was measured in complete rounds, in their order.
type samples struct {
	rounds int
	values map[id]*[2][]float64
}

// measure runs rounds until there are as many as asked for, or measuring ends. ctx is
// the caller's: when it ends, that is an error.
func (c *contest) measure(ctx, measuring context.Context, plans []plan, rounds int) (samples, error) {
	s := samples{values: map[id]*[2][]float64{}}
	for ; s.rounds < rounds; s.rounds++ {
		var round [2]map[id]float64
		for _, p := range plans {
			for turn := range 2 {
				t := (turn + s.rounds) % 2 // A B, B A, A B, ...
				found, err := c.trees[t].sample(measuring, p.entry, p.match)
				switch {
				case ctx.Err() != nil:
					return s, ctx.Err()
				case measuring.Err() != nil:
					return s, nil //nolint:nilerr // time is over: what is complete counts
				case err != nil && t == 0:
					return s, fmt.Errorf("%w: %w", errNothing, err)
				case err != nil:
					return s, err
				}
				if round[t] == nil {
					round[t] = map[id]float64{}
				}
				maps.Copy(round[t], found)
			}
		}
		for k, head := range round[1] {
			if base, ok := round[0][k]; ok {
				if s.values[k] == nil {
					s.values[k] = &[2][]float64{}
				}
				s.values[k][0], s.values[k][1] = append(s.values[k][0], base), append(s.values[k][1], head)
			}
		}
	}
	return s, nil
}

func (s samples) judge() map[id]verdict {
	verdicts := map[id]verdict{}
	for _, b := range bounds() {
		for k, v := range s.values {
			if k.unit == b.unit {
				verdicts[k] = judge(b, v[0], v[1])
			}
		}
	}
	return verdicts
}

// suspects names the benchmarks of which some unit is suspect, once each.
func suspects(verdicts map[id]verdict) []id {
	var names []id
	for k, v := range verdicts {
		if v.suspect {
			names = append(names, id{pkg: k.pkg, name: k.name})
		}
	}
	slices.SortFunc(names, compareIDs)
	return slices.Compact(names)
}
