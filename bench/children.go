package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// program is something that this program starts: a broker, a worker.
type program struct {
	path string
	args []string
	dir  string   // working folder; empty means this process's
	env  []string // besides this process's
	uid  int      // user and group to run as; 0 means this process's
	gid  int
	log  string            // file that gets stderr; required
	quit syscall.Signal    // how it is asked to end; 0 means SIGTERM
	line func(line string) // gets stdout, line by line; nil means that it goes to the log
}

// child is a program that runs, as the head of a process group of its own, so that
// a Ctrl-C in a terminal reaches it through this program alone, in order. It ends
// with its ctx, by stop, or when this process dies: by its stdin, which closes, or
// by the signal that Linux sends then.
type child struct {
	program
	cmd   *exec.Cmd
	stdin io.WriteCloser
	done  chan struct{} // closed when it has ended
	err   error         // why it ended; read it after done
}

// quitWithin is how long a child has to end before its group is killed.
const quitWithin = 10 * time.Second

func (p program) start(ctx context.Context) (*child, error) {
	if p.quit == 0 {
		p.quit = syscall.SIGTERM
	}
	log, err := os.Create(p.log)
	if err != nil {
		return nil, err
	}
	defer log.Close() // the child has its own
	c := &child{program: p, cmd: exec.CommandContext(ctx, p.path, p.args...), done: make(chan struct{})}
	c.cmd.Dir, c.cmd.Env, c.cmd.Stderr, c.cmd.Stdout = p.dir, append(os.Environ(), p.env...), log, log
	if p.line != nil {
		c.cmd.Stdout = &lines{each: p.line}
	}
	c.cmd.SysProcAttr = ownGroup()
	if p.uid != 0 {
		c.cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(p.uid), Gid: uint32(p.gid)}
	}
	c.cmd.Cancel = func() error { return syscall.Kill(-c.cmd.Process.Pid, p.quit) }
	c.cmd.WaitDelay = quitWithin
	if c.stdin, err = c.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if err := c.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		defer close(c.done)
		c.err = c.cmd.Wait()
		_ = syscall.Kill(-c.cmd.Process.Pid, syscall.SIGKILL) // what is left of its group
	}()
	return c, nil
}

// ownGroup makes a process the head of its own group, and ends it when this process dies.
func ownGroup() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
}

// stop asks the child and what it started to end, and waits; late ones are killed.
func (c *child) stop() error {
	_ = c.stdin.Close()
	select {
	case <-c.done: // its number may be another's by now
	default:
		_ = syscall.Kill(-c.cmd.Process.Pid, c.quit)
	}
	late := time.NewTimer(quitWithin)
	defer late.Stop()
	select {
	case <-c.done:
	case <-late.C:
		_ = syscall.Kill(-c.cmd.Process.Pid, syscall.SIGKILL)
		<-c.done
		return fmt.Errorf("%s did not end within %s", filepath.Base(c.path), quitWithin)
	}
	var exit *exec.ExitError
	if errors.As(c.err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == c.quit {
		return nil
	}
	return c.failure()
}

// failure explains why the child ended, nil if it went well.
func (c *child) failure() error {
	if c.err == nil {
		return nil
	}
	log, _ := os.ReadFile(c.log)
	return fmt.Errorf("%s: %w\n%s", filepath.Base(c.path), c.err, log[max(0, len(log)-2000):])
}

// until calls ready every 20 ms until it has no error, the child ends, or 20 s are over.
func (c *child) until(ctx context.Context, ready func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	pace := time.NewTicker(20 * time.Millisecond)
	defer pace.Stop()
	for {
		err := ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-pace.C:
		case <-c.done:
			return errors.Join(fmt.Errorf("%s ended before it was ready", filepath.Base(c.path)), c.failure())
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready: %w", filepath.Base(c.path), err)
		}
	}
}

// lines splits what is written to it.
type lines struct {
	each func(line string)
	rest []byte
}

func (l *lines) Write(p []byte) (int, error) {
	l.rest = append(l.rest, p...)
	for {
		line, rest, found := bytes.Cut(l.rest, []byte("\n"))
		if !found {
			return len(p), nil
		}
		l.rest = rest
		l.each(string(line))
	}
}

// childArg is the first argument of this program when it starts itself: the name of
// a role and the role's arguments follow.
const childArg = "child"

// self is this program in a role. The role ends when its stdin does.
func self(log string, line func(string), role string, args ...string) (program, error) {
	path, err := os.Executable()
	return program{path: path, args: append([]string{childArg, role}, args...), log: log, line: line}, err
}

// listening starts this program in the role of a server, which prints "ready" and
// its address.
func listening(ctx context.Context, log, role string, args ...string) (c *child, addr string, err error) {
	ready := make(chan string, 1)
	p, err := self(log, func(line string) {
		if addr, ok := strings.CutPrefix(line, "ready "); ok {
			ready <- addr
		}
	}, role, args...)
	if err != nil {
		return nil, "", err
	}
	if c, err = p.start(ctx); err != nil {
		return nil, "", err
	}
	select {
	case addr = <-ready:
		return c, addr, nil
	case <-c.done:
		return nil, "", errors.Join(fmt.Errorf("%s ended before it was ready", role), c.failure())
	case <-ctx.Done():
		return nil, "", errors.Join(context.Cause(ctx), c.stop())
	}
}

// freePort asks the system for a port that nobody has. Somebody may take it before
// it is used, and then the program that wanted it says so.
func freePort(ctx context.Context) (int, error) {
	var cfg net.ListenConfig
	l, err := cfg.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	return l.Addr().(*net.TCPAddr).Port, l.Close()
}
