package e2e_test

import (
	"bufio"
	"bytes"
	"context"
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
	"syscall"
	"testing"
	"time"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/brokertest"
	"github.com/peltonq/pelton/internal/freeport"
	"github.com/peltonq/pelton/internal/nginxtest"
)

// balancer is a real nginx with deploy/nginx.conf before replicas.
type balancer struct {
	url string
	log string // path of its access log
}

// balanced is one request in the log of a balancer.
type balanced struct {
	Method         string `json:"method"`
	Path           string `json:"path"`
	Status         int    `json:"status"`
	Upstream       string `json:"upstream"`
	UpstreamStatus string `json:"upstream_status"`
}

// passedOn reports whether more than one replica was asked.
func (b balanced) passedOn() bool { return strings.Contains(b.UpstreamStatus, ",") }

// nginxBefore runs deploy/nginx.conf, with nothing but addresses and paths changed,
// and what the caller says.
func nginxBefore(t *testing.T, replicas [2]string, changes ...[2]string) *balancer {
	t.Helper()
	require(t, "nginx")
	address := freeport.Addr(t)
	conf := nginxtest.Write(t, address, replicas, changes...)
	b := &balancer{url: "http://" + address, log: conf.Log}
	if out, err := exec.Command("nginx", "-t", "-c", conf.Path).CombinedOutput(); err != nil {
		t.Fatalf("nginx -t: %v\n%s", err, out)
	}
	p := launch(t, exec.Command("nginx", "-c", conf.Path), "nginx")
	t.Cleanup(func() { p.kill(syscall.SIGTERM) }) // SIGKILL would leave its workers behind
	await(t, p, b.url+"/healthz", http.StatusOK)
	return b
}

// await asks until the answer has the status.
func await(t *testing.T, p *process, url string, want int) {
	t.Helper()
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for deadline := time.After(30 * time.Second); ; {
		status, _, answer, err := call(t.Context(), http.MethodGet, url, "")
		if err == nil && status == want {
			return
		}
		select {
		case <-again.C:
		case <-p.done:
			t.Fatalf("%s ended: %v\n%s", p.name, p.err, p.tail(20))
		case <-deadline:
			t.Fatalf("GET %s: %d %s %v, want %d", url, status, answer, err, want)
		}
	}
}

// requests reads the log.
func (b *balancer) requests(t *testing.T) (all []balanced) {
	t.Helper()
	text, err := os.ReadFile(b.log)
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(text) {
		var one balanced
		if err := json.Unmarshal(line, &one); err != nil {
			t.Fatalf("log of nginx: %v: %s", err, line)
		}
		all = append(all, one)
	}
	return all
}

// replica starts an API on a broker elsewhere.
func replica(t *testing.T, nats string, args ...string) *server {
	t.Helper()
	return serve(t, append([]string{"--nats", nats}, args...)...)
}

