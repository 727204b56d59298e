package api

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/peltonq/pelton"
)

// event is one event of a stream; a comment has only text.
type event struct {
	ID, Name string
	Data     string
	Comment  string
}

// readEvents reads events until the stream ends.
func readEvents(r io.Reader) (events []event, err error) {
	var e event
	var data []string
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), ": ")
		switch name {
		case "id":
			e.ID = value
		case "event":
			e.Name = value
		case "data":
			data = append(data, value)
		case "":
			if value != "" {
				e.Comment = value
				break
			}
			if e.Data = strings.Join(data, "\n"); e != (event{}) {
				events = append(events, e)
			}
			e, data = event{}, nil
		default:
			return events, fmt.Errorf("line %q", lines.Text())
		}
	}
	return events, lines.Err()
}

// running is the example task at a revision, with progress.
func running(revision uint64, done int64) *pelton.Task {
	task := exampleTask(false)
	task.State, task.Revision, task.Attempt, task.Worker, task.StartedAt = pelton.Running, revision, 1, "w1", exampleTime()
	if done > 0 {
		task.Progress = &pelton.Progress{Done: done, Total: 3}
	}
	return task
}

// watchable has the example task queued and gives the changes on demand.
func watchable(changes ...*pelton.Task) *fakeTasks {
	tasks := newFakeTasks()
	tasks.put(exampleTask(false))
	tasks.changes = make(chan *pelton.Task, len(changes))
	for _, task := range changes {
		tasks.changes <- task
	}
	return tasks
}

func eventsPath() string { return "/tasks/" + exampleTask(false).ID.String() + "/events" }

func TestEvents(t *testing.T) {
	t.Parallel()
	over := exampleTask(true)
	over.Revision, over.Payload = 9, json.RawMessage("{\r\n \"to\":\n\"a@b.c\"}")
	tasks := watchable(exampleTask(false), running(3, 0), running(4, 1), running(5, 2), over)
	w := call(t, serve(t, tasks, nil), http.MethodGet, eventsPath(), "")
	if w.Code != 200 || w.Header().Get("Content-Type") != eventMediaType || w.Header().Get("Cache-Control") != "no-store" || !w.Flushed {
		t.Errorf("status %d, headers %v", w.Code, w.Header())
	}
	events, err := readEvents(w.Body)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range events[1:] {
		var task pelton.Task
		if err := json.Unmarshal([]byte(e.Data), &task); err != nil {
			t.Fatalf("data %q: %v", e.Data, err)
		}
		wantFits(t, "event "+e.ID, "Task", []byte(e.Data))
		if (e.Name == "progress") != (len(task.Payload) == 0) {
			t.Errorf("event %s %s: payload %s", e.ID, e.Name, task.Payload)
		}
		got = append(got, fmt.Sprint(e.ID, e.Name, task.State))
	}
	want := []string{"1statequeued", "3staterunning", "4progressrunning", "5progressrunning", "9statesucceeded"}
	if diff := cmp.Diff(want, got); diff != "" || events[0].Comment != "watching" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
	if last := events[len(events)-1].Data; !strings.Contains(last, "{\n \"to\":\n\"a@b.c\"}") {
		t.Errorf("payload with line feeds: %s", last)
	}
}

func TestEventsResume(t *testing.T) {
	t.Parallel()
	done := exampleTask(true)
	done.Revision = 9
	tasks := watchable(running(3, 1), running(4, 2), done)
	w := call(t, serve(t, tasks, nil), http.MethodGet, eventsPath(), "", "Last-Event-ID", "3")
	events, err := readEvents(w.Body)
	if err != nil || len(events) != 3 || events[1].ID != "4" || events[1].Name != "progress" || events[2].ID != "9" {
		t.Errorf("after 3: %+v, %v", events, err)
	}

	over := watchable()
	over.put(exampleTask(true)) // revision 3
	h := serve(t, over, nil)
	for last, status := range map[string]int{"3": 204, "4": 204, "x": 422, "-1": 422} {
		w := call(t, h, http.MethodGet, eventsPath(), "", "Last-Event-ID", last)
		if w.Code != status || status == 204 && w.Body.Len() > 0 {
			t.Errorf("Last-Event-ID %s of a task that is over: %d %s", last, w.Code, w.Body)
		}
	}
}

