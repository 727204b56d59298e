package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/peltonq/pelton"
)

const (
	// maxSkew is what clocks may differ by: times of other machines are then misleading
	// in lists, and leases and delays still hold.
	maxSkew = 2 * time.Second
	// badSkew is as long as the life of a heartbeat: workers seem dead, and delayed
	// tasks are noticeably late or early.
	badSkew = 15 * time.Second
	// nearLimit of a quota is worth a warning, and atLimit the next write may not fit.
	nearLimit = 0.9
	atLimit   = 0.99
)

const ntpAdvice = "let both machines keep the time by NTP"

// api looks at everything that the API tells.
func (d *doctor) api(ctx context.Context) error {
	c, err := d.app.client(d.flags.where)
	if err != nil {
		return err
	}
	defer c.http.CloseIdleConnections()
	if !d.reachable(ctx, c) {
		return nil
	}
	if _, err := c.do(ctx, request{method: http.MethodGet, path: []string{"readyz"}}); err != nil {
		d.fail("api.ready", "see the server's log; with --nats this command looks at the broker", "%s", err)
	} else {
		d.ok("api.ready", "a write has reached every stream lately")
	}
	version, err := serverVersion(ctx, c)
	if err != nil {
		advice := "the server's log says why"
		if exitCode(err) == exitAuth {
			advice = "give a token that it knows and that may read: --token-file, --token or PELTON_TOKEN"
		}
		d.fail("api.token", advice, "%s", err)
		return nil
	}
	d.ok("api.token", "our requests are let in")
	if own := readBuild().Version; own != version {
		d.warn("api.version", "use the same version on both sides", "the server is %s, this program %s", version, own)
	} else {
		d.ok("api.version", "%s, as this program", version)
	}
	served, err := d.workers(ctx, c, version)
	if err == nil {
		err = d.queues(ctx, c, served)
	}
	if err != nil {
		d.fail("api.lists", "the server's log says why", "%s", err)
	}
	return nil
}

// reachable looks whether a Pelton answers, and how its clock goes.
func (d *doctor) reachable(ctx context.Context, c *client) bool {
	req, err := c.newRequest(ctx, request{method: http.MethodGet, path: []string{"healthz"}})
	if err != nil {
		d.fail("api.reachable", "--url or PELTON_URL says where the API is", "%s", err)
		return false
	}
	asked := time.Now()
	resp, err := c.http.Do(req)
	if err != nil {
		d.fail("api.reachable", "start 'pelton serve' there, or say by --url or PELTON_URL where it is", "%s",
			c.lost(ctx, request{timeout: doctorTimeout}, false, err))
		return false
	}
	took := time.Since(asked)
	defer func() { _ = resp.Body.Close() }() // read as far as it matters
	var health struct {
		Status string `json:"status"`
	}
	err = json.NewDecoder(http.MaxBytesReader(nil, resp.Body, 4096)).Decode(&health)
	if resp.StatusCode != http.StatusOK || err != nil || health.Status != "ok" {
		d.fail("api.reachable", "check --url (PELTON_URL)", "what answers at %s does not look like Pelton: %s", c.base.Redacted(), resp.Status)
		return false
	}
	d.ok("api.reachable", "%s answers in %s", c.base.Redacted(), took.Round(100*time.Microsecond))
	if date, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
		// It has no fractions of a second, and was read between question and answer.
		d.clock("api.clock", "the server's clock", date.Add(500*time.Millisecond).Sub(asked.Add(took/2)), took/2+500*time.Millisecond)
	}
	return true
}

// clock judges a clock that is ahead of ours by skew, give or take wrong.
func (d *doctor) clock(check, whose string, skew, wrong time.Duration) {
	least := max(skew.Abs()-wrong, 0)
	direction := "ahead of"
	if skew < 0 {
		direction = "behind"
	}
	text := fmt.Sprintf("%s is %s %s ours", whose, skew.Abs().Round(time.Millisecond), direction)
	switch {
	case least > badSkew:
		d.fail(check, ntpAdvice, "%s", text)
	case least > maxSkew:
		d.warn(check, ntpAdvice, "%s", text)
	default:
		d.ok(check, "%s goes with ours, to %s", whose, max((skew.Abs()+wrong).Round(time.Millisecond), time.Millisecond))
	}
}

