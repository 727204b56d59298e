package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/peltonq/pelton/admin"
	"github.com/peltonq/pelton/internal/redistest"
)

// examine runs "doctor" and gives its findings by check; the worst counts where there
// are several.
func examine(t *testing.T, want int, args ...string) map[string]finding {
	t.Helper()
	var stdout, stderr bytes.Buffer
	all := append([]string{"doctor", "-o", "jsonl"}, args...)
	if code := Main(t.Context(), all, strings.NewReader(""), &stdout, &stderr, nil); code != want {
		t.Fatalf("code %d, want %d\n%s%s", code, want, &stdout, &stderr)
	}
	found := make(map[string]finding)
	for line := range strings.Lines(stdout.String()) {
		var f finding
		if err := json.Unmarshal([]byte(line), &f); err != nil {
			t.Fatal(err)
		}
		if f.Message == "" || (f.Advice == "") != (f.Verdict == verdictOK) {
			t.Errorf("%+v", f)
		}
		if before, twice := found[f.Check]; !twice || f.Verdict != verdictOK && before.Verdict != verdictFail {
			found[f.Check] = f
		}
	}
	return found
}

func wantFinding(t *testing.T, found map[string]finding, check string, v verdict, text string) {
	t.Helper()
	f, there := found[check]
	if !there || f.Verdict != v || !strings.Contains(f.Message, text) {
		t.Errorf("%s: %+v, want %s with %q", check, f, v, text)
	}
}

// brokenBroker is a NATS server that is not as Pelton would have it.
func brokenBroker(t *testing.T, change func(*natsserver.Options)) *natsserver.Server {
	t.Helper()
	opts := &natsserver.Options{Host: "127.0.0.1", Port: -1, JetStream: true, StoreDir: t.TempDir(), NoLog: true, NoSigs: true}
	change(opts)
	ns, err := natsserver.NewServer(opts)
	if err != nil {
		t.Fatal(err)
	}
	ns.Start()
	t.Cleanup(func() {
		ns.Shutdown()
		ns.WaitForShutdown()
	})
	if !ns.ReadyForConnections(10 * time.Second) {
		t.Fatal("the broker did not start")
	}
	return ns
}

// install makes an installation and gives JetStream to spoil it with.
func install(t *testing.T, url string) jetstream.JetStream {
	t.Helper()
	nc, err := nats.Connect(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	c, err := admin.New(t.Context(), nc, admin.Config{})
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return js
}

const nobody = "http://127.0.0.1:1"

func TestDoctorBroker(t *testing.T) {
	t.Parallel()
	url := brokenBroker(t, func(*natsserver.Options) {}).ClientURL()

	found := examine(t, exitFailure, "--url", nobody, "--nats", url)
	wantFinding(t, found, "api.reachable", verdictFail, "connection refused")
	wantFinding(t, found, "broker.reachable", verdictOK, url)
	wantFinding(t, found, "broker.stream", verdictFail, "there is no installation")

	js := install(t, url)
	found = examine(t, exitFailure, "--url", nobody, "--nats", url)
	wantFinding(t, found, "broker.stream", verdictOK, "10 of 10")
	wantFinding(t, found, "broker.clock", verdictOK, "the broker's clock")

	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := js.DeleteStream(ctx, "pelton_DEAD"); err != nil {
		t.Fatal(err)
	}
	found = examine(t, exitFailure, "--url", nobody, "--nats", url)
	wantFinding(t, found, "broker.stream", verdictFail, "missing: pelton_DEAD")

	s, err := js.Stream(ctx, "pelton_TASKS_0")
	if err != nil {
		t.Fatal(err)
	}
	cfg := s.CachedInfo().Config
	cfg.MaxMsgs = 1000
	if _, err := js.UpdateStream(ctx, cfg); err != nil {
		t.Fatal(err)
	}
	found = examine(t, exitFailure, "--url", nobody, "--nats", url)
	wantFinding(t, found, "broker.stream", verdictFail, "pelton_TASKS_0 was changed: max_msgs is 1000, must be -1")
}

func TestDoctorAtTheDoor(t *testing.T) {
	t.Parallel()
	closed := brokenBroker(t, func(o *natsserver.Options) { o.Authorization = "s3cret" })
	found := examine(t, exitFailure, "--url", nobody, "--nats", closed.ClientURL(), "--nats-token", "wrong")
	wantFinding(t, found, "broker.token", verdictFail, "refuses us")
	found = examine(t, exitFailure, "--url", nobody, "--nats", closed.ClientURL(), "--nats-token", "s3cret")
	wantFinding(t, found, "broker.reachable", verdictOK, "")

	plain := brokenBroker(t, func(o *natsserver.Options) { o.JetStream = false })
	found = examine(t, exitFailure, "--url", nobody, "--nats", plain.ClientURL())
	wantFinding(t, found, "broker.jetstream", verdictFail, "not enabled")

	small := brokenBroker(t, func(o *natsserver.Options) { o.MaxPayload, o.MaxPending = 4096, 1<<20 })
	found = examine(t, exitFailure, "--url", nobody, "--nats", small.ClientURL())
	wantFinding(t, found, "broker.payload", verdictFail, "4096 bytes")

	found = examine(t, exitFailure, "--url", nobody, "--nats", "nats://someone:hidden@127.0.0.1:1")
	wantFinding(t, found, "broker.reachable", verdictFail, "nats://127.0.0.1:1")
	if strings.Contains(fmt.Sprint(found), "hidden") {
		t.Errorf("the password is shown: %v", found)
	}
}

func TestDoctorQuota(t *testing.T) {
	t.Parallel()
	const quota = 8 << 20
	ns := brokenBroker(t, func(*natsserver.Options) {})
	limits := natsserver.JetStreamAccountLimits{MaxStore: quota, MaxMemory: -1, MaxStreams: 13, MaxConsumers: -1, MaxAckPending: -1}
	if err := ns.GlobalAccount().UpdateJetStreamLimits(map[string]natsserver.JetStreamAccountLimits{"": limits}); err != nil {
		t.Fatal(err)
	}
	js := install(t, ns.ClientURL())
	found := examine(t, exitFailure, "--url", nobody, "--nats", ns.ClientURL())
	wantFinding(t, found, "broker.storage", verdictOK, "of 8.0 MiB are used")
	wantFinding(t, found, "broker.streams", verdictWarn, "12 of 13 streams")

	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	// Nobody reads it, and it is in the way all the same.
	if _, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: "other", Subjects: []string{"other"}}); err != nil {
		t.Fatal(err)
	}
	for _, size := range []int{512 << 10, 16 << 10} {
		body := make([]byte, size)
		for {
			if _, err := js.Publish(ctx, "other", body); err != nil {
				break // full
			}
		}
	}
	found = examine(t, exitFailure, "--url", nobody, "--nats", ns.ClientURL())
	wantFinding(t, found, "broker.storage", verdictFail, "8.0 MiB of 8.0 MiB are used")
	wantFinding(t, found, "broker.streams", verdictFail, "13 of 13 streams")
}

