package api

import (
	"bufio"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/peltonq/pelton"
)

func TestBudgetIsNeverExceeded(t *testing.T) {
	t.Parallel()
	const most = 100
	b := NewBudget(most)
	var held, refused atomic.Int64
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for n := range int64(2000) {
				size := 1 + (n*7+int64(i))%60
				if !b.take(size, most) {
					refused.Add(1)
					continue
				}
				if got := held.Add(size); got > most {
					t.Errorf("%d are held of %d", got, most)
				}
				runtime.Gosched()
				held.Add(-size)
				b.give(size)
			}
		})
	}
	all.Wait()
	if b.InUse() != 0 || b.Refused() != refused.Load() || refused.Load() == 0 || b.Most() != most {
		t.Errorf("in the end %d of %d in use, %d refused; counted %d", b.InUse(), b.Most(), b.Refused(), refused.Load())
	}
}

// bounded is the API over tasks, with budgets.
func bounded(t *testing.T, tasks *fakeTasks, memory, held int64) (h http.Handler, m, w *Budget) {
	t.Helper()
	m, w = NewBudget(memory), NewBudget(held)
	h = serve(t, tasks, func(c *Config) { c.Memory, c.Held = m, w })
	t.Cleanup(func() {
		if m.InUse() != 0 || w.InUse() != 0 {
			t.Errorf("%d bytes and %d answers are held when all is over", m.InUse(), w.InUse())
		}
	})
	return h, m, w
}

// wantBusy checks for a 503 that says when to come again.
func wantBusy(t *testing.T, w *httptest.ResponseRecorder) {
	t.Helper()
	wantProblem(t, w, http.StatusServiceUnavailable, kindUnavailable)
	if got := w.Header().Get("Retry-After"); got != "1" {
		t.Errorf("Retry-After = %q", got)
	}
}

// counted counts what is read of a body.
type counted struct {
	io.Reader

	n int64
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n += int64(n)
	return n, err
}

// While there is little room, a batch is refused, before its body is read into
// memory, and a single task is not.
func TestBatchesLeaveRoomForTasks(t *testing.T) {
	t.Parallel()
	h, memory, _ := bounded(t, newFakeTasks(), 64<<20, 10)
	free := int64(1 << 20)
	memory.take(memory.forBatch()-free, memory.most)
	defer memory.give(memory.forBatch() - free)

	item := `{"kind":"a","payload":"` + strings.Repeat("x", 200_000) + `"}`
	batch := `{"tasks":[` + item + `,` + item + `]}`
	for _, length := range []int64{int64(len(batch)), -1} { // announced, and chunked
		before := memory.Refused()
		body := &counted{Reader: strings.NewReader(batch)}
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/tasks/batch", body)
		r.Host, r.ContentLength = "localhost", length
		r.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		var peak int64
		body.Reader = io.TeeReader(body.Reader, writerFunc(func(p []byte) (int, error) {
			peak = max(peak, memory.InUse())
			return len(p), nil
		}))
		h.ServeHTTP(w, r)
		wantBusy(t, w)
		if memory.Refused() != before+1 || peak > memory.forBatch() {
			t.Errorf("length %d: %d refused, at most %d of %d in use", length, memory.Refused()-before, peak, memory.forBatch())
		}
		if length > 0 && peak > memory.forBatch()-free {
			t.Errorf("%d bytes were claimed for a body that could not fit", peak-memory.forBatch()+free)
		}
		if body.n != int64(len(batch)) || w.Header().Get("Connection") == "close" {
			t.Errorf("%d of %d bytes read: the caller would find its connection lost", body.n, len(batch))
		}
	}
	if w := call(t, h, http.MethodPost, "/tasks", item); w.Code != http.StatusAccepted {
		t.Errorf("a single task: %d %s", w.Code, w.Body)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func TestBodyThatNeverFits(t *testing.T) {
	t.Parallel()
	h, _, _ := bounded(t, newFakeTasks(), MinMemory, 10)
	w := call(t, h, http.MethodPost, "/tasks/batch", strings.Repeat(" ", MinMemory/bodyWeight)+"{}")
	wantProblem(t, w, http.StatusRequestEntityTooLarge, kindTooLarge)
	if w := call(t, h, http.MethodPost, "/tasks", `{"kind":"a","payload":"`+strings.Repeat("x", 200_000)+`"}`); w.Code != http.StatusAccepted {
		t.Errorf("a large task: %d %s", w.Code, w.Body)
	}
}

// Bodies arrive whole through the steps in which they are read.
func TestBodiesOfAllSizes(t *testing.T) {
	t.Parallel()
	h, _, _ := bounded(t, newFakeTasks(), DefaultMemory, 10)
	for _, size := range []int{0, 1, firstRead - 1, firstRead, firstRead + 1, 2 * firstRead, 3*firstRead - 7, 200_000} {
		for _, chunked := range []bool{false, true} {
			payload := `"` + strings.Repeat("x", size) + `"`
			r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/tasks", strings.NewReader(`{"kind":"a","payload":`+payload+`}`))
			r.Host = "localhost"
			r.Header.Set("Content-Type", "application/json")
			if chunked {
				r.ContentLength = -1
			}
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			if got := decodeTask(t, w).Payload; string(got) != payload {
				t.Errorf("a payload of %d bytes (chunked %t) came back as %d", len(payload), chunked, len(got))
			}
		}
	}
}

// Who announces a large body and does not send it holds no memory.
func TestSlowSendersKeepNobodyOut(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		memory := NewBudget(MinMemory)
		overPipe(t, serve(t, newFakeTasks(), func(c *Config) { c.Memory = memory }), func(conn net.Conn) {
			if _, err := fmt.Fprint(conn, "POST /tasks HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 1000000\r\n\r\n{\"kind\":"); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			if got := memory.InUse(); got == 0 || got > bodyWeight*firstRead {
				t.Errorf("%d bytes are held for the 8 that came", got)
			}
			resp, err := http.ReadResponse(bufio.NewReader(conn), nil) // at the deadline of the body
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
			time.Sleep(time.Second) // net/http lingers for half of it, lest the answer get lost
			synctest.Wait()
			if got := memory.InUse(); resp.StatusCode != http.StatusRequestTimeout || got != 0 {
				t.Errorf("status %d; %d bytes are held after it", resp.StatusCode, got)
			}
		})
	})
}

