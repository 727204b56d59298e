package e2e_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/peltonq/pelton"
	working "github.com/peltonq/pelton/worker"
)

// lockSlots is how many tasks a worker process runs at a time.
const lockSlots = 4

// lockWorkerEnv makes this test's binary a worker process: the URL of its broker.
const lockWorkerEnv = "PELTON_E2E_LOCK_WORKER"

type (
	countArgs struct {
		File string `json:"file"`
		Lock bool   `json:"lock"`
	}
	holdArgs struct {
		Lease int `json:"lease"` // seconds
	}
)

// lockWorker is the process: it counts in a file under a lock, and holds another.
func lockWorker(url string) error {
	log := slog.New(slog.NewJSONHandler(os.Stderr, nil))
	mux := working.NewMux()
	working.HandleFunc(mux, pelton.NewKind[countArgs, struct{}]("count"), func(ctx context.Context, args countArgs) error {
		if args.Lock {
			lock, err := working.Lock(ctx, "counter")
			if err != nil {
				return err
			}
			defer func() {
				if err := lock.Unlock(); err != nil {
					log.Error("unlock failed", "error", err)
				}
			}()
		}
		return increment(args.File)
	})
	working.HandleFunc(mux, pelton.NewKind[holdArgs, struct{}]("hold"), func(ctx context.Context, args holdArgs) error {
		log.Info("locking")
		lock, err := working.Lock(ctx, "held", working.Lease(time.Duration(args.Lease)*time.Second))
		if err != nil {
			return err
		}
		log.Info("locked", "token", lock.Token())
		<-lock.Context().Done()
		return context.Cause(lock.Context())
	})
	nc, err := nats.Connect(url, nats.Token("secret"), nats.MaxReconnects(-1))
	if err != nil {
		return err
	}
	defer nc.Close()
	w, err := working.New(nc, mux, working.Config{Concurrency: lockSlots, Grace: time.Second, Logger: log})
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	return w.Run(ctx)
}

// increment reads a number from a file and writes the next one: two at a time lose
// a count, or find an empty file.
func increment(name string) error {
	text, err := os.ReadFile(name)
	if err != nil {
		return pelton.Discard(err)
	}
	n, err := strconv.Atoi(string(text))
	if err != nil {
		return pelton.Discard(err)
	}
	return os.WriteFile(name, []byte(strconv.Itoa(n+1)), 0o600)
}

func startLockWorker(t *testing.T, s *server) *process {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), lockWorkerEnv+"="+s.nats, "GORACE=halt_on_error=1")
	w := launch(t, cmd, "lock worker")
	w.line("worker started")
	return w
}

// Four worker processes increment a number in a file a thousand times, under a
// lock: not one is lost.
func TestCountUnderALock(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := serve(t, "--addr", "127.0.0.1:0", "--data", filepath.Join(dir, "data"), "--nats-listen", "127.0.0.1:0", "--nats-token", "secret")
	for range 4 {
		startLockWorker(t, s)
	}
	const n = 1000
	began := time.Now()
	count, failed, by := countIn(t, s, filepath.Join(dir, "locked"), n, true)
	t.Logf("%d increments by %d processes in %s", count, len(by), time.Since(began))
	if count != n || failed != 0 {
		t.Errorf("counted %d of %d, %d tasks failed", count, n, failed)
	}
	if len(by) != 4 {
		t.Errorf("%d processes did it: %v", len(by), by)
	}
	// The test can fail: the same without the lock loses some.
	if count, failed, _ = countIn(t, s, filepath.Join(dir, "open"), n, false); count == n && failed == 0 {
		t.Errorf("without a lock, all %d were counted, too: this shows nothing", count)
	}
}

// countIn gives the number in the file after n tasks, how many of them failed, and
// how many each worker ran.
func countIn(t *testing.T, s *server, file string, n int, locked bool) (count, failed int, by map[string]int) {
	t.Helper()
	if err := os.WriteFile(file, []byte("0"), 0o600); err != nil {
		t.Fatal(err)
	}
	body := fmt.Sprintf(`{"kind":"count","payload":{"file":%q,"lock":%t},"max_attempts":1}`, file, locked)
	batch := `{"tasks":[` + strings.TrimSuffix(strings.Repeat(body+",", n), ",") + `]}`
	status, _, answer, err := call(t.Context(), http.MethodPost, s.url+"/tasks/batch", batch)
	var accepted struct {
		Items []struct {
			Task pelton.Task `json:"task"`
		} `json:"items"`
	}
	if err != nil || status != http.StatusOK || json.Unmarshal(answer, &accepted) != nil || len(accepted.Items) != n {
		t.Fatalf("POST /tasks/batch: %d %v, %d tasks", status, err, len(accepted.Items))
	}
	by = map[string]int{}
	deadline := time.Now().Add(90 * time.Second)
	for _, item := range accepted.Items {
		task := s.finish(item.Task.ID, deadline)
		by[task.Worker]++
		if task.State != pelton.Succeeded {
			failed++
		}
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	count, _ = strconv.Atoi(string(text)) // two writers may have left none
	return count, failed, by
}

// A process that is killed keeps its lock until the lease is over and no longer
// than a second more; who has it next has a greater token.
func TestLockOfAKilledProcess(t *testing.T) {
	t.Parallel()
	const lease = 6 // renewed every 2 s, lost after 4
	s := serve(t, "--addr", "127.0.0.1:0", "--data", filepath.Join(t.TempDir(), "data"), "--nats-listen", "127.0.0.1:0", "--nats-token", "secret")
	victim := startLockWorker(t, s)
	first := s.post(fmt.Sprintf(`{"kind":"hold","payload":{"lease":%d}}`, lease))
	victimToken := victim.line("locked")["token"].(float64)
	heir := startLockWorker(t, s)
	for range 2 * lockSlots { // more than the victim has slots for
		s.post(fmt.Sprintf(`{"kind":"hold","payload":{"lease":%d}}`, lease))
	}
	heir.line("locking")
	wantHolder(t, s, first.ID, victimToken)
	select { // in the middle of a lease, after renewals
	case <-time.After(lease*time.Second + 500*time.Millisecond):
	case <-t.Context().Done():
	}
	wantHolder(t, s, first.ID, victimToken)

	victim.kill(syscall.SIGKILL)
	expires := wantHolder(t, s, first.ID, victimToken) // by its last renewal
	token := heir.line("locked")["token"].(float64)
	late := time.Since(expires)
	t.Logf("free %s after the end of the lease", late)
	if late < 0 || late > 6*time.Second { // a second on a machine that has the time
		t.Errorf("free %s after the end of the lease", late)
	}
	if token <= victimToken {
		t.Errorf("token %.0f after %.0f", token, victimToken)
	}
}

// wantHolder asks the API who holds the lock, and until when.
func wantHolder(t *testing.T, s *server, id pelton.ID, token float64) (expires time.Time) {
	t.Helper()
	status, _, answer, err := call(t.Context(), http.MethodGet, s.url+"/locks", "")
	var page pelton.LockPage
	if err != nil || status != http.StatusOK || json.Unmarshal(answer, &page) != nil || len(page.Items) != 1 {
		t.Fatalf("GET /locks: %d %s %v", status, answer, err)
	}
	lock := page.Items[0]
	if lock.Name != "held" || len(lock.Holders) != 1 || lock.Holders[0].TaskID != id || float64(lock.Holders[0].Token) != token {
		t.Fatalf("lock = %+v, want task %s with token %.0f", lock, id, token)
	}
	return lock.Holders[0].ExpiresAt
}
