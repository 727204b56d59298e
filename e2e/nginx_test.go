package e2e_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/freeport"
)

// The nginx configuration of docs/deploy.md is one that nginx takes, and what it
// says holds: connections to Pelton are kept, large batches come through, and
// answers that are held and events come when they should.
func TestNginx(t *testing.T) {
	t.Parallel()
	for _, program := range []string{"nginx", "openssl"} {
		require(t, program)
	}
	s := serve(t, "--addr", "127.0.0.1:0", "--data", filepath.Join(t.TempDir(), "data"), "--demo", "--token", "secret")
	address, dir := freeport.Addr(t), t.TempDir()
	upstream, connections := counted(t, strings.TrimPrefix(s.url, "http://"))
	web := nginx(t, dir, address, upstream)
	t.Cleanup(web.CloseIdleConnections)

	ask := func(method, path, body string) (int, string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, method, "https://"+address+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer secret")
		req.Header.Set("Content-Type", "application/json")
		req.Host = "pelton.example.com"
		resp, err := web.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		answer, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(answer)
	}

	for range 100 {
		if status, answer := ask(http.MethodPost, "/tasks?wait=20s", `{"kind":"demo.echo","payload":1}`); status != http.StatusOK {
			t.Fatalf("POST with ?wait: %d %s", status, answer)
		}
	}
	if n := connections.Load(); n > 10 {
		t.Errorf("%d connections for 100 requests: they are not kept", n)
	}

	payload := strings.Repeat("x", 200<<10)
	var batch []string
	for range 75 { // 15 MiB
		batch = append(batch, fmt.Sprintf(`{"kind":"demo.echo","payload":"%s"}`, payload))
	}
	if status, answer := ask(http.MethodPost, "/tasks/batch", `{"tasks":[`+strings.Join(batch, ",")+`]}`); status != http.StatusOK {
		t.Errorf("a batch of 15 MiB: %d %.200s", status, answer)
	}
	if status, _ := ask(http.MethodGet, "/metrics", ""); status != http.StatusForbidden {
		t.Errorf("GET /metrics from outside: %d", status)
	}

	// The first event is there while the task still runs: nothing keeps it back.
	status, answer := ask(http.MethodPost, "/tasks", `{"kind":"demo.sleep","payload":{"ms":600000}}`)
	var task pelton.Task
	if err := json.Unmarshal([]byte(answer), &task); status != http.StatusAccepted || err != nil {
		t.Fatalf("POST: %d %s %v", status, answer, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+address+"/tasks/"+task.ID.String()+"/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer secret")
	req.Host = "pelton.example.com"
	resp, err := web.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	for lines := bufio.NewScanner(resp.Body); ; {
		if !lines.Scan() {
			t.Fatalf("no event: %v", lines.Err())
		}
		if lines.Text() == "event: state" {
			break
		}
	}
	if status, answer := ask(http.MethodPost, "/tasks/"+task.ID.String()+"/cancel", ""); status != http.StatusOK {
		t.Errorf("cancel: %d %s", status, answer)
	}
}

// nginx runs the configuration of the document with other addresses and a
// certificate of its own, after nginx -t, and gives a client for it.
func nginx(t *testing.T, dir, address, upstream string) *http.Client {
	t.Helper()
	conf := ""
	for _, s := range document(t, "../docs/deploy.md") {
		if s.lang == "nginx" {
			conf = s.text
		}
	}
	for old, replacement := range map[string]string{
		"listen 443 ssl;": "listen " + address + " ssl;", "127.0.0.1:7420": upstream,
		"/etc/ssl/pelton.pem": filepath.Join(dir, "pelton.pem"), "/etc/ssl/pelton.key": filepath.Join(dir, "pelton.key"),
	} {
		if !strings.Contains(conf, old) {
			t.Fatalf("the configuration of docs/deploy.md has no %s:\n%s", old, conf)
		}
		conf = strings.ReplaceAll(conf, old, replacement)
	}
	main := "daemon off;\nuser " + userName(t) + ";\npid " + dir + "/pid;\nerror_log stderr;\nworker_processes 1;\nevents {}\nhttp {\naccess_log off;\n"
	for _, temp := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
		main += temp + "_temp_path " + dir + "/" + temp + ";\n"
	}
	path := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(path, []byte(main+conf+"}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	key := exec.Command("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
		"-subj", "/CN=pelton.example.com", "-keyout", filepath.Join(dir, "pelton.key"), "-out", filepath.Join(dir, "pelton.pem"))
	if out, err := key.CombinedOutput(); err != nil {
		t.Fatalf("openssl: %v\n%s", err, out)
	}
	if out, err := exec.Command("nginx", "-t", "-c", path).CombinedOutput(); err != nil || strings.Contains(string(out), "[warn]") {
		t.Fatalf("nginx -t: %v\n%s", err, out)
	}
	cmd := exec.Command("nginx", "-c", path)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	s := &screen{cmd: cmd, more: make(chan struct{}), done: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = s, s
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		s.err = cmd.Wait()
		close(s.done)
	}()
	t.Cleanup(func() {
		s.signal(syscall.SIGTERM)
		<-s.done
		if t.Failed() {
			t.Logf("nginx: %s", s.text())
		}
	})
	web := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}} // a certificate of this test
	for {                                                                                                   // it says nothing when it listens
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+address+"/healthz", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := web.Do(req)
		cancel()
		if err == nil {
			_ = resp.Body.Close()
			return web
		}
		select {
		case <-s.done:
			t.Fatalf("nginx has ended: %v\n%s", s.err, s.text())
		case <-t.Context().Done():
			t.Fatal(err)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// userName is who nginx's workers run as: who the test runs as.
func userName(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("id", "-un").Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// counted passes connections on to the API and counts them.
func counted(t *testing.T, to string) (address string, count *atomic.Int64) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	count = new(atomic.Int64)
	var serving sync.WaitGroup
	ctx, stop := context.WithCancel(context.Background())
	serving.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return // closed
			}
			count.Add(1)
			serving.Go(func() {
				defer in.Close()
				out, err := net.Dial("tcp", to)
				if err != nil {
					return
				}
				defer out.Close()
				defer context.AfterFunc(ctx, func() { in.Close(); out.Close() })()
				back := make(chan struct{})
				go func() {
					defer close(back)
					_, _ = io.Copy(in, out)
					_ = in.Close()
				}()
				_, _ = io.Copy(out, in)
				_ = out.Close()
				<-back
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		stop()
		serving.Wait()
	})
	return l.Addr().String(), count
}
