package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/perf/benchfmt"
)

// tree is one of the two that are compared.
type tree struct {
	name string // "base" or "head"
	root string
	bin  string // the folder of its programs
	tmp  string // what its programs write
}

// build makes one program of each package that the tree has. That a package has no tests
// is fine: it has no program then.
func (t tree) build(ctx context.Context, pkgs []string) error {
	args := []string{"test", "-c", "-trimpath", "-buildvcs=false", "-o", t.bin + string(filepath.Separator)}
	for _, pkg := range pkgs {
		if exists(t.root, pkg) {
			args = append(args, "./"+pkg)
		}
	}
	if strings.HasPrefix(args[len(args)-1], "./") {
		if err := os.MkdirAll(t.bin, 0o700); err != nil {
			return err
		}
		if out, err := t.run(ctx, t.root, "go", args...); err != nil {
			return fmt.Errorf("build the benchmarks of %s: %w\n%s", t.name, err, out)
		}
	}
	return nil
}

// run is one program's output, both streams of it on an error.
func (t tree) run(ctx context.Context, dir, program string, args ...string) ([]byte, error) {
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, &stdout, &stderr
	cmd.Env = append(os.Environ(), "GOWORK=off", "TMPDIR="+t.tmp, "GOMAXPROCS="+strconv.Itoa(runtime.GOMAXPROCS(0)))
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Run(); err != nil {
		return append(stdout.Bytes(), stderr.Bytes()...), err
	}
	return stdout.Bytes(), nil
}

func (t tree) program(pkg string) string { return filepath.Join(t.bin, path.Base(pkg)+".test") }

// sum is the program's hash; none if there is no program.
func (t tree) sum(pkg string) (sum [sha256.Size]byte, err error) {
	f, err := os.Open(t.program(pkg))
	if errors.Is(err, fs.ErrNotExist) {
		return sum, nil
	}
	if err != nil {
		return sum, err
	}
	defer f.Close()
	h := sha256.New()
	_, err = io.Copy(h, f)
	return [sha256.Size]byte(h.Sum(nil)), err
}

// benchmarks are the names that the entry chooses, without sub-benchmarks.
func (t tree) benchmarks(ctx context.Context, e entry) ([]string, error) {
	if _, err := os.Stat(t.program(e.pkg)); err != nil {
		return nil, nil //nolint:nilerr // a package without tests
	}
	out, err := t.run(ctx, filepath.Join(t.root, e.pkg), t.program(e.pkg), "-test.list=^("+e.names+")$")
	if err != nil {
		return nil, fmt.Errorf("list the benchmarks of %s of %s: %w\n%s", e.pkg, t.name, err, out)
	}
	var names []string
	for line := range strings.Lines(string(out)) {
		if line = strings.TrimSpace(line); strings.HasPrefix(line, "Benchmark") {
			names = append(names, line)
		}
	}
	return names, nil
}

// id names a benchmark and one of its units.
type id struct{ pkg, name, unit string }

// sample runs the benchmarks that match in one process and takes the least of its runs.
func (t tree) sample(ctx context.Context, e entry, match string) (map[id]float64, error) {
	out, err := t.run(ctx, filepath.Join(t.root, e.pkg), t.program(e.pkg), "-test.run=^$", "-test.bench="+match, "-test.benchmem",
		fmt.Sprintf("-test.benchtime=%dx", e.iterations), fmt.Sprintf("-test.count=%d", e.runs), "-test.timeout="+sampleTimeout.String())
	if err != nil {
		return nil, fmt.Errorf("run %s of %s in %s: %w\n%s", match, e.pkg, t.name, err, out)
	}
	return least(e.pkg, bytes.NewReader(out))
}

// least reads results and keeps the least of each unit: what other load adds to a
// run, it only adds.
func least(pkg string, out io.Reader) (map[id]float64, error) {
	found := map[id]float64{}
	results := benchfmt.NewReader(out, pkg)
	for results.Scan() {
		r, ok := results.Result().(*benchfmt.Result)
		if !ok {
			continue // a line of something else
		}
		for _, v := range r.Values {
			k := id{pkg, fullName(r.Name), v.Unit}
			if old, ok := found[k]; !ok || v.Value < old {
				found[k] = v.Value
			}
		}
	}
	return found, results.Err()
}

// fullName is a benchmark's name with its sub-benchmark, without the number of processors.
func fullName(name benchfmt.Name) string {
	base, parts := name.Parts()
	full := "Benchmark" + string(base)
	for _, part := range parts {
		if part[0] == '/' {
			full += string(part)
		}
	}
	return full
}

// exactly is the expression that selects one benchmark with its sub-benchmark.
func exactly(name string) string {
	parts := strings.Split(name, "/")
	for i, part := range parts {
		parts[i] = "^" + regexp.QuoteMeta(part) + "$"
	}
	return strings.Join(parts, "/")
}