// Pages of dead letters are claimed before they are read.
func TestPagesAreBounded(t *testing.T) {
	t.Parallel()
	h, memory, _ := bounded(t, newFakeTasks(), 64<<20, 10)
	memory.take(memory.forBatch()-(4<<20), memory.most)
	defer memory.give(memory.forBatch() - (4 << 20))
	wantBusy(t, call(t, h, http.MethodGet, "/dead", ""))
	if w := call(t, h, http.MethodGet, "/dead?limit=2", ""); w.Code != http.StatusOK {
		t.Errorf("a short page: %d %s", w.Code, w.Body)
	}
}

// What a request held is given back when it panics.
func TestPanicGivesBack(t *testing.T) {
	t.Parallel()
	s := &server{Config: Config{Memory: NewBudget(MinMemory), Held: NewBudget(1), Logger: slog.New(slog.DiscardHandler)}}
	h := s.catch(s.account(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if err := claimOf(r.Context()).hold(1000); err != nil {
			t.Error(err)
		}
		panic("on purpose")
	})))
	wantProblem(t, call(t, h, http.MethodGet, "/", ""), http.StatusInternalServerError, kindInternal)
	if s.Memory.InUse() != 0 || s.Held.InUse() != 0 {
		t.Errorf("%d bytes and %d answers are held", s.Memory.InUse(), s.Held.InUse())
	}
}

// Who asks before it sends a large body is answered before it does.
func TestRefusedBeforeItIsSent(t *testing.T) {
	t.Parallel()
	memory := NewBudget(MinMemory)
	memory.take(MinMemory, MinMemory)
	h := serve(t, newFakeTasks(), func(c *Config) { c.Memory = memory })
	for _, path := range []string{"/tasks", "/tasks/batch"} {
		overPipe(t, h, func(conn net.Conn) {
			const request = "POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nExpect: 100-continue\r\nContent-Length: 900000\r\n\r\n"
			if status := exchange(t, conn, fmt.Sprintf(request, path)); status != http.StatusServiceUnavailable {
				t.Errorf("%s: status %d", path, status)
			}
		})
	}
}

