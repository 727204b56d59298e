package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// repository is the root of a tree under git.
type repository string

func openRepository(ctx context.Context, dir string) (repository, error) {
	root, err := repository(dir).git(ctx, "rev-parse", "--show-toplevel")
	if err != nil {
		return "", fmt.Errorf("%w: no repository: %w", errNothing, err)
	}
	return repository(root), nil
}

// git runs one command without hooks and gives what it printed.
func (r repository) git(ctx context.Context, args ...string) (string, error) {
	var stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, "git", append([]string{"-c", "core.hooksPath=" + os.DevNull, "-C", string(r)}, args...)...)
	// A hook that runs the gate names its own repository.
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool {
		return strings.HasPrefix(v, "GIT_DIR=") || strings.HasPrefix(v, "GIT_WORK_TREE=") || strings.HasPrefix(v, "GIT_INDEX_FILE=")
	})
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("git %s: %w: %s", args[0], err, strings.TrimSpace(stderr.String()))
	}
	return strings.TrimSpace(string(out)), nil
}

// commit is the id of a revision. A shallow clone may know a commit's parent by name
// and not have it.
func (r repository) commit(ctx context.Context, rev string) (string, error) {
	return r.git(ctx, "rev-parse", "--verify", "--quiet", "--end-of-options", rev+"^{commit}")
}

// base is the commit to compare with. What is named must be there; otherwise errNothing
// says why there is none.
func (r repository) base(ctx context.Context, named string) (string, error) {
	if named != "" {
		id, err := r.commit(ctx, named)
		if err != nil {
			return "", fmt.Errorf("find the base %s: %w", named, err)
		}
		return id, nil
	}
	head, err := r.commit(ctx, "HEAD")
	if err != nil {
		return "", fmt.Errorf("%w: no commit yet", errNothing)
	}
	for _, ref := range []string{"refs/remotes/origin/main", "refs/remotes/origin/HEAD", "refs/heads/main"} {
		if _, err := r.commit(ctx, ref); err != nil {
			continue
		}
		id, err := r.git(ctx, "merge-base", "HEAD", ref)
		if err != nil {
			return "", fmt.Errorf("%w: no merge base with %s, is this a shallow clone?", errNothing, ref)
		}
		if id != head {
			return id, nil
		}
		break // a commit of main is held against what was there before
	}
	id, err := r.commit(ctx, "HEAD~1")
	if err != nil {
		return "", fmt.Errorf("%w: HEAD has no parent here, is this a shallow clone?", errNothing)
	}
	return id, nil
}

// checkout puts the commit into a new worktree at dir, which remove takes away again,
// also when ctx has ended.
func (r repository) checkout(ctx context.Context, id, dir string) (remove func() error, err error) {
	remove = func() error {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
		defer cancel()
		_, err := r.git(ctx, "worktree", "remove", "--force", "--force", dir)
		return err
	}
	if _, err := r.git(ctx, "worktree", "add", "--quiet", "--detach", dir, id); err != nil {
		if ctx.Err() != nil {
			_ = remove() // it may be half there
			return nil, ctx.Err()
		}
		return nil, fmt.Errorf("%w: %w", errNothing, err)
	}
	return remove, nil
}

var trailer = regexp.MustCompile(`^(Benchmark\S+)\s+\((.+)\)$`)

// accepted reads the trailers of the commits since the base: what they accept, and why.
// A line without a reason accepts nothing and is an error.
func (r repository) accepted(ctx context.Context, base string) (acceptances, error) {
	out, err := r.git(ctx, "log", "--format=%(trailers:key=Benchmark-Accepts,valueonly,unfold)", base+"..HEAD")
	if err != nil {
		return nil, err
	}
	return parseAccepted(out)
}

// acceptances are reasons by the name of a benchmark, with or without a sub-benchmark.
type acceptances map[string]string

func parseAccepted(lines string) (acceptances, error) {
	found := acceptances{}
	var errs []error
	for line := range strings.Lines(lines) {
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		parts := trailer.FindStringSubmatch(line)
		if parts == nil {
			errs = append(errs, fmt.Errorf("trailer %q: want Benchmark-Accepts: BenchmarkName (why)", line))
			continue
		}
		found[parts[1]] = parts[2]
	}
	return found, errors.Join(errs...)
}

// reason is why a regression of the benchmark is meant. A name accepts its sub-benchmarks.
func (a acceptances) reason(name string) (string, bool) {
	for {
		if why, ok := a[name]; ok {
			return why, true
		}
		i := strings.LastIndexByte(name, '/')
		if i < 0 {
			return "", false
		}
		name = name[:i]
	}
}

// exists reports whether the tree has a package's folder.
func exists(tree, pkg string) bool {
	info, err := os.Stat(filepath.Join(tree, filepath.FromSlash(pkg)))
	return err == nil && info.IsDir()
}
