package e2e_test

import (
	"net/http"
	"path/filepath"
	"sync"
	"testing"

	"github.com/nats-io/nats.go"
)

// A server that syncs every write groups those of concurrent requests from its first start on: what
// came in one batch is stored with its name.
func TestFreshServerGroupsWrites(t *testing.T) {
	t.Parallel()
	s := serve(t, "--addr", "127.0.0.1:0", "--data", filepath.Join(t.TempDir(), "data"), "--sync", "always", "--nats-listen", "127.0.0.1:0", "--nats-token", "secret")
	const at, each = 32, 8
	var posting sync.WaitGroup
	for range at {
		posting.Go(func() {
			for range each {
				status, _, answer, err := call(t.Context(), http.MethodPost, s.url+"/tasks", `{"kind":"k"}`)
				if err != nil || status != http.StatusAccepted {
					t.Errorf("%d %s %v", status, answer, err)
				}
			}
		})
	}
	posting.Wait()
	js := s.jetStream(t, nats.Token("secret"))
	stream, err := js.Stream(t.Context(), "pelton_TASKS_0")
	if err != nil {
		t.Fatal(err)
	}
	batches, grouped := map[string]bool{}, 0
	for seq := stream.CachedInfo().State.FirstSeq; seq <= stream.CachedInfo().State.LastSeq; seq++ {
		msg, err := stream.GetMsg(t.Context(), seq)
		if err != nil {
			continue // a probe that is gone
		}
		if id := msg.Header.Get("Nats-Batch-Id"); id != "" {
			batches[id] = true
			grouped++
		}
	}
	if grouped < at*each/2 {
		t.Errorf("%d of %d tasks came in batches", grouped, at*each)
	}
	t.Logf("%d tasks in %d batches", grouped, len(batches))
}