func TestEventsRefused(t *testing.T) {
	t.Parallel()
	tasks := watchable()
	h := serve(t, tasks, nil)
	wantProblem(t, call(t, h, http.MethodGet, "/tasks/x/events", ""), 422, kindInvalid)
	wantProblem(t, call(t, h, http.MethodGet, "/tasks/"+pelton.NewID(time.Now(), 0).String()+"/events", ""), 404, kindNotFound)
	wantProblem(t, call(t, h, http.MethodPost, eventsPath(), "{}"), 405, kindNotAllowed)
	if w := call(t, h, http.MethodHead, eventsPath(), ""); w.Code != 200 || w.Header().Get("Content-Type") != eventMediaType {
		t.Errorf("HEAD: %d %v", w.Code, w.Header())
	}
	tasks.err = pelton.ErrUnavailable
	wantProblem(t, call(t, h, http.MethodGet, eventsPath(), ""), 503, kindUnavailable)
}

// TestEventsEndOnAnError ends, without an event, when the record is gone.
func TestEventsEndOnAnError(t *testing.T) {
	t.Parallel()
	w := call(t, serve(t, watchable(exampleTask(false), nil), nil), http.MethodGet, eventsPath(), "")
	if events, err := readEvents(w.Body); err != nil || len(events) != 2 {
		t.Errorf("events = %+v, %v", events, err)
	}
}

// ended wraps tasks to tell when a Watch is over.
type ended struct {
	*fakeTasks
	over chan struct{}
}

func (e ended) Watch(ctx context.Context, id pelton.ID) iter.Seq2[*pelton.Task, error] {
	return func(yield func(*pelton.Task, error) bool) {
		defer close(e.over)
		e.fakeTasks.Watch(ctx, id)(yield)
	}
}

func askEvents(t *testing.T, conn net.Conn) {
	t.Helper()
	if _, err := io.WriteString(conn, "GET "+eventsPath()+" HTTP/1.1\r\nHost: localhost\r\n\r\n"); err != nil {
		t.Error(err)
	}
}

// TestEventsKeepAlive outlives the server's WriteTimeout.
func TestEventsKeepAlive(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		tasks := watchable(exampleTask(false))
		overPipe(t, serve(t, tasks, nil), func(conn net.Conn) {
			go func() {
				askEvents(t, conn)
				<-time.After(130 * time.Second)
				tasks.changes <- exampleTask(true)
			}()
			resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			events, err := readEvents(resp.Body)
			comments := 0
			for _, e := range events {
				if e.Comment == "still here" {
					comments++
				}
			}
			if err != nil || comments != 8 || len(events) != 11 || events[10].Name != "state" {
				t.Errorf("%d comments, events = %+v, %v", comments, events, err)
			}
		})
	})
}

// TestEventsDropASlowReader gives up on a reader that has stopped reading.
func TestEventsDropASlowReader(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		tasks := ended{watchable(exampleTask(false), running(2, 1)), make(chan struct{})}
		overPipe(t, serve(t, nil, func(c *Config) { c.Tasks = tasks }), func(conn net.Conn) {
			askEvents(t, conn)
			lines := bufio.NewReaderSize(conn, 16)
			for line := ""; line != "event: state\n"; {
				var err error
				if line, err = lines.ReadString('\n'); err != nil {
					t.Fatal(err)
				}
			}
			began := time.Now() // from here on, nothing is read
			<-tasks.over
			if took := time.Since(began); took != eventTimeout {
				t.Errorf("given up after %s", took)
			}
		})
	})
}

// TestEventsEndWithTheReader leaves nothing behind when the caller hangs up.
func TestEventsEndWithTheReader(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		tasks := ended{watchable(exampleTask(false)), make(chan struct{})}
		overPipe(t, serve(t, nil, func(c *Config) { c.Tasks = tasks }), func(conn net.Conn) {
			go askEvents(t, conn)
			resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatal(err)
			}
			_ = conn.Close()
			_ = resp.Body.Close()
			<-tasks.over
		})
	})
}
