package chaos_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/chaos/history"
	"github.com/peltonq/pelton/internal/failpoint"
)

// process is one child of the suite; its log is a file of the history's folder.
type process struct {
	cmd  *exec.Cmd
	log  string
	done chan struct{}
	code int // once done is closed
}

// bySignal is the code of a process that a signal ended.
const bySignal = -1

// launch starts a process, on the host of its name up to the first dot if there is one.
func (s *suite) launch(name string, env []string, path string, args ...string) *process {
	s.Helper()
	if host, _, _ := strings.Cut(name, "."); s.hosts != nil && s.hosts.Addr(host) != "" {
		path, args = s.hosts.Command(host, path, args...)
	}
	p := &process{cmd: exec.Command(path, args...), log: filepath.Join(s.dir, name+".log"), done: make(chan struct{})}
	out, err := os.Create(p.log)
	if err != nil {
		s.Fatal(err)
	}
	defer out.Close()
	p.cmd.Stdout, p.cmd.Stderr = out, out
	p.cmd.Env = slices.Concat(os.Environ(), []string{"GORACE=halt_on_error=1", "PELTON_LOG_LEVEL=debug"}, env)
	if err := p.cmd.Start(); err != nil {
		s.Fatal(err)
	}
	go func() {
		defer close(p.done)
		_ = p.cmd.Wait() // the code tells
		p.code = p.cmd.ProcessState.ExitCode()
	}()
	return p
}

// signal sends sig, unless the process is gone.
func (p *process) signal(sig syscall.Signal) error {
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("signal %s to %s: %w", sig, filepath.Base(p.log), err)
	}
	return nil
}

func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// says reports whether the log has the text.
func (p *process) says(text string) bool {
	data, err := os.ReadFile(p.log)
	return err == nil && bytes.Contains(data, []byte(text))
}

const token = "chaos"

// server is a pelton serve that can be killed and comes back on the same addresses.
type server struct {
	s          *suite
	name       string
	http, nats place // of a cluster all of them, with nats:// before the second

	mu     sync.Mutex
	life   int
	p      *process
	point  failpoint.Point // at which it dies by itself
	killed bool            // by the nemesis, which starts it again
	deadly pelton.ID       // a task that kills it
}

func newServer(s *suite, name string) *server {
	v := &server{s: s, name: name, http: s.place(name, 7420)}
	if s.cluster != nil {
		v.nats = s.cluster.addresses()
	} else {
		v.nats = s.place(name, 4222)
	}
	return v
}

// start starts the server and waits until it serves.
func (v *server) start() {
	v.s.Helper()
	v.mu.Lock()
	v.launch()
	v.mu.Unlock()
	v.ready()
}

// with gives the server flags from its next start on.
func (v *server) with(flags ...string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.s.serve = flags
}

func (v *server) launch() {
	v.life++
	v.killed = false
	var env []string
	v.point, env = v.s.environment(v.s.serverPoints, v.point)
	data := v.s.data
	if data == "" {
		data = filepath.Join(v.s.dir, "data")
	}
	args := []string{"serve", "--addr", v.http.listens, "--nats-token", token, "--lease", v.s.lease.String()}
	if v.s.cluster != nil {
		args = append(args, "--nats", "nats://"+v.nats.listens, "--replicas", strconv.Itoa(v.s.brokers))
	} else {
		args = append(args, "--nats-listen", v.nats.listens, "--data", data)
	}
	args = append(args, v.s.serve...)
	v.p = v.s.launch(fmt.Sprintf("%s.%d", v.name, v.life), env, v.s.bin.pelton, args...)
}

// ready waits until a server serves.
func (v *server) ready() {
	v.s.Helper()
	v.s.eventually("the "+v.name+" is ready", 30*time.Second, func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		status, _, err := call(ctx, http.MethodGet, "http://"+v.http.here+"/readyz", "")
		return err == nil && status == http.StatusOK
	})
}

// supervise starts the server again whenever it died at its point, until ctx ends.
// Any other death that nobody planned fails the test.
func (v *server) supervise(ctx context.Context) {
	again := time.NewTicker(5 * time.Millisecond)
	defer again.Stop()
	for {
		select {
		case <-again.C:
		case <-ctx.Done():
			return
		}
		v.mu.Lock()
		if p := v.p; p.ended() && !v.killed {
			what, task := "failpoint", pelton.ID{}
			switch {
			case p.code == failpoint.ExitCode:
			case p.code == bySignal && !v.deadly.IsZero():
				what, task = history.ExitFault, v.deadly
			default:
				what = "death"
				v.s.Errorf("the %s ended with %d by itself, see %s", v.name, p.code, p.log)
			}
			v.s.write(v.s.log, history.Event{Kind: history.FaultBegin, Fault: what, Target: history.Everyone, Task: task})
			v.s.serverPoints.hit(v.point)
			v.s.fault(history.FaultEnd, what, history.Everyone)
			v.launch()
		}
		v.mu.Unlock()
	}
}

// fears says which task will kill the server.
func (v *server) fears(id pelton.ID) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.deadly = id
}

