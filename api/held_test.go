package api

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/peltonq/pelton"
)

func TestHeldAnswersAreBounded(t *testing.T) {
	t.Parallel()
	tasks := newFakeTasks()
	tasks.changes = make(chan *pelton.Task)
	task := exampleTask(false)
	tasks.put(task)
	h, _, held := bounded(t, tasks, DefaultMemory, 3)
	path := "/tasks/" + task.ID.String()
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	var waiting sync.WaitGroup
	for _, r := range []*http.Request{
		httptest.NewRequestWithContext(ctx, http.MethodGet, path+"?wait=50s", nil),
		httptest.NewRequestWithContext(ctx, http.MethodPost, "/tasks?wait=50s", strings.NewReader(`{"kind":"a"}`)),
		httptest.NewRequestWithContext(ctx, http.MethodGet, path+"/events", nil),
	} {
		r.Header.Set("Content-Type", "application/json")
		waiting.Go(func() { h.ServeHTTP(httptest.NewRecorder(), r) })
	}
	until(t, func() bool { return held.InUse() == 3 && len(tasks.accepted()) == 1 })
	wantBusy(t, call(t, h, http.MethodGet, path+"?wait=1s", ""))
	wantBusy(t, call(t, h, http.MethodGet, path, "", "Prefer", "wait=1"))
	wantBusy(t, call(t, h, http.MethodGet, path+"/events", ""))
	wantBusy(t, call(t, h, http.MethodPost, "/tasks?wait=1s", `{"kind":"b"}`))
	if got := len(tasks.accepted()); got != 1 {
		t.Errorf("%d tasks were enqueued, one by a request that got an error", got)
	}
	if held.Refused() != 4 {
		t.Errorf("%d refused", held.Refused())
	}
	if w := call(t, h, http.MethodGet, path, ""); w.Code != http.StatusOK {
		t.Errorf("who does not wait: %d", w.Code)
	}
	leave()
	waiting.Wait()
	if w := call(t, h, http.MethodGet, path+"?wait=1ms", ""); w.Code != http.StatusOK {
		t.Errorf("when the others have gone: %d", w.Code)
	}
}

// Held answers do not take the memory that everybody else needs.
func TestHeldAnswersLeaveMemory(t *testing.T) {
	t.Parallel()
	tasks := newFakeTasks()
	h, memory, _ := bounded(t, tasks, DefaultMemory, 10)
	memory.take(memory.forHeld()-10_000, memory.most)
	defer memory.give(memory.forHeld() - 10_000)
	payload := `{"kind":"a","payload":"` + strings.Repeat("x", 20_000) + `"}`
	wantBusy(t, call(t, h, http.MethodPost, "/tasks?wait=1ms", payload))
	w := call(t, h, http.MethodPost, "/tasks", payload)
	if w.Code != http.StatusAccepted || len(tasks.accepted()) != 1 {
		t.Fatalf("without waiting: %d %s", w.Code, w.Body)
	}
	wantBusy(t, call(t, h, http.MethodGet, w.Header().Get("Location")+"?wait=1ms", ""))
	if w := call(t, h, http.MethodGet, w.Header().Get("Location"), ""); w.Code != http.StatusOK {
		t.Errorf("a read: %d", w.Code)
	}
}

// A task that was accepted is no error when its result has no room: it is answered
// as it was. Who only asked for it is told to come again.
func TestResultWithoutRoom(t *testing.T) {
	t.Parallel()
	tasks := newFakeTasks()
	h, memory, _ := bounded(t, tasks, MinMemory, 10)
	done := make(chan struct{})
	go func() {
		defer close(done)
		until(t, func() bool { return len(tasks.accepted()) > 0 })
		tasks.mu.Lock()
		defer tasks.mu.Unlock()
		for _, task := range tasks.tasks {
			memory.take(memory.most-memory.InUse()-100_000, memory.most)
			tasks.endLocked(task, pelton.Succeeded, json.RawMessage(`"`+strings.Repeat("x", 200_000)+`"`))
		}
	}()
	w := call(t, h, http.MethodPost, "/tasks?wait=50s", `{"kind":"a"}`)
	<-done
	if task := decodeTask(t, w); w.Code != http.StatusAccepted || task.State != pelton.Queued || w.Header().Get("Preference-Applied") != "" {
		t.Errorf("POST: %d %s", w.Code, task.State)
	}
	wantBusy(t, call(t, h, http.MethodGet, w.Header().Get("Location"), ""))
	wantBusy(t, call(t, h, http.MethodPost, w.Header().Get("Location")+"/retry", ""))
	memory.give(memory.InUse())
	if task := decodeTask(t, call(t, h, http.MethodGet, w.Header().Get("Location"), "")); task.State != pelton.Succeeded {
		t.Errorf("GET with room: %s", task.State)
	}
}

// until waits for what other goroutines do.
func until(t *testing.T, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(20 * time.Second); !holds(); <-tick.C {
		if time.Now().After(end) {
			t.Error("did not come about within 20 s")
			return
		}
	}
}
