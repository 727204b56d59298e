package e2e_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/peltonq/pelton/internal/freeport"
)

const (
	commandTime = 2 * time.Minute // of one block: some of them build programs
	screenTime  = 2 * time.Minute // until a terminal shows what it should: some build, too
)

// reader does what a document says, in a folder of its own. The ports that the
// document names are others in truth, so that readers do not meet.
type reader struct {
	dir       string // of the session, as the reader's cd commands leave it
	state     string // folder for what a block hands to the next
	env       []string
	repo      string
	toTrue    *strings.Replacer // ports
	toShown   *strings.Replacer
	ids       map[string]string // an id that the document shows → the one it is in truth
	output    string            // of the last block
	terminals map[string]*screen
	skipped   []step
	slow      []string // steps that took long
}

// newReader starts in dir. ports are the loopback ports that the document names;
// the first one is that of the API.
func newReader(t *testing.T, dir string, ports ...string) *reader {
	t.Helper()
	for _, program := range []string{"bash", "curl", "jq", "make", "python3"} {
		require(t, program)
	}
	repo, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	var there, back []string
	env := append(os.Environ(), "NO_COLOR=1", "GOFLAGS="+os.Getenv("GOFLAGS")+" -trimpath") // what was compiled for one reader serves the next
	for i, port := range ports {
		address := freeport.Addr(t)
		_, free, _ := strings.Cut(address, ":")
		there, back = append(there, ":"+port, ":"+free), append(back, ":"+free, ":"+port)
		if i == 0 {
			env = append(env, "PELTON_ADDR="+address, "PELTON_URL=http://"+address)
		}
	}
	r := &reader{
		dir: dir, state: t.TempDir(), env: env, repo: repo, ids: make(map[string]string), terminals: make(map[string]*screen),
		toTrue: strings.NewReplacer(there...), toShown: strings.NewReplacer(back...),
	}
	t.Cleanup(func() {
		for name, s := range r.terminals {
			s.signal(syscall.SIGKILL)
			<-s.done
			if t.Failed() {
				t.Logf("terminal %s:\n%s", name, s.text())
			}
		}
	})
	return r
}

// read does all steps in their order and gives the first one that is not as the
// document says.
func (r *reader) read(ctx context.Context, all []step) error {
	for i, s := range all {
		if s.verb == "start" && (i+1 == len(all) || all[i+1].verb != "output") {
			return fmt.Errorf("line %d: nothing says how terminal %s looks when it is there", s.line, s.arg)
		}
		began := time.Now()
		if err := r.do(ctx, s); err != nil {
			return fmt.Errorf("line %d: %w", s.line, err)
		}
		if took := time.Since(began); took > 2*time.Second {
			r.slow = append(r.slow, fmt.Sprintf("line %d (%s) took %.1f s", s.line, s.verb, took.Seconds()))
		}
	}
	return nil
}

func (r *reader) do(ctx context.Context, s step) error {
	switch s.verb {
	case "run":
		return r.run(ctx, s.text, s.status)
	case "check":
		shown := r.output
		err := r.run(ctx, s.arg, 0)
		r.output = shown
		return err
	case "start":
		return r.start(s)
	case "output":
		return r.compare(ctx, s)
	case "stop":
		return r.stop(ctx, s.arg)
	case "file":
		path := filepath.Join(r.dir, s.arg)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		return os.WriteFile(path, []byte(r.toTrue.Replace(s.text)), 0o600)
	case "from":
		source, err := os.ReadFile(filepath.Join(r.repo, s.arg))
		if err == nil && !strings.Contains(string(source), s.text) {
			err = fmt.Errorf("the block does not stand so in %s", s.arg)
		}
		return err
	default:
		r.skipped = append(r.skipped, s)
		return nil
	}
}

// actual is a command with the ports and ids that are the true ones.
func (r *reader) actual(command string) string {
	command = r.toTrue.Replace(command)
	return anID.ReplaceAllStringFunc(command, func(id string) string {
		if known, ok := r.ids[id]; ok {
			return known
		}
		return id
	})
}