// On a cluster of three brokers, every replica answers for every task at once, and
// answers that are held and events come through nginx when they happen.
func TestNginxReplicas(t *testing.T) {
	t.Parallel()
	_, nats := brokertest.StartCluster(t, 3)
	one := replica(t, nats, "--addr", "127.0.0.1:0", "--replicas", "3")
	two := replica(t, nats, "--addr", "127.0.0.1:0", "--replicas", "3", "--demo")
	nginx := nginxBefore(t, [2]string{strings.TrimPrefix(one.url, "http://"), strings.TrimPrefix(two.url, "http://")})

	// The first task of a lane has both replicas make the lane: a busy cluster may say 503.
	eventually(t, "the lane is there", func() bool {
		status, _, _, err := ask(t.Context(), http.MethodPost, nginx.url+"/tasks?wait=20s", "first", `{"kind":"demo.echo"}`)
		return err == nil && status == http.StatusOK
	})
	const each = 50
	var posting sync.WaitGroup
	for n := range 8 {
		posting.Go(func() {
			for i := range each {
				key := ""
				if i%2 == 0 { // with a record and without one
					key = fmt.Sprintf("%d-%d", n, i)
				}
				status, _, answer, err := ask(t.Context(), http.MethodPost, nginx.url+"/tasks", key, `{"kind":"demo.echo","payload":1}`)
				var task pelton.Task
				if err == nil {
					err = json.Unmarshal(answer, &task)
				}
				if err != nil || status != http.StatusAccepted {
					t.Errorf("POST: %d %s %v", status, answer, err)
					return
				}
				for _, base := range []string{nginx.url, one.url, two.url} {
					if status, _, answer, err := call(t.Context(), http.MethodGet, base+"/tasks/"+task.ID.String(), ""); err != nil || status != http.StatusOK {
						t.Errorf("GET right after 202: %d %s %v", status, answer, err)
					}
				}
			}
		})
	}
	posting.Wait()
	posted, gets := make(map[string]int), 0
	for _, r := range nginx.requests(t) {
		switch {
		case r.passedOn():
			t.Logf("mended by the other replica: %+v", r) // a busy cluster
		case r.Method == http.MethodPost:
			posted[r.Upstream]++
		case r.Method == http.MethodGet && strings.HasPrefix(r.Path, "/tasks/"):
			gets++
		}
	}
	if len(posted) != 2 || gets < 8*each*9/10 {
		t.Errorf("POSTs by replica %v, %d GETs: not spread", posted, gets)
	}

	t.Run("held", func(t *testing.T) { heldThroughNginx(t, nginx) })
	t.Run("bounds", func(t *testing.T) { bodiesThroughNginx(t, nginx) })
	t.Run("replica killed under held answers", func(t *testing.T) {
		id := postSleeping(t, nginx.url)
		answers := make(chan string, 8)
		for range cap(answers) {
			go func() { // at most 60 s
				status, _, answer, err := call(context.WithoutCancel(t.Context()), http.MethodGet, nginx.url+"/tasks/"+id+"?wait=60s", "")
				answers <- fmt.Sprintf("%d %v %v", status, err, strings.Contains(string(answer), `"cancelled"`))
			}()
		}
		held := func(s *server) (n int) {
			_, _, text, _ := call(t.Context(), http.MethodGet, s.url+"/metrics", "")
			for line := range strings.Lines(string(text)) {
				_, _ = fmt.Sscanf(line, "pelton_http_held %d", &n)
			}
			return n
		}
		eventually(t, "both replicas hold answers", func() bool { return held(one)+held(two) == cap(answers) && held(one) > 0 })
		one.kill(syscall.SIGKILL)
		eventually(t, "the other replica holds them all", func() bool { return held(two) == cap(answers) })
		cancelTask(t, two.url, id)
		for range cap(answers) {
			if got := <-answers; got != "200 <nil> true" {
				t.Errorf("a held answer whose replica was killed: %s", got)
			}
		}
	})
	t.Run("no replica", func(t *testing.T) {
		two.kill(syscall.SIGKILL)
		for method, want := range map[string]string{http.MethodGet: "unavailable", http.MethodPost: "unknown-outcome"} {
			status, header, answer, err := call(t.Context(), method, nginx.url+"/tasks", "")
			if err != nil || status != http.StatusServiceUnavailable || header.Get("Retry-After") == "" ||
				header.Get("Content-Type") != "application/problem+json" || !strings.Contains(string(answer), `"type":"`+want+`"`) {
				t.Errorf("%s: %d %v %s %v", method, status, header, answer, err)
			}
		}
	})
}

// heldThroughNginx watches one task in two ways.
func heldThroughNginx(t *testing.T, nginx *balancer) {
	t.Helper()
	id := postSleeping(t, nginx.url)
	polled := make(chan time.Time, 1)
	go func() {
		status, _, answer, err := call(context.WithoutCancel(t.Context()), http.MethodGet, nginx.url+"/tasks/"+id+"?wait=60s", "")
		if err != nil || status != http.StatusOK || !strings.Contains(string(answer), `"cancelled"`) {
			t.Errorf("held GET: %d %s %v", status, answer, err)
		}
		polled <- time.Now()
	}()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, nginx.url+"/tasks/"+id+"/events", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept-Encoding", "gzip") // so that a gzip of nginx's would be seen
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Encoding") != "" {
		t.Fatalf("events: %s %v", resp.Status, resp.Header)
	}
	lines := bufio.NewScanner(resp.Body)
	find := func(what string) time.Time {
		t.Helper()
		for lines.Scan() {
			if strings.Contains(lines.Text(), what) {
				return time.Now()
			}
		}
		t.Fatalf("the stream ended without %s: %v", what, lines.Err())
		return time.Time{}
	}
	find(`"running"`) // while it runs: nothing keeps the event back
	cancelled := time.Now()
	cancelTask(t, nginx.url, id)
	streamed := find(`"cancelled"`).Sub(cancelled)
	held := (<-polled).Sub(cancelled)
	t.Logf("after the cancel: event %s, held answer %s", streamed, held)
	if most := 5 * time.Second; streamed > most || held > most {
		t.Errorf("event after %s, held answer after %s", streamed, held)
	}
}

