package cli

import (
	"bufio"
	"context"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/metrics"
	"github.com/peltonq/pelton/worker"
)

// updateEnv makes the tests of generated pages write them instead.
const updateEnv = "PELTON_UPDATE_REFERENCE"

type oneQueue struct{}

func (oneQueue) Queues(context.Context) ([]pelton.Queue, error) {
	return []pelton.Queue{{Name: "emails", Priorities: map[pelton.Priority]pelton.Depth{pelton.High: {Ready: 1}}}}, nil
}

// everyMetric is what a server shows that has a worker and Redis, and to which everything
// has happened.
func everyMetric(t *testing.T) string {
	t.Helper()
	m := metrics.New("v1.2.3")
	m.WatchQueues(t.Context(), oneQueue{})
	m.Watch(func() worker.Stats { return worker.Stats{} })
	task := &pelton.Task{Kind: "email.send", Queue: "emails", Priority: pelton.High}
	m.Enqueued(task)
	m.Refused()
	m.Started(task, time.Second)
	m.Ended(task, worker.OutcomeRetried, time.Second)
	m.Crashed(task)
	m.PutOff(task, "mail")
	m.RedisUp(true)
	m.LimitFellBack("mail", "local")
	m.Swept(1, 1, time.Second)
	bounds := boundFlags{}
	bounds.budgets(&web{conns: newConnections(1)}, m)
	answer := httptest.NewRecorder()
	m.Handler().ServeHTTP(answer, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", nil))
	return answer.Body.String()
}

// metricsPage is docs/reference/metrics.md.
func metricsPage(t *testing.T) string {
	t.Helper()
	type metric struct {
		help, kind string
		labels     map[string]bool
	}
	all := make(map[string]*metric)
	sample := regexp.MustCompile(`^(\w+)(?:\{(.*)\})? `)
	label := regexp.MustCompile(`(\w+)="`)
	lines := bufio.NewScanner(strings.NewReader(everyMetric(t)))
	for lines.Scan() {
		line := lines.Text()
		fields := strings.SplitN(line, " ", 4)
		switch {
		case strings.HasPrefix(line, "# HELP pelton_"):
			all[fields[2]] = &metric{help: fields[3], labels: make(map[string]bool)}
		case strings.HasPrefix(line, "# TYPE pelton_"):
			all[fields[2]].kind = fields[3]
		case strings.HasPrefix(line, "pelton_"):
			parts := sample.FindStringSubmatch(line)
			name := parts[1]
			if all[name] == nil { // of a histogram
				name = regexp.MustCompile(`_(bucket|sum|count)$`).ReplaceAllString(name, "")
			}
			for _, l := range label.FindAllStringSubmatch(parts[2], -1) {
				if l[1] != "le" {
					all[name].labels[l[1]] = true
				}
			}
		}
	}
	var page strings.Builder
	fmt.Fprintf(&page, `<!-- Made from the code by cli.TestMetricsReference, which compares them: %s=1 go test -run TestMetricsReference ./internal/cli -->
# Metrics

`+"`GET /metrics` of `pelton serve`, and of `pelton worker run --metrics-addr ADDR`"+`, for Prometheus. A server without a worker has none of
the worker's slots, and a worker has none of queues and HTTP. Depths of queues are the same on all servers: take one of them, or the
maximum. Beside these there are those of the Go runtime (go_…) and of the process (process_…).

| metric | type | labels | |
|---|---|---|---|
`, updateEnv)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		m := all[name]
		labels := "—"
		if len(m.labels) > 0 {
			labels = "`" + strings.Join(slices.Sorted(maps.Keys(m.labels)), "`, `") + "`"
		}
		fmt.Fprintf(&page, "| `%s` | %s | %s | %s |\n", name, m.kind, labels, m.help)
	}
	return page.String()
}

// The page of metrics is what the code has, and the code has no metric that is not on it.
func TestMetricsReference(t *testing.T) {
	t.Parallel()
	path := filepath.Join("..", "..", "docs", "reference", "metrics.md")
	want := metricsPage(t)
	if os.Getenv(updateEnv) != "" {
		if err := os.WriteFile(path, []byte(want), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := gocmp.Diff(want, string(got)); diff != "" {
		t.Errorf("%s is not what the code says (%s=1 writes it; -code +page):\n%s", path, updateEnv, diff)
	}

	named := 0
	for _, pattern := range []string{"*.go", filepath.Join("..", "metrics", "*.go")} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			source, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			for _, name := range regexp.MustCompile(`"(pelton_[a-z_]+)"`).FindAllStringSubmatch(string(source), -1) {
				named++
				if !strings.Contains(want, "| `"+name[1]+"` |") {
					t.Errorf("%s names %s, which is not on the page", file, name[1])
				}
			}
		}
	}
	if named < 20 {
		t.Errorf("%d metrics are named in the code", named)
	}
}