// run gives a block to bash. Variables and the folder are there for the next one.
func (r *reader) run(ctx context.Context, block string, status int) error {
	ctx, cancel := context.WithTimeout(ctx, commandTime)
	defer cancel()
	script := "set -aeuo pipefail\ntrap 'env -0 > \"$DOC_STATE/env\"; pwd > \"$DOC_STATE/dir\"' EXIT\n" + r.actual(block)
	cmd := exec.CommandContext(ctx, "bash", "-c", script)
	cmd.Dir, cmd.Env = r.dir, append(r.env, "DOC_STATE="+r.state, "OUTPUT="+r.output)
	cmd.WaitDelay = 10 * time.Second
	out, err := cmd.CombinedOutput()
	r.output = r.toShown.Replace(string(out))
	if cmd.ProcessState == nil {
		return fmt.Errorf("start bash: %w", err)
	}
	if cmd.ProcessState.ExitCode() != status {
		return fmt.Errorf("%s\nended with %s, not with status %d:\n%s", block, cmd.ProcessState, status, out)
	}
	env, err := os.ReadFile(filepath.Join(r.state, "env"))
	if err != nil {
		return err
	}
	r.env = nil
	for variable := range strings.SplitSeq(strings.TrimSuffix(string(env), "\x00"), "\x00") {
		if !strings.HasPrefix(variable, "OUTPUT=") {
			r.env = append(r.env, variable)
		}
	}
	dir, err := os.ReadFile(filepath.Join(r.state, "dir"))
	r.dir = strings.TrimSuffix(string(dir), "\n")
	return err
}

// compare holds what was printed against what the document shows.
func (r *reader) compare(ctx context.Context, s step) error {
	if s.arg != "" {
		if err := r.terminals[s.arg].wait(ctx, func(text string) bool {
			return hasLines(r.toShown.Replace(text), s.text)
		}); err != nil {
			return fmt.Errorf("terminal %s does not show\n%s\n%w", s.arg, s.text, err)
		}
		return nil
	}
	if !whole(s.text).MatchString(plain(r.output)) {
		return fmt.Errorf("the document shows\n%s\nand it is\n%s", s.text, r.output)
	}
	shown, actual := anID.FindAllString(s.text, -1), anID.FindAllString(r.output, -1)
	if len(shown) == len(actual) {
		for i, id := range shown {
			r.ids[id] = actual[i]
		}
	}
	return nil
}

// start runs a block in a terminal of its own.
func (r *reader) start(s step) error {
	if old := r.terminals[s.arg]; old != nil {
		select {
		case <-old.done:
		default:
			return fmt.Errorf("terminal %s is still busy", s.arg)
		}
	}
	cmd := exec.Command("bash", "-c", r.actual(s.text))
	cmd.Dir, cmd.Env = r.dir, r.env
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = 10 * time.Second
	screen := &screen{cmd: cmd, more: make(chan struct{}), done: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = screen, screen
	if err := cmd.Start(); err != nil {
		return err
	}
	r.terminals[s.arg] = screen
	go func() {
		screen.err = cmd.Wait()
		close(screen.done)
	}()
	return nil
}

// stop presses Ctrl-C and waits for the end.
func (r *reader) stop(ctx context.Context, name string) error {
	s := r.terminals[name]
	if s == nil {
		return fmt.Errorf("there is no terminal %s", name)
	}
	s.signal(syscall.SIGINT)
	ctx, cancel := context.WithTimeout(ctx, screenTime)
	defer cancel()
	select {
	case <-s.done:
	case <-ctx.Done():
		return fmt.Errorf("terminal %s does not end after Ctrl-C", name)
	}
	if regexp.MustCompile(`(?m)^panic:|DATA RACE`).MatchString(s.text()) {
		return fmt.Errorf("terminal %s shows\n%s", name, s.text())
	}
	return nil
}

// screen is a terminal in which something runs.
type screen struct {
	cmd  *exec.Cmd
	done chan struct{} // closed after its end, when err is set
	err  error

	mu   sync.Mutex
	buf  bytes.Buffer
	more chan struct{} // closed and replaced at each write
}

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.more)
	s.more = make(chan struct{})
	return s.buf.Write(p)
}

func (s *screen) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.String()
}

// signal tells all processes of the terminal, as a key would.
func (s *screen) signal(sig syscall.Signal) {
	select {
	case <-s.done:
	default:
		_ = syscall.Kill(-s.cmd.Process.Pid, sig)
	}
}

// wait returns when the text is as it should be, and with an error when it cannot
// become so any more.
func (s *screen) wait(ctx context.Context, good func(text string) bool) error {
	ctx, cancel := context.WithTimeout(ctx, screenTime)
	defer cancel()
	for {
		s.mu.Lock()
		text, more := s.buf.String(), s.more
		s.mu.Unlock()
		if good(text) {
			return nil
		}
		select {
		case <-more:
		case <-s.done:
			if good(s.text()) {
				return nil
			}
			return errors.Join(fmt.Errorf("it has ended with:\n%s", s.text()), s.err)
		case <-ctx.Done():
			return fmt.Errorf("within %s, but:\n%s", screenTime, s.text())
		}
	}
}
