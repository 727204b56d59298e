package e2e_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
)

const (
	// fuzzTimeEnv says how long the run over the document takes, instead of fuzzTime;
	// fuzzSeedEnv repeats the requests of another run, though not their timing.
	fuzzTimeEnv = "PELTON_FUZZ_TIME"
	fuzzSeedEnv = "PELTON_FUZZ_SEED"
	fuzzTime    = 4 * time.Second
	fuzzers     = 4
	// fuzzToken is the server's own: without one, the first token that the run makes would
	// close the API to the rest of it.
	fuzzToken = "fuzz-0123456789abcdef0123456789abcdef"
	// anonymous is of how many requests one has no token.
	anonymous = 30
)

// TestFuzzAPI makes requests from the OpenAPI document, such as it allows and such as it
// does not, and holds the answers against it: no 5xx and no panic, nothing accepted that
// the document forbids, nothing refused as malformed that it allows, and no answer that it
// does not have. PELTON_FUZZ_TIME=2m is the long form.
func TestFuzzAPI(t *testing.T) {
	t.Parallel()
	s := serve(t, "--demo", "--data", t.TempDir(), "--addr", "127.0.0.1:0", "--token", fuzzToken)
	length, seed := fuzzTime, rand.Uint64()
	if text := os.Getenv(fuzzTimeEnv); text != "" {
		var err error
		if length, err = time.ParseDuration(text); err != nil {
			t.Fatal(err)
		}
	}
	if text := os.Getenv(fuzzSeedEnv); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%s=%d", fuzzSeedEnv, seed)
	f := newFuzz(t, s)
	ctx, cancel := context.WithTimeout(t.Context(), length)
	defer cancel()
	var running sync.WaitGroup
	for i := range fuzzers {
		g := &generator{Rand: rand.New(rand.NewPCG(seed, uint64(i))), ops: f.ops, ids: f.known, dead: f.letters}
		running.Go(func() {
			for ctx.Err() == nil && !f.enough() {
				f.fire(t, g.shoot())
			}
		})
	}
	running.Wait()
	f.report(t, length)

	s.log.mu.Lock()
	defer s.log.mu.Unlock()
	for _, line := range s.log.lines {
		if strings.Contains(line, `"request panicked"`) || strings.Contains(line, `"request failed"`) {
			t.Errorf("logged: %s", line)
		}
	}
}

// fuzz is one run.
type fuzz struct {
	*server

	doc    *openapi3.T
	ops    []operation
	client *http.Client
	fired  atomic.Int64

	mu       sync.Mutex
	ids      []string       // of tasks that were answered, the last ones
	dead     []string       // of dead letters
	answers  map[string]int // by operation and status
	failures int
}

// maxFuzzFailures ends a run: what follows tells nothing new.
const maxFuzzFailures = 20

func newFuzz(t *testing.T, s *server) *fuzz {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.url+"/openapi-3.0.json", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+fuzzToken)
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s %v", resp.Status, err)
	}
	f := &fuzz{server: s, answers: make(map[string]int)}
	if f.doc, err = openapi3.NewLoader().LoadFromData(text); err != nil {
		t.Fatal(err)
	}
	for _, path := range f.doc.Paths.InMatchingOrder() {
		item := f.doc.Paths.Value(path)
		for _, method := range slices.Sorted(maps.Keys(item.Operations())) {
			f.ops = append(f.ops, operation{method, path, item, item.Operations()[method]})
		}
	}
	f.client = &http.Client{
		Timeout:       30 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport:     &http.Transport{MaxIdleConnsPerHost: fuzzers},
	}
	t.Cleanup(f.client.CloseIdleConnections)
	return f
}

func (f *fuzz) known() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.ids)
}

func (f *fuzz) letters() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.dead)
}

func (f *fuzz) enough() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.failures >= maxFuzzFailures
}

func (f *fuzz) fail(t *testing.T, format string, args ...any) {
	t.Helper()
	f.mu.Lock()
	f.failures++
	f.mu.Unlock()
	t.Errorf(format, args...)
}

var taskID = regexp.MustCompile(`"id":"([0-9a-f-]{36})"`)

// fire makes a request and judges the answer.
func (f *fuzz) fire(t *testing.T, s *shot) {
	ctx := t.Context()
	if strings.HasSuffix(s.path, "/events") { // it may last
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, 200*time.Millisecond)
		defer cancel()
	}
	req, err := http.NewRequestWithContext(ctx, s.method, f.url+s.target, bytes.NewReader(s.body))
	if err != nil {
		f.fail(t, "%s: %v", s, err)
		return
	}
	for name, value := range s.header {
		req.Header.Set(name, value)
	}
	if f.fired.Add(1)%anonymous != 0 {
		req.Header.Set("Authorization", "Bearer "+fuzzToken)
	}
	resp, err := f.client.Do(req)
	if err != nil {
		if ctx.Err() == nil {
			f.fail(t, "%s: %v", s, err)
		}
		return
	}
	defer func() { _ = resp.Body.Close() }()
	answer, err := io.ReadAll(resp.Body)
	if err != nil && ctx.Err() == nil {
		f.fail(t, "%s: %v", s, err)
		return
	}
	f.note(s, resp.StatusCode, answer)
	f.judge(t, s, resp, answer)
}

func (f *fuzz) note(s *shot, status int, answer []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.answers[fmt.Sprintf("%s %s %d", s.method, s.path, status)]++
	m := taskID.FindSubmatch(answer)
	if m == nil || status >= 300 || len(answer) >= 1<<16 {
		return
	}
	switch {
	case s.path == "/dead":
		f.dead = append(f.dead, string(m[1]))
		f.dead = f.dead[max(0, len(f.dead)-5):]
	case strings.HasPrefix(s.path, "/tasks"):
		f.ids = append(f.ids, string(m[1]))
		f.ids = f.ids[max(0, len(f.ids)-50):]
	}
}

