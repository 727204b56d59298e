package e2e_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/peltonq/pelton"
)

// readTestdata reads a file of testdata, which testdata/README.md explains.
func readTestdata(t *testing.T, name string, into any) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, into); err != nil {
		t.Fatal(err)
	}
}

// hostilePayloads are texts with what they are: true is JSON, false is none, and nil is
// what may be either.
func hostilePayloads(t *testing.T) map[string]*bool {
	t.Helper()
	yes, no := true, false
	var suite map[string]string
	readTestdata(t, "jsontestsuite.json", &suite)
	all := make(map[string]*bool)
	for name, text := range suite {
		switch {
		case strings.Contains(name, "duplicated_key"), strings.HasPrefix(name, "n_"):
			all[text] = &no
		case strings.HasPrefix(name, "y_"):
			all[text] = &yes
		default:
			all[text] = nil
		}
	}
	var naughty []string
	readTestdata(t, "blns.json", &naughty)
	for _, text := range naughty {
		quoted, err := json.Marshal(text)
		if err != nil {
			t.Fatal(err)
		}
		all[string(quoted)] = &yes
	}
	for text, is := range map[string]bool{
		`{"a": 1.0, "b":1e5,"c" :1E+05, "d":-0, "<é>&":"<\u00e9>\/"}`: true, // nothing is written otherwise
		"{\r\n\t\"a\" : [ ]\n}": true, `1e400`: true, `-0.0000000000000000001e-999`: true, `123456789012345678901234567890.10`: true,
		`"\u0000\u001f\u007f"`: true, `"\ud83d\ude00😀"`: true, "\"\u2028\u2029\"": true, `""`: true, `null`: true,
		strings.Repeat("[", 62) + strings.Repeat("]", 62): true, strings.Repeat("[", 100_000): false, strings.Repeat(`[{"":`, 50_000): false,
		strings.Repeat("[", 64) + strings.Repeat("]", 64):    false,
		`"` + strings.Repeat("x", pelton.MaxPayload-2) + `"`: true,
		"\"\xff\"": false, "\"\xed\xa0\x80\"": false, "\"\xc0\xaf\"": false, "\"\xf4\x90\x80\x80\"": false, "\xef\xbb\xbf1": false, "[\"a\"\x00]": false,
		`{"a":1,"a":2}`: false, `{"a":{"b":1,"\u0062":2}}`: false, `1,"queue":"other","kind":"x"`: false, `1}{"kind":"x"`: false,
	} {
		all[text] = &is
	}
	return all
}

// Valid JSON comes back byte for byte, as payload and as result; what is none is 400, and
// is not enqueued.
func TestHostilePayloads(t *testing.T) {
	t.Parallel()
	s := serve(t, "--demo", "--data", t.TempDir(), "--addr", "127.0.0.1:0")
	payloads := hostilePayloads(t)
	if len(payloads) < 750 {
		t.Fatalf("%d payloads", len(payloads))
	}
	var mu sync.Mutex
	accepted := make(map[string]bool)
	work := make(chan string)
	var working sync.WaitGroup
	for range 4 {
		working.Go(func() {
			for text := range work {
				if id := s.throwPayload(t, text, payloads[text]); id != "" {
					mu.Lock()
					accepted[id] = true
					mu.Unlock()
				}
			}
		})
	}
	for text := range payloads {
		work <- text
	}
	close(work)
	working.Wait()

	listed := make(map[string]bool)
	for cursor := ""; ; {
		status, _, answer, err := call(t.Context(), http.MethodGet, s.url+"/tasks?limit=500&cursor="+cursor, "")
		var page struct {
			Items      []struct{ ID string }
			NextCursor string `json:"next_cursor"`
		}
		if err != nil || status != http.StatusOK || json.Unmarshal(answer, &page) != nil {
			t.Fatalf("list: %d %.300s %v", status, answer, err)
		}
		for _, item := range page.Items {
			if !accepted[item.ID] {
				t.Errorf("task %s is there, and no answer said so", item.ID)
			}
			listed[item.ID] = true
		}
		if cursor = page.NextCursor; cursor == "" {
			break
		}
	}
	if len(listed) != len(accepted) || len(accepted) < 550 {
		t.Errorf("%d tasks were accepted, %d are there", len(accepted), len(listed))
	}
}

