package command

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"time"
)

// drainTime is how long output that a dead program left in its pipes may take
// to be read. It ends early at the pipes' end; only a process that escaped its
// group and holds them open uses it up.
const drainTime = 2 * time.Second

// pipes are the parent's and the program's ends of stdin, stdout and stderr.
//
// os/exec could copy for us, but its Wait returns only when everything that
// inherited the pipes is gone. Here Wait must return when the program is: the
// rest of its group is killed then, and only after that the pipes end.
type pipes struct {
	stdin          *os.File // nil for a program without payload: it reads /dev/null
	stdout, stderr *os.File
	program        []*os.File
	copies         sync.WaitGroup
}

// openPipes gives cmd its three files; withStdin says whether there is a payload.
func openPipes(cmd *exec.Cmd, withStdin bool) (*pipes, error) {
	p := new(pipes)
	open := func() (r, w *os.File, err error) {
		if r, w, err = os.Pipe(); err != nil {
			p.close()
			return nil, nil, fmt.Errorf("open a pipe: %w", err)
		}
		return r, w, nil
	}
	if withStdin {
		r, w, err := open()
		if err != nil {
			return nil, err
		}
		p.stdin, p.program = w, append(p.program, r)
		cmd.Stdin = r
	}
	r, w, err := open()
	if err != nil {
		return nil, err
	}
	p.stdout, p.program = r, append(p.program, w)
	cmd.Stdout = w
	if r, w, err = open(); err != nil {
		return nil, err
	}
	p.stderr, p.program = r, append(p.program, w)
	cmd.Stderr = w
	return p, nil
}

// copy serves a program that was started: payload in, stdout and stderr out.
// exceeded is called if stdout's writer refuses; the pipe is closed then, so
// that the program cannot go on printing.
func (p *pipes) copy(payload []byte, stdout, stderr io.Writer, exceeded func(error)) {
	p.closeProgramEnds()
	if p.stdin != nil {
		p.copies.Go(func() {
			// A program may end without having read its payload: that is its
			// own affair, so the error of this write says nothing.
			_, _ = p.stdin.Write(payload)
			_ = p.stdin.Close()
		})
	}
	p.copies.Go(func() {
		_, err := io.Copy(stdout, p.stdout)
		if errors.Is(err, errTooLarge) {
			exceeded(err)
		}
		_ = p.stdout.Close()
	})
	p.copies.Go(func() {
		_, _ = io.Copy(stderr, p.stderr) // ends with the pipe or with finish
		_ = p.stderr.Close()
	})
}

// finish waits for what copy started; the program and its group are dead.
func (p *pipes) finish() {
	deadline := time.Now().Add(drainTime)
	if p.stdin != nil {
		_ = p.stdin.SetWriteDeadline(time.Now())
	}
	// A file that its copy has closed already refuses the deadline.
	_ = p.stdout.SetReadDeadline(deadline)
	_ = p.stderr.SetReadDeadline(deadline)
	p.copies.Wait()
}

// close closes all files of a program that was never started.
func (p *pipes) close() {
	p.closeProgramEnds()
	for _, f := range []*os.File{p.stdin, p.stdout, p.stderr} {
		if f != nil {
			_ = f.Close()
		}
	}
}

func (p *pipes) closeProgramEnds() {
	for _, f := range p.program {
		_ = f.Close()
	}
	p.program = nil
}
