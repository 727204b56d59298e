package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"time"
)

// httpSender sends by POST /tasks and, many at a time, by POST /tasks/batch, on one
// kept connection for each of up to 64 callers. A task is its payload between head
// and tail.
func httpSender(base, head, tail string) sender {
	client := httpClient()
	send := func(ctx context.Context, path string, body []byte) ([]byte, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, base+path, bytes.NewReader(body))
		if err != nil {
			return nil, err
		}
		req.Header.Set("Content-Type", "application/json")
		resp, err := client.Do(req)
		if err != nil {
			return nil, err
		}
		defer resp.Body.Close()
		answer, err := io.ReadAll(io.LimitReader(resp.Body, 16<<20))
		if err == nil && resp.StatusCode/100 != 2 {
			err = fmt.Errorf("POST %s: %s: %s", path, resp.Status, answer[:min(len(answer), 500)])
		}
		return answer, err
	}
	wrap := func(payload []byte) []byte { return append(append([]byte(head), payload...), tail...) }
	return sender{
		one: func(ctx context.Context, payload []byte) error {
			_, err := send(ctx, "/tasks", wrap(payload))
			return err
		},
		many: func(ctx context.Context, n int) error {
			body := []byte(`{"tasks":[`)
			for i := range n {
				if i > 0 {
					body = append(body, ',')
				}
				body = append(body, wrap(payload)...)
			}
			answer, err := send(ctx, "/tasks/batch", append(body, `]}`...))
			if err != nil {
				return err
			}
			if got := bytes.Count(answer, []byte(`"status":202`)); got != n {
				return fmt.Errorf("POST /tasks/batch: %d of %d accepted", got, n)
			}
			return nil
		},
	}
}

// httpClient keeps up to 64 connections to a server.
func httpClient() *http.Client {
	return &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64, MaxConnsPerHost: 64, IdleConnTimeout: time.Minute}}
}

// bareHTTP is what net/http allows on this machine: it stores nothing.
type bareHTTP struct {
	sender
	rounds
	server *child
}

func (b *bareHTTP) start(ctx context.Context, dir string) error {
	b.next(dir)
	server, addr, err := listening(ctx, filepath.Join(dir, "http.log"), "http-bare")
	if err != nil {
		return err
	}
	b.server, b.sender = server, httpSender(addr, "", "")
	b.many = nil
	return nil
}

func (b *bareHTTP) hire(context.Context, *crew, int) (func() error, error) {
	return nil, errors.New("nothing is queued")
}

func (b *bareHTTP) footprint() ([]int, string) { return []int{b.server.cmd.Process.Pid}, b.dir }

func (b *bareHTTP) stop() error { return b.server.stop() }

// bareServer is the role of its server.
func bareServer(ctx context.Context, _ []string) error {
	return serveHTTP(ctx, func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.ReadAll(io.LimitReader(r.Body, 1<<20)); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusAccepted)
		_, _ = io.WriteString(w, `{"state":"queued"}`)
	})
}

// serveHTTP serves POST /tasks on a loopback port until ctx ends.
func serveHTTP(ctx context.Context, handle http.HandlerFunc) error {
	var cfg net.ListenConfig
	l, err := cfg.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /tasks", handle)
	server := &http.Server{Handler: mux, ReadHeaderTimeout: callWithin}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(l) }()
	fmt.Printf("ready http://%s\n", l.Addr())
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		err := server.Close()
		if err1 := <-ended; !errors.Is(err1, http.ErrServerClosed) {
			err = errors.Join(err, err1)
		}
		return err
	}
}
