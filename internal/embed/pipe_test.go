package embed

import (
	"errors"
	"net"
	"os"
	"testing"
	"time"
)

// deadlines counts what is set of them.
type deadlines struct {
	net.Conn

	set int
}

func (d *deadlines) SetWriteDeadline(t time.Time) error {
	d.set++
	return d.Conn.SetWriteDeadline(t)
}

// TestPipeKeepsDeadlines: many writes share a deadline, none is later than it was asked for, and
// a write that nobody takes ends.
func TestPipeKeepsDeadlines(t *testing.T) {
	t.Parallel()
	near, far := net.Pipe()
	defer near.Close()
	defer far.Close()
	counted := &deadlines{Conn: near}
	p := &pipe{Conn: counted}
	read := make(chan struct{})
	go func() {
		defer close(read)
		for range 1000 {
			_, _ = far.Read(make([]byte, 1))
		}
	}()
	write := func(within time.Duration) error {
		if err := p.SetWriteDeadline(time.Now().Add(within)); err != nil {
			t.Fatal(err)
		}
		_, err := p.Write([]byte{1})
		if err := p.SetWriteDeadline(time.Time{}); err != nil {
			t.Fatal(err)
		}
		return err
	}
	for range 1000 {
		if err := write(time.Hour); err != nil {
			t.Fatal(err)
		}
	}
	<-read
	if counted.set != 1 {
		t.Errorf("1,000 writes set %d deadlines", counted.set)
	}
	began := time.Now()
	if err := write(50 * time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a write that nobody takes = %v", err)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("it ended after %s", took)
	}
	if err := p.SetDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = far.Read(make([]byte, 1)) }()
	if err := write(time.Hour); err != nil {
		t.Errorf("a write after a deadline that is over = %v", err)
	}
}