// throwPayload posts a payload to demo.echo, and is the task's id if it was accepted.
func (s *server) throwPayload(t *testing.T, text string, is *bool) (id string) {
	status, _, answer, err := call(t.Context(), http.MethodPost, s.url+"/tasks?wait=20s", `{"kind":"demo.echo","payload":`+text+`}`)
	if err != nil {
		t.Errorf("%.200q: %v", text, err)
		return ""
	}
	switch {
	case status == http.StatusOK && (is == nil || *is):
	case status == http.StatusBadRequest && (is == nil || !*is):
		return ""
	default:
		t.Errorf("%.200q: %d %.300s", text, status, answer)
		return ""
	}
	want := strings.Trim(text, " \t\r\n")
	if !bytes.HasSuffix(answer, []byte(`,"payload":`+want+`,"result":`+want+"}\n")) {
		t.Errorf("%.200q comes back as %.600q", text, answer)
	}
	var task struct{ ID, State string }
	if err := json.Unmarshal(answer, &task); err != nil || task.State != "succeeded" {
		t.Errorf("%.200q: %s %v", text, task.State, err)
	}
	status, _, again, err := call(t.Context(), http.MethodGet, s.url+"/tasks/"+task.ID, "")
	if err != nil || status != http.StatusOK || !bytes.Equal(again, answer) {
		t.Errorf("%.200q: read as %.600q, %d, %v", text, again, status, err)
	}
	return task.ID
}

var (
	queueName = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,63}$`)
	kindName  = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.:/-]{0,127}$`)
)

// isKey reports whether a text can be a key or a label's value.
func isKey(s string) bool {
	return len(s) <= 256 && utf8.ValidString(s) && !strings.ContainsFunc(s, unicode.IsControl)
}

// hostileTexts are texts to use as names.
func hostileTexts(t *testing.T) []string {
	t.Helper()
	var all []string
	readTestdata(t, "blns.json", &all)
	all = append(all, "*", ">", "a.*", "a.>", "default.*", "default.>", "default.high", "$JS.API.STREAM.DELETE.pelton_TASKS_0", "$KV.pelton_CONFIG.x",
		"a\r\nPUB x 1", "a b", "\x00", "a\x00b", ".a", "a.", "a..b", "..", ".", "/", "//", "a/../b", "%2e%2e", "%00", "_probe", "_", "-", "Ünï", "ｄefault",
		strings.Repeat("a", 64), strings.Repeat("a", 65), strings.Repeat("k", 128), strings.Repeat("k", 129), strings.Repeat("v", 256), strings.Repeat("v", 257),
		strings.Repeat("ü", 128), strings.Repeat("ü", 129), strings.Repeat("9", 5000))
	if raceEnabled { // a fifth as fast
		all = slices.DeleteFunc(all, func(s string) bool { return len(s)%4 == 3 })
	}
	return all
}

// Names, keys, labels, headers and query values of all sorts: what the rules allow is kept
// as it is, the rest is refused, nothing fails, and nothing becomes a subject that is no
// name.
func TestHostileNames(t *testing.T) {
	t.Parallel()
	s := serve(t, "--demo", "--data", t.TempDir(), "--addr", "127.0.0.1:0", "--nats-listen", "127.0.0.1:0", "--nats-token", "secret")
	texts := hostileTexts(t)
	work := make(chan int)
	var working sync.WaitGroup
	for range 4 {
		working.Go(func() {
			for i := range work {
				s.throwName(t, texts[i])
				s.throwElsewhere(t, texts[i], i)
			}
		})
	}
	for i := range texts {
		work <- i
	}
	close(work)
	working.Wait()
	s.checkSubjects(t)
}

// throwName uses a text wherever a name or a value may stand.
func (s *server) throwName(t *testing.T, text string) {
	quoted, err := json.Marshal(text)
	if err != nil {
		t.Error(err)
		return
	}
	for _, in := range []struct {
		body string
		good bool
	}{
		{`{"kind":%s}`, kindName.MatchString(text)},
		{`{"kind":"demo.echo","queue":%s}`, queueName.MatchString(text)},
		{`{"kind":"demo.echo","priority":%s}`, false},
		{`{"kind":"demo.echo","labels":{%s:"x"}}`, kindName.MatchString(text)},
		{`{"kind":"demo.echo","labels":{"a":%s}}`, isKey(text)},
		{`{"kind":"demo.echo","unique":{"key":%s,"on_conflict":"existing"}}`, isKey(text) && text != ""},
		{`{"kind":"demo.echo","concurrency_key":%s,"rate_key":%[1]s}`, isKey(text) && text != ""},
		{`{%s:1,"kind":"demo.echo"}`, false},
	} {
		body := fmt.Sprintf(in.body, quoted)
		status, _, answer, err := call(t.Context(), http.MethodPost, s.url+"/tasks", body)
		good := status == http.StatusAccepted || status == http.StatusOK
		if err != nil || good != in.good || !good && (status < 400 || status >= 500) {
			t.Errorf("%.300q: %d %.300s %v, accepted is to be %t", body, status, answer, err, in.good)
		}
		if good && text != "" && !bytes.Contains(answer, quoted) && !strings.Contains(decoded(answer), text) {
			t.Errorf("%.300q comes back as %.600s", body, answer)
		}
	}
}