// bodiesThroughNginx sends a batch that fits and one that does not.
func bodiesThroughNginx(t *testing.T, nginx *balancer) {
	t.Helper()
	item := `{"kind":"demo.echo","payload":"` + strings.Repeat("x", 200<<10) + `"},`
	batch := func(n int) string { return `{"tasks":[` + strings.TrimSuffix(strings.Repeat(item, n), ",") + `]}` }
	if status, _, answer, err := call(t.Context(), http.MethodPost, nginx.url+"/tasks/batch", batch(75)); err != nil || status != http.StatusOK {
		t.Errorf("a batch of 15 MiB: %d %.200s %v", status, answer, err)
	}
	for _, n := range []int{83, 100} { // refused by Pelton, by nginx
		status, _, answer, err := call(t.Context(), http.MethodPost, nginx.url+"/tasks/batch", batch(n))
		if err != nil || status != http.StatusRequestEntityTooLarge || !strings.Contains(string(answer), `"type":"too-large"`) {
			t.Errorf("a batch of %d: %d %.200s %v", n, status, answer, err)
		}
	}
	if status, _, _, err := call(t.Context(), http.MethodGet, nginx.url+"/metrics", ""); err != nil || status != http.StatusForbidden {
		t.Errorf("/metrics through nginx: %d %v", status, err)
	}
	if status, _, _, err := call(t.Context(), http.MethodGet, nginx.url+"/readyz", ""); err != nil || status != http.StatusOK {
		t.Errorf("/readyz through nginx: %d %v", status, err)
	}
}

// Who called nginx is who is counted, and nobody can say that he is another.
func TestNginxTellsTheCaller(t *testing.T) {
	t.Parallel()
	s := serve(t, "--addr", "127.0.0.1:0", "--data", filepath.Join(t.TempDir(), "data"), "--api-rate", "3/1h", "--trusted-proxies", "127.0.0.1")
	address := strings.TrimPrefix(s.url, "http://")
	nginx := nginxBefore(t, [2]string{address, address})
	from := func(ip, forged string) int {
		t.Helper()
		transport := &http.Transport{DialContext: (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(ip)}}).DialContext}
		defer transport.CloseIdleConnections()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, nginx.url+"/queues", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		if forged != "" {
			req.Header.Set("X-Forwarded-For", forged)
		}
		resp, err := transport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		_, _ = io.Copy(io.Discard, resp.Body)
		return resp.StatusCode
	}
	for i, want := range []int{200, 200, 200, 429} {
		if got := from("127.0.0.2", fmt.Sprintf("192.0.2.%d", i)); got != want {
			t.Errorf("request %d: %d, want %d", i+1, got, want)
		}
	}
	if got := from("127.0.0.3", ""); got != http.StatusOK {
		t.Errorf("another caller: %d", got)
	}
}

// ask is call with an idempotency key, unless that is empty, and kept connections.
func ask(ctx context.Context, method, url, key, body string) (int, http.Header, []byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return 0, nil, nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	if key != "" {
		req.Header.Set("Idempotency-Key", key)
	}
	return do(req)
}

func do(req *http.Request) (int, http.Header, []byte, error) {
	resp, err := manyClient.Do(req)
	if err != nil {
		return 0, nil, nil, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	return resp.StatusCode, resp.Header, answer, err
}

// manyClient keeps a connection for each of many callers.
var manyClient = &http.Client{Timeout: 90 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 256}}

// postSleeping posts a task that ends by being cancelled.
func postSleeping(t *testing.T, url string) (id string) {
	t.Helper()
	status, _, answer, err := call(t.Context(), http.MethodPost, url+"/tasks", `{"kind":"demo.sleep","payload":{"ms":250000}}`)
	var task pelton.Task
	if err == nil {
		err = json.Unmarshal(answer, &task)
	}
	if err != nil || status != http.StatusAccepted {
		t.Fatalf("POST: %d %s %v", status, answer, err)
	}
	return task.ID.String()
}

func cancelTask(t *testing.T, url, id string) {
	t.Helper()
	if status, _, answer, err := call(t.Context(), http.MethodPost, url+"/tasks/"+id+"/cancel", ""); err != nil || status != http.StatusOK {
		t.Fatalf("cancel: %d %s %v", status, answer, err)
	}
}

// eventually waits for what can only be looked at.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	for deadline := time.After(30 * time.Second); !is(); {
		select {
		case <-again.C:
		case <-deadline:
			t.Fatalf("not within 30 s: %s", what)
		}
	}
}
