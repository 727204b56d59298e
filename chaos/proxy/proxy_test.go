package proxy_test

import (
	"bufio"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/peltonq/pelton/chaos/proxy"
)

// short is long enough to see that nothing comes.
const short = 100 * time.Millisecond

// target answers every line with itself. said gets what arrived.
func target(t *testing.T) (addr string, said <-chan string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	lines := make(chan string, 100)
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer conn.Close()
				in := bufio.NewScanner(conn)
				for in.Scan() {
					lines <- in.Text()
					if _, err := io.WriteString(conn, in.Text()+"\n"); err != nil {
						return
					}
				}
			})
		}
	})
	t.Cleanup(func() { _ = listener.Close(); serving.Wait() })
	return listener.Addr().String(), lines
}

type conn struct {
	net.Conn
	t *testing.T
	r *bufio.Reader
}

func open(t *testing.T) (*proxy.Proxy, *conn, <-chan string) {
	t.Helper()
	addr, said := target(t)
	p, err := proxy.Listen(t.Context(), addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p, dial(t, p), said
}

func dial(t *testing.T, p *proxy.Proxy) *conn {
	t.Helper()
	c, err := net.Dial("tcp", p.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return &conn{Conn: c, t: t, r: bufio.NewReader(c)}
}

func (c *conn) say(line string) {
	c.t.Helper()
	if _, err := io.WriteString(c, line+"\n"); err != nil {
		c.t.Fatal(err)
	}
}

// hear is the next line, or the error of waiting for it.
func (c *conn) hear(wait time.Duration) (string, error) {
	_ = c.SetReadDeadline(time.Now().Add(wait))
	return c.r.ReadString('\n')
}

func (c *conn) expect(line string) {
	c.t.Helper()
	if got, err := c.hear(5 * time.Second); err != nil || got != line+"\n" {
		c.t.Fatalf("%q, %v, want %q", got, err, line)
	}
}

func (c *conn) expectSilence() {
	c.t.Helper()
	if got, err := c.hear(short); !errors.Is(err, os.ErrDeadlineExceeded) {
		c.t.Fatalf("%q, %v, want silence", got, err)
	}
}

// end is how a new connection ends, be it before it is there.
func end(p *proxy.Proxy) error {
	c, err := net.Dial("tcp", p.Addr())
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
	_, err = c.Read(make([]byte, 1))
	return err
}

// Nothing passes while the cable is out, on old connections and new ones, and
// everything that was sent arrives when it is back.
func TestDrop(t *testing.T) {
	t.Parallel()
	p, c, said := open(t)
	c.say("one")
	c.expect("one")
	<-said
	p.Set(proxy.Drop)
	c.say("two")
	fresh := dial(t, p)
	fresh.say("new")
	c.expectSilence()
	fresh.expectSilence()
	select {
	case line := <-said:
		t.Errorf("%q passed", line)
	default:
	}
	p.Set(proxy.Pass)
	c.expect("two")
	fresh.expect("new")
}

// One direction passes, the other does not.
func TestHalfOpen(t *testing.T) {
	t.Parallel()
	p, c, said := open(t)
	c.say("warm") // the connection to the target stands
	c.expect("warm")
	<-said

	p.Set(proxy.HalfDown)
	c.say("one")
	select {
	case line := <-said:
		if line != "one" {
			t.Errorf("target heard %q", line)
		}
	case <-time.After(5 * time.Second):
		t.Error("the way up is shut too")
	}
	c.expectSilence()

	p.Set(proxy.HalfUp) // the answer comes down now, and nothing goes up
	c.expect("one")
	c.say("two")
	c.expectSilence()
	p.Set(proxy.Pass)
	c.expect("two")
}

// Half of what is sent arrives, and the rest only if the connection lives to see it.
func TestTear(t *testing.T) {
	t.Parallel()
	p, c, said := open(t)
	c.say("warm")
	c.expect("warm")
	<-said
	p.Set(proxy.Tear)
	c.say("one\ntwo")
	select {
	case line := <-said:
		if line != "one" {
			t.Errorf("target heard %q", line)
		}
	case <-time.After(5 * time.Second):
		t.Error("nothing passed")
	}
	c.expectSilence()
	p.Set(proxy.Pass)
	c.expect("one")
	c.expect("two")
}

func TestDelay(t *testing.T) {
	t.Parallel()
	p, c, _ := open(t)
	c.say("warm")
	c.expect("warm")
	p.Set(proxy.Delay)
	began := time.Now()
	c.say("one")
	c.expect("one")
	if took := time.Since(began); took < 2*proxy.DelayBy {
		t.Errorf("there and back in %s, want %s at least", took, 2*proxy.DelayBy)
	}
}

// Open connections are reset, and new ones as long as the mode lasts.
func TestReset(t *testing.T) {
	t.Parallel()
	p, c, _ := open(t)
	c.say("one")
	c.expect("one")
	p.Set(proxy.Reset)
	if _, err := c.hear(5 * time.Second); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("%v, want a reset", err)
	}
	if err := end(p); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("a new connection: %v, want a reset", err)
	}
	p.Set(proxy.Pass)
	again := dial(t, p)
	again.say("two")
	again.expect("two")
}

// Close waits for everything, whatever the mode holds back.
func TestClose(t *testing.T) {
	t.Parallel()
	for _, mode := range append(proxy.Modes(), proxy.Tear, proxy.Pass) {
		p, c, _ := open(t)
		c.say("warm")
		c.expect("warm")
		p.Set(mode)
		_, _ = io.WriteString(c, "held\n") // fails after a reset
		closed := make(chan struct{})
		go func() { p.Close(); close(closed) }()
		select {
		case <-closed:
		case <-time.After(5 * time.Second):
			t.Fatalf("Close hangs in mode %s", mode)
		}
	}
}

// A target that is not there ends the connection.
func TestNoTarget(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := listener.Addr().String()
	_ = listener.Close()
	p, err := proxy.Listen(t.Context(), addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	if err := end(p); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%v, want an end", err)
	}
}