// throwElsewhere uses a text in some of the paths, queries and headers: which, turn says.
// All texts are used in a sixth of them, and each of them gets a sixth of the texts.
func (s *server) throwElsewhere(t *testing.T, text string, turn int) {
	escaped, param := url.PathEscape(text), url.QueryEscape(text)
	next := func() bool {
		turn++
		return turn%6 == 0
	}
	paths := []string{
		"GET /tasks/" + escaped, "GET /tasks/x/" + escaped, "GET /dead/" + escaped, "GET /queues/" + escaped, "GET /schedules/" + escaped,
		"POST /queues/" + escaped + "/pause", "POST /queues/" + escaped + "/resume", "DELETE /limits/" + escaped, "DELETE /locks/" + escaped,
		"PUT /limits/" + escaped, "PUT /schedules/" + escaped, "POST /queues/default/purge?cursor=" + param,
		"GET /tasks?" + param + "=" + param, "GET /tasks?label." + param + "=x",
	}
	for _, query := range []string{
		"/tasks?state=", "/tasks?queue=", "/tasks?kind=", "/tasks?priority=", "/tasks?error=", "/tasks?since=", "/tasks?limit=", "/tasks?cursor=",
		"/tasks?state=queued&cursor=", "/tasks?label.a=", "/dead?error=", "/dead?limit=", "/dead?cursor=", "/locks?name=", "/schedules?owner=", "/queues?cursor=",
	} {
		paths = append(paths, "GET "+query+param)
	}
	for _, call := range paths {
		method, target, _ := strings.Cut(call, " ")
		body := ""
		switch {
		case strings.HasPrefix(call, "PUT /limits"):
			body = `{"kind":"k","max_running":1}`
		case strings.HasPrefix(call, "PUT /schedules"):
			body = `{"every":"24h","task":{"kind":"k"}}`
		}
		if next() {
			s.throw(t, method, target, nil, body)
		}
	}
	id := "/tasks/0199b0c0-0000-8000-8000-000000000000"
	for _, in := range [][2]string{
		{"If-None-Match", id},
		{"Last-Event-ID", id + "/events"},
		{"Accept", "/queues"},
		{"Authorization", "/queues"},
		{"Prefer", id},
		{"If-Match", "/schedules/none"},
		{"X-Forwarded-For", "/healthz"},
		{"Cookie", "/workers"},
		{"Origin", "/docs"},
		{"Idempotency-Key", "/tasks"},
		{"Content-Type", "/tasks/cancel"},
	} {
		if !next() {
			continue
		}
		method, body := http.MethodGet, ""
		if in[0] == "Idempotency-Key" || in[0] == "Content-Type" {
			method, body = http.MethodPost, `{"kind":"demo.echo","dry_run":true}`
		}
		s.throw(t, method, in[1], map[string]string{in[0]: text}, body)
	}
}

func decoded(answer []byte) string {
	var v any
	_ = json.Unmarshal(answer, &v) // what is none has no text in it
	return fmt.Sprint(v)
}

// throw makes a request that may be answered by anything but a failure.
func (s *server) throw(t *testing.T, method, target string, header map[string]string, body string) {
	req, err := http.NewRequestWithContext(t.Context(), method, s.url+target, strings.NewReader(body))
	if err != nil {
		t.Errorf("%s %.200q: %v", method, target, err)
		return
	}
	req.Header.Set("Content-Type", "application/json")
	for name, value := range header {
		value = strings.Map(func(r rune) rune {
			if r < ' ' || r == 0x7f {
				return -1 // no client sends it
			}
			return r
		}, value)
		req.Header.Set(name, value)
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Errorf("%s %.200q %.200q: %v", method, target, header, err)
		return
	}
	defer func() { _ = resp.Body.Close() }()
	answer, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode >= 500 || resp.StatusCode < 200 {
		t.Errorf("%s %.200q %.200q %s: %d %.300s %v", method, target, header, body, resp.StatusCode, answer, err)
	}
	if value := resp.Header.Get("X-Evil"); value != "" {
		t.Errorf("%s %.200q wrote a header", method, target)
	}
}

// checkSubjects holds every subject that the broker stores against what names can make.
func (s *server) checkSubjects(t *testing.T) {
	t.Helper()
	js := s.jetStream(t, nats.Token("secret"))
	token := regexp.MustCompile(`^[-/_=A-Za-z0-9$]+$`)
	ready := regexp.MustCompile(`^pelton\.t\.0\.r\.[a-z0-9][a-z0-9_-]{0,63}\.(critical|high|normal|low)$`)
	all := 0
	names := js.StreamNames(t.Context())
	for name := range names.Name() {
		stream, err := js.Stream(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		info, err := stream.Info(t.Context(), jetstream.WithSubjectFilter(">"))
		if err != nil {
			t.Fatal(err)
		}
		for subject := range info.State.Subjects {
			all++
			for part := range strings.SplitSeq(subject, ".") {
				if !token.MatchString(part) {
					t.Errorf("stream %s has the subject %q", name, subject)
				}
			}
			if strings.HasPrefix(subject, "pelton.t.0.r.") && !ready.MatchString(subject) {
				t.Errorf("stream %s has the subject %q", name, subject)
			}
		}
	}
	if names.Err() != nil || all < 500 {
		t.Errorf("%d subjects, %v", all, names.Err())
	}
}