// sickAPI answers as a server does that has what it is told.
type sickAPI struct {
	date    time.Time
	version string
	ready   bool
	token   string
	workers []string
	queues  []string
	garbled bool
}

func (s sickAPI) start(t *testing.T) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !s.date.IsZero() {
			w.Header().Set("Date", s.date.UTC().Format(http.TimeFormat))
		}
		open := r.URL.Path == "/healthz" || r.URL.Path == "/readyz"
		switch {
		case s.garbled:
			_, _ = fmt.Fprint(w, "<html>")
		case !open && s.token != "" && r.Header.Get("Authorization") != "Bearer "+s.token:
			refuse(w, http.StatusUnauthorized, "unauthorized")
		case r.URL.Path == "/readyz" && !s.ready:
			refuse(w, http.StatusServiceUnavailable, "unavailable")
		case open:
			_, _ = fmt.Fprint(w, `{"status":"ok"}`)
		case r.URL.Path == "/openapi.json":
			_, _ = fmt.Fprintf(w, `{"info":{"version":%q}}`, s.version)
		case r.URL.Path == "/workers":
			answerItems(w, s.workers)
		case r.URL.Path == "/queues":
			answerItems(w, s.queues)
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(server.Close)
	return server.URL
}

func TestDoctorAPI(t *testing.T) {
	t.Parallel()
	own := readBuild().Version
	worker := func(version, queue string, leaked int, seen time.Time) string {
		return fmt.Sprintf(`{"id":"w","version":%q,"queues":[%q],"concurrency":4,"leaked":%d,"seen_at":%q}`, version, queue, leaked, seen.Format(time.RFC3339))
	}
	well := sickAPI{version: own, ready: true, workers: []string{worker(own, "default", 0, time.Now())}, queues: []string{`{"name":"default","ready":3,"settings":{"max_depth":100}}`}}
	found := examine(t, exitOK, "--url", well.start(t))
	for check, f := range found {
		if f.Verdict != verdictOK {
			t.Errorf("%s: %+v", check, f)
		}
	}
	for _, check := range []string{"api.reachable", "api.clock", "api.ready", "api.token", "api.version", "workers", "queues", "queues.depth"} {
		wantFinding(t, found, check, verdictOK, "")
	}
	for _, tc := range []struct {
		name  string
		spoil func(*sickAPI)
		code  int
		check string
		v     verdict
		text  string
	}{
		{"clock", func(s *sickAPI) { s.date = time.Now().Add(-time.Minute) }, exitFailure, "api.clock", verdictFail, "behind ours"},
		{"clock a little", func(s *sickAPI) { s.date = time.Now().Add(6 * time.Second) }, exitOK, "api.clock", verdictWarn, "ahead of ours"},
		{"not ready", func(s *sickAPI) { s.ready = false }, exitFailure, "api.ready", verdictFail, "because"},
		{"token", func(s *sickAPI) { s.token = "x" }, exitFailure, "api.token", verdictFail, "because"},
		{"version", func(s *sickAPI) { s.version = "v9" }, exitOK, "api.version", verdictWarn, "the server is v9"},
		{"no Pelton", func(s *sickAPI) { s.garbled = true }, exitFailure, "api.reachable", verdictFail, "does not look like Pelton"},
		{"no workers", func(s *sickAPI) { s.workers = nil }, exitOK, "workers", verdictWarn, "no worker is there"},
		{"worker's version", func(s *sickAPI) { s.workers = []string{worker("v1", "default", 0, time.Now())} }, exitOK, "workers.version", verdictWarn, `1 of "v1"`},
		{"worker's clock", func(s *sickAPI) { s.workers = []string{worker(own, "default", 0, time.Now().Add(time.Minute))} }, exitFailure, "workers.clock", verdictFail, "ahead of ours"},
		{"leaked", func(s *sickAPI) { s.workers = []string{worker(own, "default", 2, time.Now())} }, exitOK, "workers.leaked", verdictWarn, "2 slots"},
		{"nobody serves", func(s *sickAPI) { s.workers = []string{worker(own, "other", 0, time.Now())} }, exitOK, "queues.served", verdictWarn, "queue default are ready"},
		{"paused", func(s *sickAPI) { s.queues = []string{`{"name":"q","paused":true,"ready":1}`} }, exitOK, "queues.paused", verdictWarn, "queue q is paused"},
		{"nearly full", func(s *sickAPI) { s.queues = []string{`{"name":"default","ready":95,"settings":{"max_depth":100}}`} }, exitOK, "queues.depth", verdictWarn, "95 of 100"},
		{"full", func(s *sickAPI) { s.queues = []string{`{"name":"default","ready":100,"settings":{"max_depth":100}}`} }, exitFailure, "queues.depth", verdictFail, "100 of 100"},
		{"no lists", func(s *sickAPI) { s.queues = []string{`1`} }, exitFailure, "api.lists", verdictFail, "not a queue"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			sick := well
			tc.spoil(&sick)
			wantFinding(t, examine(t, tc.code, "--url", sick.start(t)), tc.check, tc.v, tc.text)
		})
	}
}