// kill ends the server at once; whoever does it starts it again.
func (v *server) kill() { v.end(syscall.SIGKILL) }

// terminate ends the server in good order; whoever does it starts it again.
func (v *server) terminate() {
	if p := v.end(syscall.SIGTERM); p.code != 0 {
		v.s.Errorf("the server ended with %d, see %s", p.code, p.log)
	}
}

func (v *server) end(sig syscall.Signal) *process {
	p := v.strike(sig)
	<-p.done
	return p
}

// strike is end without waiting for it.
func (v *server) strike(sig syscall.Signal) *process {
	v.mu.Lock()
	v.killed = true
	p := v.p
	v.mu.Unlock()
	if err := p.signal(sig); err != nil {
		v.s.Error(err)
	}
	return p
}

// exitCode is how an actor ends whose task ended it.
const exitCode = 42

// slot is a place for a worker process: whoever dies in it has a successor.
type slot struct {
	s    *suite
	name string
	url  string

	mu     sync.Mutex
	p      *process
	life   int
	point  failpoint.Point // at which it dies by itself
	killed bool            // by the nemesis: no surprise
	ending bool            // asked to end by the nemesis
}

func newSlot(s *suite, name, url string) *slot {
	w := &slot{s: s, name: name, url: url}
	w.start()
	return w
}

// actorName is who works there now.
func (w *slot) actorName() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.named()
}

func (w *slot) named() string { return fmt.Sprintf("%s.%d", w.name, w.life) }

func (w *slot) start() {
	w.life++
	w.killed, w.ending = false, false
	var env []string
	w.point, env = w.s.environment(w.s.workerPoints, w.point)
	w.p = w.s.launch(w.named(), env, w.s.bin.actor, "-name", w.named(), "-dir", w.s.dir, "-nats", w.url, "-token", token,
		"-concurrency", fmt.Sprint(w.s.concurrency), "-lease", w.s.lease.String(), "-redis", w.s.redis)
}

// process is the one that is there now.
func (w *slot) process() *process {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.p
}

// diesAt is the place at which the process that is there now will die.
func (w *slot) diesAt() failpoint.Point {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.point
}

// ready waits until a worker serves there.
func (w *slot) ready() {
	w.s.Helper()
	w.s.eventually("worker "+w.name+" serves", 30*time.Second, func() bool {
		p := w.process()
		return !p.ended() && p.says("worker started")
	})
}

// supervise replaces whoever died, until ctx ends. A death that nobody planned
// fails the test.
func (w *slot) supervise(ctx context.Context) {
	for {
		p := w.process()
		select {
		case <-p.done:
		case <-ctx.Done():
			return
		}
		w.mu.Lock()
		switch name := w.named(); {
		case w.killed:
			w.s.fault(history.FaultEnd, "kill", name)
		case p.code == exitCode:
			w.s.fault(history.FaultEnd, history.ExitFault, name) // whose beginning the actor wrote
		case p.code == failpoint.ExitCode:
			w.s.fault(history.FaultBegin, "failpoint", name)
			w.s.workerPoints.hit(w.point)
			w.s.fault(history.FaultEnd, "failpoint", name)
		case p.code == 0 && w.ending: // no fault: what it had not ended it has given back
		default:
			w.s.fault(history.FaultBegin, "death", name)
			w.s.Errorf("%s ended with %d by itself, see %s", name, p.code, p.log)
			w.s.fault(history.FaultEnd, "death", name)
		}
		w.start()
		w.mu.Unlock()
	}
}

// terminate asks the worker of that name to end, unless it has a successor already;
// supervise starts one.
func (w *slot) terminate(name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.named() != name || w.ending || w.p.ended() {
		return
	}
	w.ending = true
	if err := w.p.signal(syscall.SIGTERM); err != nil {
		w.s.Error(err)
	}
}

// written is the size of what the worker has told so far.
func (w *slot) written() int64 {
	info, err := os.Stat(filepath.Join(w.s.dir, w.actorName()+history.Suffix))
	if err != nil {
		return 0 // it has just begun
	}
	return info.Size()
}

// crash kills the worker with SIGKILL; supervise replaces it.
func (w *slot) crash() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.p.ended() {
		return // supervise is about to replace it
	}
	w.killed = true
	w.s.fault(history.FaultBegin, "kill", w.named())
	if err := w.p.signal(syscall.SIGKILL); err != nil {
		w.s.Error(err)
	}
	<-w.p.done
}

// halt stops the worker with SIGSTOP until resume is called.
func (w *slot) halt() (resume func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	p, name := w.p, w.named()
	w.s.fault(history.FaultBegin, history.StopFault, name)
	if err := p.signal(syscall.SIGSTOP); err != nil {
		w.s.Error(err)
	}
	return func() {
		if err := p.signal(syscall.SIGCONT); err != nil {
			w.s.Error(err)
		}
		w.s.fault(history.FaultEnd, history.StopFault, name)
	}
}

// kill ends the worker for good: nobody supervises any more.
func (w *slot) kill() {
	p := w.process()
	if err := p.signal(syscall.SIGKILL); err != nil {
		w.s.Error(err)
	}
	<-p.done
}
