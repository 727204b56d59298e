// Package redistest gives tests a real Redis: a redis-server on a free loopback
// port, with a folder of its own, gone with the test.
package redistest

import (
	"bufio"
	"cmp"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/peltonq/pelton/internal/freeport"
)

const patience = 10 * time.Second

// Server is a redis-server that a test may kill, stop and start again.
type Server struct {
	URL string // redis://127.0.0.1:PORT

	t    testing.TB
	addr string
	dir  string
	cmd  *exec.Cmd
}

// Start starts a server, and ends it with the test. Where redis-server is not
// installed the test is skipped aloud; with PELTON_TEST_REQUIRE=1 it fails.
func Start(t testing.TB) *Server {
	t.Helper()
	if _, err := exec.LookPath("redis-server"); err != nil {
		if os.Getenv("PELTON_TEST_REQUIRE") == "1" {
			t.Fatal("redis-server is missing: run scripts/deps.sh")
		}
		t.Skip("redis-server is not installed")
	}
	addr := freeport.Addr(t)
	s := &Server{URL: "redis://" + addr, t: t, addr: addr, dir: t.TempDir()}
	s.Run()
	t.Cleanup(s.Kill)
	return s
}

// Run starts the server again after Kill, empty, on the same port.
func (s *Server) Run() {
	s.t.Helper()
	_, port, _ := net.SplitHostPort(s.addr)
	s.cmd = exec.CommandContext(s.t.Context(), "redis-server", "--bind", "127.0.0.1", "--port", port, "--dir", s.dir, "--save", "", "--appendonly", "no") //nolint:gosec // a port and a folder of the test's own
	if err := s.cmd.Start(); err != nil {
		s.t.Fatalf("start redis-server: %v", err)
	}
	deadline := time.After(patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !s.answers() {
		select {
		case <-tick.C:
		case <-deadline:
			s.t.Fatalf("redis-server at %s does not answer within %s", s.addr, patience)
		}
	}
}

// Clients is the number of connections that others have to the server.
func (s *Server) Clients() int {
	s.t.Helper()
	conn, err := s.dial()
	if err != nil {
		s.t.Fatal(err)
	}
	defer conn.Close()
	n, err := Clients(conn)
	if err != nil {
		s.t.Fatal(err)
	}
	return n
}

// Clients asks the redis-server behind conn how many connections others have to it.
func Clients(conn net.Conn) (int, error) {
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return 0, fmt.Errorf("ask for clients: %w", err)
	}
	if _, err := fmt.Fprint(conn, "INFO clients\r\n"); err != nil {
		return 0, fmt.Errorf("ask for clients: %w", err)
	}
	lines := bufio.NewScanner(conn)
	for lines.Scan() {
		if text, ok := strings.CutPrefix(lines.Text(), "connected_clients:"); ok {
			n, err := strconv.Atoi(text)
			return n - 1, err //nolint:wrapcheck // it says what it is about
		}
	}
	return 0, fmt.Errorf("redis-server does not tell of its clients: %w", cmp.Or(lines.Err(), io.ErrUnexpectedEOF))
}

func (s *Server) dial() (net.Conn, error) {
	return (&net.Dialer{Timeout: time.Second}).DialContext(s.t.Context(), "tcp", s.addr)
}

func (s *Server) answers() bool {
	conn, err := s.dial()
	if err != nil {
		return false
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Second)) // of a connection that is open
	if _, err := fmt.Fprint(conn, "PING\r\n"); err != nil {
		return false
	}
	answer, err := io.ReadAll(io.LimitReader(conn, int64(len("+PONG\r\n"))))
	return err == nil && strings.HasPrefix(string(answer), "+PONG")
}

// Kill ends the server without warning. Killing twice is fine.
func (s *Server) Kill() {
	if s.cmd == nil {
		return
	}
	_ = s.cmd.Process.Kill() // fails only when it has ended
	_ = s.cmd.Wait()         // says that it was killed
	s.cmd = nil
}

// Hang stops the server without closing anything: it takes connections and does
// not answer. Resume lets it go on.
func (s *Server) Hang() { s.signal(syscall.SIGSTOP) }

// Resume ends Hang.
func (s *Server) Resume() { s.signal(syscall.SIGCONT) }

func (s *Server) signal(sig syscall.Signal) {
	s.t.Helper()
	if err := s.cmd.Process.Signal(sig); err != nil {
		s.t.Fatalf("signal redis-server: %v", err)
	}
}
