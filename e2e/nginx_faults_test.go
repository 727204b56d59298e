package e2e_test

import (
	"bytes"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
)

// arrivals counts the requests that replicas which are none have got.
type arrivals struct {
	mu    sync.Mutex
	total int
}

func (a *arrivals) add() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.total++
}

func (a *arrivals) take() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	n := a.total
	a.total = 0
	return n
}

// fakeReplica is an API of which a test knows what it answers.
func fakeReplica(t *testing.T, answer http.HandlerFunc) (address string) {
	t.Helper()
	s := httptest.NewServer(answer)
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// A request that was sent and got no answer is sent to the other replica only if
// that does no harm.
func TestNginxRepeats(t *testing.T) {
	t.Parallel()
	var got arrivals
	dies := func(w http.ResponseWriter, _ *http.Request) {
		got.add()
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		_ = conn.(*net.TCPConn).SetLinger(0) // as of a process that was killed
		_ = conn.Close()
	}
	// Without leave to fail nobody would be asked after the third fault.
	nginx := nginxBefore(t, [2]string{fakeReplica(t, dies), fakeReplica(t, dies)}, [2]string{"max_fails=3", "max_fails=0"})
	for _, tc := range []struct {
		method, path, key, problem string
		times                      int
	}{
		{http.MethodGet, "/tasks/x", "", "unavailable", 2},
		{http.MethodGet, "/tasks/x?wait=1s", "", "unavailable", 2},
		{http.MethodGet, "/tasks/x/events", "", "unavailable", 2},
		{http.MethodPut, "/schedules/x", "", "unknown-outcome", 2},
		{http.MethodDelete, "/dead/x", "", "unknown-outcome", 2},
		{http.MethodPatch, "/queues/x", "", "unknown-outcome", 1},
		{http.MethodPost, "/tasks", "", "unknown-outcome", 1},
		{http.MethodPost, "/tasks", "k", "unknown-outcome", 2},
		{http.MethodPost, "/tasks?wait=1s", "", "unknown-outcome", 1},
		{http.MethodPost, "/tasks?wait=1s", "k", "unknown-outcome", 2},
		{http.MethodPost, "/tasks/batch", "k", "unknown-outcome", 1},
		{http.MethodPost, "/tasks/x/retry", "k", "unknown-outcome", 1},
	} {
		status, _, answer, err := ask(t.Context(), tc.method, nginx.url+tc.path, tc.key, `{}`)
		if err != nil || status != http.StatusServiceUnavailable || !strings.Contains(string(answer), `"type":"`+tc.problem+`"`) {
			t.Errorf("%+v: %d %s %v", tc, status, answer, err)
		}
		if times := got.take(); times != tc.times {
			t.Errorf("%s %s with key %q was sent %d times, want %d", tc.method, tc.path, tc.key, times, tc.times)
		}
	}
}

// A replica that has no broker says 503: what may be asked elsewhere is, and after
// three such answers it is left alone for a while, with POSTs too.
func TestNginxLeavesAReplicaAlone(t *testing.T) {
	t.Parallel()
	var bad, good arrivals
	nginx := nginxBefore(t, [2]string{
		fakeReplica(t, func(w http.ResponseWriter, _ *http.Request) {
			bad.add()
			http.Error(w, "no broker", http.StatusServiceUnavailable)
		}),
		fakeReplica(t, func(w http.ResponseWriter, r *http.Request) {
			good.add()
			if r.Header.Get("Connection") != "" || r.ProtoMinor != 1 {
				t.Errorf("connection to the replica is not kept: %s %v", r.Proto, r.Header)
			}
			_, _ = w.Write(bytes.Repeat([]byte("ok "), 4<<10))
		}),
	}, [2]string{"fail_timeout=5s", "fail_timeout=60s"}) // longer than this test
	const gets, posts = 20, 10
	for range gets {
		if status, _, answer, err := ask(t.Context(), http.MethodGet, nginx.url+"/tasks/x", "", ""); err != nil || status != http.StatusOK {
			t.Errorf("GET: %d %s %v", status, answer, err)
		}
	}
	for range posts {
		if status, _, answer, err := ask(t.Context(), http.MethodPost, nginx.url+"/tasks", "", "{}"); err != nil || status != http.StatusOK {
			t.Errorf("POST: %d %s %v", status, answer, err)
		}
	}
	if b, g := bad.take(), good.take(); b != 3 || g != gets+posts {
		t.Errorf("%d requests to the replica without a broker, %d to the other", b, g)
	}
}