func serverVersion(ctx context.Context, c *client) (string, error) {
	body, err := c.do(ctx, request{method: http.MethodGet, path: []string{"openapi.json"}})
	if err != nil {
		return "", err
	}
	var document struct {
		Info struct {
			Version string `json:"version"`
		} `json:"info"`
	}
	if err := json.Unmarshal(body, &document); err != nil {
		return "", errors.New("the server's OpenAPI document is none")
	}
	return document.Info.Version, nil
}

// workers looks at those that are there, and gives the queues that they serve.
func (d *doctor) workers(ctx context.Context, c *client, version string) (served map[string]bool, err error) {
	served = make(map[string]bool)
	others := make(map[string]int)
	count, slots, leaked := 0, 0, 0
	late := time.Duration(0)
	err = c.eachItem(ctx, "workers", mostItems(), func(raw json.RawMessage) error {
		var w pelton.Worker
		if err := json.Unmarshal(raw, &w); err != nil {
			return fmt.Errorf("the server's answer is not a worker: %w", err)
		}
		count, slots, leaked = count+1, slots+w.Concurrency, leaked+w.Leaked
		for _, queue := range w.Queues {
			served[queue] = true
		}
		if w.Version != version {
			others[w.Version]++
		}
		late = max(late, -time.Since(w.SeenAt)) // one that is behind may be dying instead
		return nil
	})
	switch {
	case err != nil:
		return nil, err
	case count == 0:
		d.warn("workers", "start 'pelton worker run', or a program with the worker package", "no worker is there: tasks wait")
		return served, nil
	}
	d.ok("workers", "%d with %d slots", count, slots)
	if len(others) > 0 {
		names := slices.Sorted(maps.Keys(others))
		for i, name := range names {
			names[i] = fmt.Sprintf("%d of %q", others[name], name)
		}
		d.warn("workers.version", "workers that are programs of yours have versions of their own; others should be as the server", "the server is %q, workers: %s", version, strings.Join(names, ", "))
	}
	if late > maxSkew {
		d.clock("workers.clock", "a worker's clock", late, 0)
	}
	if leaked > 0 {
		d.warn("workers.leaked", "let the handlers return when their context ends; 'pelton worker list' says whose they are", "%d slots are held by handlers that ignore the end of their context", leaked)
	}
	return served, nil
}

// queues looks for those that nobody serves, and that are nearly full.
func (d *doctor) queues(ctx context.Context, c *client, served map[string]bool) error {
	count := 0
	err := c.eachItem(ctx, "queues", nil, func(raw json.RawMessage) error {
		q, err := parseQueue(raw)
		if err != nil {
			return err
		}
		count++
		if q.Ready > 0 && !q.Paused && len(served) > 0 && !served[q.Name] {
			d.warn("queues.served", fmt.Sprintf("start 'pelton worker run --queues %s'", q.Name), "%d tasks of queue %s are ready, and no worker serves it", q.Ready, q.Name)
		}
		if q.Paused && q.Ready > 0 {
			d.warn("queues.paused", "'pelton queue resume "+q.Name+"' lets it go on", "queue %s is paused with %d ready tasks", q.Name, q.Ready)
		}
		if most := q.Settings.MaxDepth; most > 0 {
			d.quota("queues.depth", "add workers, or raise max_depth by 'pelton queue set'", "queue "+q.Name+" holds %s of %s tasks", int64(min(q.Ready+q.Scheduled+q.Waiting, 1<<62)), int64(most), plainNumber)
		}
		return nil
	})
	if err == nil {
		d.ok("queues", "%d", count)
	}
	return err
}

func plainNumber(n int64) string { return fmt.Sprint(n) }

// quota judges how much of a limit is used; below zero there is none. format has two
// places.
func (d *doctor) quota(check, advice, format string, used, limit int64, number func(int64) string) {
	if limit <= 0 {
		return
	}
	text := fmt.Sprintf(format, number(used), number(limit))
	switch share := float64(used) / float64(limit); {
	case share >= atLimit:
		d.fail(check, advice, "%s", text)
	case share >= nearLimit:
		d.warn(check, advice, "%s", text)
	default:
		d.ok(check, "%s", text)
	}
}
