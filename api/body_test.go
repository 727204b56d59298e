package api

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// pipeListener accepts one connection in memory, so that an http.Server can run
// on the clock of a synctest bubble.
type pipeListener struct {
	conn   chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.conn:
		return conn, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *pipeListener) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "unix"} }

// overPipe runs talk against h as a server has it, with a fake clock.
func overPipe(t *testing.T, h http.Handler, talk func(conn net.Conn)) {
	t.Helper()
	client, server := net.Pipe()
	l := &pipeListener{conn: make(chan net.Conn, 1), closed: make(chan struct{})}
	l.conn <- server
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second, WriteTimeout: 2 * time.Minute}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(l)
	}()
	talk(client)
	_ = client.Close()
	_ = srv.Close()
	<-done
}

func exchange(t *testing.T, conn net.Conn, request string) (status int) {
	t.Helper()
	if _, err := fmt.Fprint(conn, request); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	return resp.StatusCode
}

func TestBodyDeadlineDoesNotEndAWait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		overPipe(t, serve(t, newFakeTasks(), nil), func(conn net.Conn) {
			began := time.Now()
			status := exchange(t, conn, "POST /tasks?wait=45s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 12\r\n\r\n{\"kind\":\"a\"}")
			if got := time.Since(began); status != 202 || got != 45*time.Second {
				t.Errorf("status = %d after %s", status, got)
			}
		})
	})
}

func TestSlowBodyTimesOut(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		tasks := newFakeTasks()
		overPipe(t, serve(t, tasks, nil), func(conn net.Conn) {
			began := time.Now()
			status := exchange(t, conn, "POST /tasks HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 12\r\n\r\n{\"kind\":")
			if got := time.Since(began); status != 408 || got != bodyTimeout || len(tasks.accepted()) > 0 {
				t.Errorf("status = %d after %s", status, got)
			}
		})
	})
}
