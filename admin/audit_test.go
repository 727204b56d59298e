package admin_test

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/brokertest"
)

func TestAudit(t *testing.T) {
	t.Parallel()
	client, _ := open(t, brokertest.Start(t))
	if page, err := client.Audit(t.Context(), pelton.AuditQuery{}); err != nil || len(page.Items) > 0 || page.NextCursor != "" {
		t.Errorf("empty: %v %+v", err, page)
	}
	log := client.NewAuditLog()
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { log.Run(ctx) })
	began := time.Now().UTC().Truncate(time.Millisecond)
	const all = 1200
	for n := range all {
		e := pelton.AuditEntry{At: began.Add(time.Duration(n) * time.Microsecond), Actor: "bootstrap", From: "192.0.2.1", Operation: "pauseQueue", Path: "/" + strconv.Itoa(n), Status: 200}
		if n%100 == 0 {
			e.Actor, e.Operation, e.Status = "other", "purgeQueue", 403
		}
		log.Record(e)
	}
	cancel()
	running.Wait()

	// Newest first, page by page, each once.
	read := func(q pelton.AuditQuery) (paths []string, pages int) {
		t.Helper()
		for {
			page, err := client.Audit(t.Context(), q)
			if err != nil {
				t.Fatal(err)
			}
			pages++
			for _, e := range page.Items {
				paths = append(paths, e.Path)
			}
			if q.Cursor = page.NextCursor; q.Cursor == "" {
				return paths, pages
			}
		}
	}
	paths, _ := read(pelton.AuditQuery{Limit: 500})
	if len(paths) != all || paths[0] != "/1199" || paths[all-1] != "/0" {
		t.Fatalf("%d entries, from %s", len(paths), paths[0])
	}
	for _, q := range []pelton.AuditQuery{{Actor: "other"}, {Operation: "purgeQueue"}, {Outcome: pelton.OutcomeRefused}} {
		if paths, pages := read(q); len(paths) != all/100 || paths[0] != "/1100" || pages != 3 {
			t.Errorf("%+v: %v in %d pages", q, paths, pages)
		}
	}
	if paths, _ := read(pelton.AuditQuery{Outcome: pelton.OutcomeFailed}); len(paths) > 0 {
		t.Errorf("failed: %v", paths)
	}
	if paths, _ := read(pelton.AuditQuery{Since: began.Add(1190 * time.Microsecond), Until: began.Add(1195 * time.Microsecond)}); len(paths) != 5 || paths[4] != "/1190" {
		t.Errorf("by time: %v", paths)
	}
	for _, q := range []pelton.AuditQuery{{Cursor: "x"}, {Cursor: "0"}, {Actor: " "}, {Limit: -1}, {Limit: 501}, {Outcome: "good"}} {
		if _, err := client.Audit(t.Context(), q); !errors.Is(err, pelton.ErrInvalid) {
			t.Errorf("%+v: %v", q, err)
		}
	}
}

// An operator may keep more of the log, or less.
func TestAuditBoundsCanBeChanged(t *testing.T) {
	t.Parallel()
	nc := brokertest.Start(t)
	open(t, nc)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	name := ""
	for stream := range js.StreamNames(t.Context()).Name() {
		if strings.HasSuffix(stream, "_AUDIT") {
			name = stream
		}
	}
	stream, err := js.Stream(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	cfg := stream.CachedInfo().Config
	if cfg.MaxAge != 90*24*time.Hour || cfg.MaxMsgs != 500_000 || cfg.MaxBytes != -1 {
		t.Errorf("at first: %s, %d entries, %d bytes", cfg.MaxAge, cfg.MaxMsgs, cfg.MaxBytes)
	}
	cfg.MaxAge, cfg.MaxMsgs, cfg.MaxBytes = 365*24*time.Hour, -1, 1<<30
	if _, err := js.UpdateStream(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	open(t, nc) // fails the test if that is not possible
}