func TestDoctorFolder(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	found := examine(t, exitFailure, "--url", nobody, "--data", dir)
	wantFinding(t, found, "data.folder", verdictOK, "no server uses it")
	wantFinding(t, found, "data.space", verdictOK, "are needed for new tasks")

	found = examine(t, exitFailure, "--url", nobody, "--data", filepath.Join(dir, "nowhere"))
	wantFinding(t, found, "data.folder", verdictFail, "there is no folder")

	file := writeFile(t, "file", "x")
	found = examine(t, exitFailure, "--url", nobody, "--data", file)
	wantFinding(t, found, "data.folder", verdictFail, "is not a folder")

	// A server that was killed, and that lets everybody read.
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "jetstream"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "pelton.pid"), []byte("2147483646\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	found = examine(t, exitFailure, "--url", nobody, "--data", dir)
	wantFinding(t, found, "data.folder", verdictWarn, "gone without having shut down")
	wantFinding(t, found, "data.private", verdictWarn, "can read payloads")

	if os.Geteuid() != 0 { // whom nothing is forbidden
		if err := os.Chmod(dir, 0o500); err != nil {
			t.Fatal(err)
		}
		found = examine(t, exitFailure, "--url", nobody, "--data", dir)
		wantFinding(t, found, "data.folder", verdictFail, "no file can be made")
	}
}

func TestDoctorRedis(t *testing.T) {
	t.Parallel()
	found := examine(t, exitFailure, "--url", nobody, "--redis", "redis://:hidden@127.0.0.1:1")
	wantFinding(t, found, "redis", verdictFail, "connection refused")
	if strings.Contains(fmt.Sprint(found), "hidden") {
		t.Error("the password is shown")
	}
	found = examine(t, exitFailure, "--url", nobody, "--redis", redistest.Start(t).URL)
	wantFinding(t, found, "redis", verdictOK, "answers in")
}

func TestOlder(t *testing.T) {
	t.Parallel()
	for version, want := range map[string]bool{"2.15.2": false, "2.14.0": false, "2.13.9": true, "1.99.99": true, "3.0.0": false, "dev": false, "2.13": true, "2.14.0-beta": false} {
		if got := older(version, minBroker); got != want {
			t.Errorf("%s: %t", version, got)
		}
	}
}