func (f *fuzz) judge(t *testing.T, s *shot, resp *http.Response, answer []byte) {
	status := resp.StatusCode
	forbidden := f.forbidden(s)
	if s.path == "/tasks/batch" && status == http.StatusOK && forbidden != nil {
		forbidden = f.forbiddenItem(s, answer)
	}
	switch {
	case status >= 500:
		f.fail(t, "%s: %d %s", s, status, answer)
	case s.broken && status < 400:
		f.fail(t, "%s: a malformed request is accepted: %d %.300s", s, status, answer)
	case forbidden != nil && status < 400:
		f.fail(t, "%s: accepted with %d, and the document forbids it: %v", s, status, firstLine(forbidden))
	case forbidden == nil && !s.broken && (status == 400 || status == 405 || status == 415 || status == 413):
		f.fail(t, "%s: the document allows it, and it is refused: %d %s", s, status, answer)
	}
	if err := f.undocumented(s, resp, answer); err != nil {
		f.fail(t, "%s: %d %.600s: an answer that the document does not have: %v", s, status, answer, firstLine(err))
	}
}

func firstLine(err error) string {
	line, _, _ := strings.Cut(err.Error(), "\nSchema:")
	return line
}

// input is the request as the document's validator takes it.
func (f *fuzz) input(s *shot) (*openapi3filter.RequestValidationInput, error) {
	req, err := http.NewRequest(s.method, f.url+s.target, bytes.NewReader(s.body))
	if err != nil {
		return nil, err
	}
	for name, value := range s.header {
		req.Header.Set(name, value)
	}
	return &openapi3filter.RequestValidationInput{
		Request: req, PathParams: s.pathParams,
		Route:   &routers.Route{Spec: f.doc, Path: s.path, PathItem: s.item, Method: s.method, Operation: s.op},
		Options: &openapi3filter.Options{SkipSettingDefaults: true, AuthenticationFunc: openapi3filter.NoopAuthenticationFunc},
	}, nil
}

// forbidden says why the document forbids a request, or is nil.
func (f *fuzz) forbidden(s *shot) error {
	input, err := f.input(s)
	if err != nil {
		return err
	}
	return openapi3filter.ValidateRequest(context.Background(), input)
}

// forbiddenItem says which task of a batch was accepted and is none that the document
// allows: a batch is not atomic, and each task has an answer of its own.
func (f *fuzz) forbiddenItem(s *shot, answer []byte) error {
	var request struct{ Tasks []any }
	var answers struct{ Items []struct{ Status int } }
	if err := errors.Join(json.Unmarshal(s.body, &request), json.Unmarshal(answer, &answers)); err != nil {
		return err
	}
	if len(request.Tasks) != len(answers.Items) {
		return fmt.Errorf("%d tasks have %d answers", len(request.Tasks), len(answers.Items))
	}
	schema := f.doc.Components.Schemas["BatchRequest"].Value.Properties["tasks"].Value.Items.Value
	for i, task := range request.Tasks {
		if err := schema.VisitJSON(task); err != nil && answers.Items[i].Status < 400 {
			return fmt.Errorf("task %d: %w", i, err)
		}
	}
	return nil
}

// undocumented says why an answer is none of the document's, or is nil.
func (f *fuzz) undocumented(s *shot, resp *http.Response, answer []byte) error {
	input, err := f.input(s)
	if err != nil {
		return err
	}
	input.Options.IncludeResponseStatus = true
	media, _, _ := strings.Cut(resp.Header.Get("Content-Type"), ";")
	input.Options.ExcludeResponseBody = len(answer) == 0 || media != "application/json" && media != "application/problem+json"
	out := &openapi3filter.ResponseValidationInput{RequestValidationInput: input, Status: resp.StatusCode, Header: resp.Header, Options: input.Options}
	err = openapi3filter.ValidateResponse(context.Background(), out.SetBodyBytes(answer))
	var wrong *openapi3filter.ResponseError
	if errors.As(err, &wrong) && resp.StatusCode == http.StatusPermanentRedirect {
		return nil
	}
	return err
}

// report says what was answered, and that a run came to all calls and both sorts of
// answers.
func (f *fuzz) report(t *testing.T, length time.Duration) {
	t.Helper()
	all, refused, good := 0, 0, make(map[string]int)
	var lines []string
	for _, key := range slices.Sorted(maps.Keys(f.answers)) {
		n := f.answers[key]
		all += n
		lines = append(lines, fmt.Sprintf("%7d  %s", n, key))
		switch call, status, _ := cutLast(key); {
		case status < "4":
			good[call] += n
		case status == "401":
			refused += n
		}
	}
	t.Logf("%d requests in %s:\n%s", all, length, strings.Join(lines, "\n"))
	if all < 200 || refused > all/10 {
		t.Errorf("%d requests were made, and %d of them refused for want of a token", all, refused)
	}
	if length < time.Minute || t.Failed() {
		return
	}
	var missed []string
	for _, op := range f.ops {
		if call := op.method + " " + op.path; good[call] == 0 {
			missed = append(missed, call)
		}
	}
	// Nobody takes locks here, and dead letters are purged as fast as they come.
	if t.Logf("never answered well: %q", missed); len(missed) > len(f.ops)/8 {
		t.Errorf("%d of %d calls were never answered well", len(missed), len(f.ops))
	}
}

func cutLast(s string) (before, after string, found bool) {
	i := strings.LastIndexByte(s, ' ')
	return s[:max(i, 0)], s[i+1:], i >= 0
}