// A batch has the room that it announced for a moment, and then for what came.
func TestReservationsEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const announced = 1 << 20
		memory := NewBudget(MinMemory)
		overPipe(t, serve(t, newFakeTasks(), func(c *Config) { c.Memory = memory }), func(conn net.Conn) {
			if _, err := fmt.Fprintf(conn, "POST /tasks/batch HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n{\"tasks\":[", announced); err != nil {
				t.Fatal(err)
			}
			time.Sleep(reserveFor - time.Nanosecond)
			synctest.Wait()
			if got := memory.InUse(); got != bodyWeight*(announced+1) {
				t.Errorf("%d bytes are held at first", got)
			}
			time.Sleep(time.Nanosecond)
			synctest.Wait()
			if got := memory.InUse(); got != bodyWeight*firstRead {
				t.Errorf("%d bytes are held later on", got)
			}
			// The rest comes after all.
			if _, err := io.WriteString(conn, `{"kind":"a"}]}`+strings.Repeat(" ", announced-len(`{"tasks":[{"kind":"a"}]}`))); err != nil {
				t.Fatal(err)
			}
			resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
			synctest.Wait()
			if got := memory.InUse(); resp.StatusCode != http.StatusOK || got != 0 {
				t.Errorf("status %d; %d bytes are held after it", resp.StatusCode, got)
			}
		})
	})
}

// A batch holds more than its body: a thousand small tasks are a thousand tasks.
func TestSmallTasksOfABatchAreWeighed(t *testing.T) {
	t.Parallel()
	tasks := newFakeTasks()
	h, memory, _ := bounded(t, tasks, 64<<20, 10)
	batch := `{"tasks":[` + strings.Repeat(`{"kind":"a"},`, 999) + `{"kind":"a"}]}`
	full := memory.forBatch() - 1000*itemBytes
	memory.take(full, memory.most)
	wantBusy(t, call(t, h, http.MethodPost, "/tasks/batch", batch))
	if got := len(tasks.accepted()); got > 0 {
		t.Errorf("%d tasks were accepted", got)
	}
	memory.give(full)
	if w := call(t, h, http.MethodPost, "/tasks/batch", batch); w.Code != http.StatusOK || len(tasks.accepted()) != 1000 {
		t.Errorf("with room: %d, %d accepted", w.Code, len(tasks.accepted()))
	}
}

// Names cost more memory than their text: a body that is all names is refused
// before they are remembered, and the largest payload of names is not.
func TestNamesAreBounded(t *testing.T) {
	t.Parallel()
	h, _, _ := bounded(t, newFakeTasks(), DefaultMemory, 10)
	object := func(open string, each func(i int) string, size int) string {
		var b strings.Builder
		b.WriteString(open)
		for i := 0; b.Len() < size; i++ {
			if i > 0 {
				b.WriteByte(',')
			}
			b.WriteString(each(i))
		}
		return b.String() + "}"
	}
	name := func(i int) string { return `"` + strconv.FormatInt(int64(i), 36) + `":1` }
	many := object("{", name, 1<<20)
	body := `{"tasks":[{"kind":"a","payload":` + many + `}]}`
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if w := call(t, h, http.MethodPost, "/tasks/batch", body); w.Code != http.StatusRequestEntityTooLarge {
		t.Errorf("%d names: %d %.200s", strings.Count(many, ":"), w.Code, w.Body)
	}
	runtime.ReadMemStats(&after)
	t.Logf("%d KiB of body, %d KiB allocated in the process", len(body)>>10, (after.TotalAlloc-before.TotalAlloc)>>10)

	largest := object("{", name, pelton.MaxPayload-16)
	if w := call(t, h, http.MethodPost, "/tasks", `{"kind":"a","payload":`+largest+`}`); w.Code != http.StatusAccepted {
		t.Errorf("a payload with %d names: %d %.200s", strings.Count(largest, ":"), w.Code, w.Body)
	}
	for text, want := range map[string]bool{
		many: true,
		strings.Repeat(many[:600_000]+`,"x":{`, 2):                                      true, // together with those around
		"[" + strings.Repeat(`{"a":{"b":":"}},`, 100_000) + "1]":                        false,
		`{"a":"` + strings.Repeat(`:\":`, 100_000) + `"}`:                               false,
		strings.Repeat("]}", 100) + strings.Repeat("[", 100) + strings.Repeat("{", 100): false,
	} {
		if got := crowded([]byte(text)); got != want {
			t.Errorf("crowded(%.40s…) = %t", text, got)
		}
	}
}
