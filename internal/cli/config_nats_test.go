package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/admin"
	"github.com/peltonq/pelton/internal/broker"
	"github.com/peltonq/pelton/producer"
	"github.com/peltonq/pelton/scheduler"
	"github.com/peltonq/pelton/worker"
)

// guarded is a broker with the printed permissions in force.
type guarded struct {
	ns  string
	url string
}

func startGuarded(t *testing.T, ns string, shards int) *guarded {
	t.Helper()
	dir := t.TempDir()
	config := fmt.Sprintf("listen: \"127.0.0.1:-1\"\njetstream { store_dir: %q }\n", dir)
	for _, role := range broker.Roles() {
		name := strings.TrimPrefix(ns+"-"+string(role), "pelton-")
		config += envName(name) + "_PASSWORD: \"secret\"\n"
	}
	var block strings.Builder
	code := Main(t.Context(), []string{"config", "nats-permissions", "--namespace", ns, "--shards", strconv.Itoa(shards)}, strings.NewReader(""), &block, io.Discard, nil)
	if code != exitOK {
		t.Fatalf("exit code %d", code)
	}
	file := filepath.Join(dir, "nats.conf")
	if err := os.WriteFile(file, []byte(config+block.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	opts, err := server.ProcessConfigFile(file)
	if err != nil {
		t.Fatalf("nats-server does not read what was printed: %v", err)
	}
	opts.NoSigs, opts.NoLog = true, true
	s, err := server.NewServer(opts)
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() {
		s.Shutdown()
		s.WaitForShutdown()
	})
	if !s.ReadyForConnections(10 * time.Second) {
		t.Fatal("the broker is not ready")
	}
	return &guarded{ns: ns, url: s.ClientURL()}
}

// violations are what the broker has refused to a connection.
type violations struct {
	mu   sync.Mutex
	all  []string
	came chan struct{}
}

func (v *violations) note(_ *nats.Conn, _ *nats.Subscription, err error) {
	if !errors.Is(err, nats.ErrPermissionViolation) {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.all = append(v.all, err.Error())
	select {
	case v.came <- struct{}{}:
	default:
	}
}

func (v *violations) take() []string {
	v.mu.Lock()
	defer v.mu.Unlock()
	all := v.all
	v.all = nil
	return all
}

func (g *guarded) connect(t *testing.T, role broker.Role, opts ...nats.Option) (*nats.Conn, *violations) {
	t.Helper()
	v := &violations{came: make(chan struct{}, 1)}
	nc, err := nats.Connect(g.url, append([]nats.Option{
		nats.UserInfo(g.ns+"-"+string(role), "secret"), nats.CustomInboxPrefix(broker.InboxPrefix(g.ns, role)), nats.ErrorHandler(v.note),
	}, opts...)...)
	if err != nil {
		t.Fatalf("connect as %s: %v", role, err)
	}
	t.Cleanup(func() {
		nc.Close()
		if t.Failed() {
			t.Logf("refused to %s: %q", role, v.take())
		}
	})
	return nc, v
}

// settled fails the test for what was refused so far.
func (v *violations) settled(t *testing.T, nc *nats.Conn, when string) {
	t.Helper()
	if err := nc.FlushTimeout(5 * time.Second); err != nil {
		t.Errorf("%s: %v", when, err)
	}
	for _, err := range v.take() {
		t.Errorf("%s: %s", when, err)
	}
}

func must[T any](t *testing.T, what string) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		return v
	}
}

func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(20 * time.Second); !holds(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("%s: not within 20 s", what)
		}
	}
}

// Each role can do all that it is for, and nothing is refused on the way.
func TestPermissionsSuffice(t *testing.T) {
	t.Parallel()
	for _, shards := range []int{1, 2} {
		t.Run(fmt.Sprint(shards, " shards"), func(t *testing.T) {
			t.Parallel()
			permissionsSuffice(t, shards)
		})
	}
}

func permissionsSuffice(t *testing.T, shards int) {
	t.Helper()
	g := startGuarded(t, "guarded", shards)
	ctx := t.Context()
	anc, refusedAdmin := g.connect(t, broker.RoleAdmin)
	a := must[*admin.Client](t, "open admin")(admin.New(ctx, anc, admin.Config{Namespace: g.ns}))
	t.Cleanup(a.Close)
	if _, err := a.GrowShards(ctx, shards); err != nil {
		t.Fatal(err)
	}
	pnc, refusedProducer := g.connect(t, broker.RoleProducer)
	p := must[*producer.Client](t, "open producer")(producer.New(ctx, pnc, producer.Config{Namespace: g.ns}))
	t.Cleanup(p.Close)

	// A worker with something of everything.
	wnc, refusedWorker := g.connect(t, broker.RoleWorker)
	mux := worker.NewMux()
	started := make(chan pelton.ID, 100)
	handle := func(kind string, h func(context.Context) error) {
		worker.HandleFunc(mux, pelton.NewKind[json.RawMessage, struct{}](kind), func(ctx context.Context, _ json.RawMessage) error {
			return h(ctx)
		})
	}
	handle("plain", func(context.Context) error { return nil })
	handle("flaky", func(ctx context.Context) error {
		if worker.From(ctx).Attempt < 3 {
			return pelton.RetryAfter(10*time.Millisecond, errors.New("not yet"))
		}
		return nil
	})
	handle("pausing", func(ctx context.Context) error {
		if worker.From(ctx).Attempt < 2 {
			return pelton.RetryAfter(time.Second, errors.New("busy"), pelton.PauseKind)
		}
		return nil
	})
	handle("snoozing", func(ctx context.Context) error {
		if worker.From(ctx).Crashes == 0 && time.Since(worker.From(ctx).CreatedAt) < 500*time.Millisecond {
			return pelton.Snooze(600 * time.Millisecond)
		}
		return nil
	})
	handle("failing", func(context.Context) error { return pelton.Discard(errors.New("no")) })
	handle("locking", func(ctx context.Context) error {
		_, err := worker.Lock(ctx, "the-lock")
		if err != nil {
			return err
		}
		worker.Progress(ctx, 1, 2, "half")
		return nil
	})
	handle("long", func(ctx context.Context) error {
		started <- worker.From(ctx).ID
		<-ctx.Done()
		return context.Cause(ctx)
	})
	w := must[*worker.Worker](t, "make worker")(worker.New(wnc, mux, worker.Config{Namespace: g.ns, Queues: []string{"default", "second"}, Concurrency: 8}))
	working, stop := context.WithCancel(ctx)
	var running sync.WaitGroup
	running.Go(func() {
		if err := w.Run(working); err != nil {
			t.Errorf("worker: %v", err)
		}
	})
	defer running.Wait()
	defer stop()

	enqueue := func(kind string, opts ...pelton.Option) *pelton.Task {
		t.Helper()
		return must[*pelton.Task](t, "enqueue "+kind)(p.Enqueue(ctx, pelton.Spec{Kind: kind, Payload: json.RawMessage("1")}, opts...))
	}
	finish := func(task *pelton.Task, want pelton.State) {
		t.Helper()
		waiting, cancel := context.WithTimeout(ctx, 30*time.Second)
		defer cancel()
		got := must[*pelton.Task](t, "wait for "+task.Kind)(p.Wait(waiting, task.ID))
		if got.State != want {
			t.Errorf("%s is %s: %+v", task.Kind, got.State, got.Error)
		}
	}
	var tasks []*pelton.Task
	for _, kind := range []string{"plain", "flaky", "pausing", "snoozing", "locking"} {
		tasks = append(tasks, enqueue(kind))
	}
	tasks = append(tasks, enqueue("plain", pelton.WithQueue("second"), pelton.WithPriority(pelton.High)),
		enqueue("plain", pelton.WithDelay(300*time.Millisecond)),
		enqueue("plain", pelton.WithUnique(pelton.Unique{Key: "k"})),
		enqueue("plain", pelton.WithIdempotencyKey("i")))
	for range 3 {
		tasks = append(tasks, enqueue("plain", pelton.WithConcurrencyKey("line")), enqueue("flaky", pelton.WithConcurrencyKey("line")))
	}
	tasks = append(tasks, enqueue("plain", pelton.WithConcurrencyKey("line"), pelton.WithDelay(200*time.Millisecond)))
	many := must[[]pelton.Enqueued](t, "enqueue many")(p.EnqueueMany(ctx, []pelton.Spec{{Kind: "plain"}, {Kind: "plain", ConcurrencyKey: "line"}, {Kind: "plain", Delay: time.Millisecond}}))
	for _, one := range many {
		if one.Err != nil {
			t.Fatalf("enqueue many: %v", one.Err)
		}
		tasks = append(tasks, one.Task)
	}
	for _, task := range tasks {
		finish(task, pelton.Succeeded)
	}
	failed := enqueue("failing")
	finish(failed, pelton.Failed)

	// Cancel: what is delayed, what waits in line, what runs.
	long := enqueue("long", pelton.WithConcurrencyKey("one"))
	<-started
	behind, later, laterInLine := enqueue("plain", pelton.WithConcurrencyKey("one")), enqueue("plain", pelton.WithDelay(time.Hour)), enqueue("plain", pelton.WithConcurrencyKey("one"), pelton.WithDelay(time.Hour))
	for _, task := range []*pelton.Task{behind, later, laterInLine, long} {
		must[*pelton.Task](t, "cancel "+task.Kind)(p.Cancel(ctx, task.ID))
		finish(task, pelton.Cancelled)
	}
	must[*pelton.Task](t, "run again")(p.Retry(ctx, tasks[0].ID))
	finish(tasks[0], pelton.Succeeded)
	soon := enqueue("plain", pelton.WithDelay(time.Hour))
	must[*pelton.Task](t, "run now")(p.Run(ctx, soon.ID))
	finish(soon, pelton.Succeeded)
	refusedProducer.settled(t, pnc, "as producer")

	// The administrator, and the server.
	must[[]pelton.Queue](t, "queues")(a.Queues(ctx))
	must[*pelton.Queue](t, "patch")(a.PatchQueue(ctx, "default", []byte(`{"max_running":{"normal":4},"lease":"20s"}`)))
	must[*pelton.Queue](t, "pause")(a.Pause(ctx, "second", ""))
	waiting := enqueue("plain", pelton.WithQueue("second"))
	must[*pelton.Why](t, "why")(a.Why(ctx, waiting.ID))
	must[*pelton.Purged](t, "purge")(a.Purge(ctx, "second", "", ""))
	must[*pelton.Queue](t, "resume")(a.Resume(ctx, "second", ""))
	must[*pelton.DeadPage](t, "dead letters")(a.DeadLetters(ctx, pelton.DeadQuery{}))
	eventually(t, "the dead letter", func() bool { // it follows the record
		_, err := a.DeadLetter(ctx, failed.ID)
		return err == nil
	})
	// No server is there that would see to the turns of shards.
	must[*pelton.Queue](t, "patch again")(a.PatchQueue(ctx, "default", []byte(`{"max_running":null}`)))
	must[*pelton.Task](t, "retry dead letter")(a.RetryDeadLetter(ctx, failed.ID))
	finish(failed, pelton.Failed)
	must[*pelton.BulkResult](t, "purge dead letters")(a.PurgeDeadLetters(ctx, pelton.DeadQuery{}, false))
	must[*pelton.Limit](t, "limit")(a.SetLimit(ctx, pelton.Limit{Name: "l", Kind: "plain", MaxRunning: 2}))
	finish(enqueue("plain"), pelton.Succeeded)
	if err := a.DeleteLimit(ctx, "l"); err != nil {
		t.Errorf("delete limit: %v", err)
	}
	must[*pelton.LockPage](t, "locks")(a.Locks(ctx, pelton.LockQuery{}))
	if workers := must[*pelton.WorkerPage](t, "workers")(a.Workers(ctx, pelton.WorkerQuery{})); len(workers.Items) != 1 {
		t.Errorf("%d workers", len(workers.Items))
	}
	var scheduled pelton.TaskQuery
	scheduled.State = pelton.Scheduled
	must[*pelton.TaskPage](t, "tasks")(a.Tasks(ctx, scheduled))
	if err := errors.Join(a.Probe(ctx), a.NoteStart(ctx, true, false), a.RestoreLanes(ctx), a.TellFull(false)); err != nil {
		t.Error(err)
	}
	made, _, err := a.CreateToken(ctx, pelton.Token{Name: "n", Scopes: []pelton.Scope{"read"}})
	if err != nil {
		t.Fatalf("create token: %v", err)
	}
	must[*admin.Keyring](t, "keyring")(a.OpenKeyring(ctx))
	if err := a.RevokeToken(ctx, made.ID); err != nil {
		t.Errorf("revoke token: %v", err)
	}
	s := must[*scheduler.Client](t, "open scheduler")(scheduler.New(ctx, anc, scheduler.Config{Namespace: g.ns}))
	t.Cleanup(s.Close)
	ticking, untick := context.WithCancel(ctx)
	var serving sync.WaitGroup
	serving.Go(func() { _ = s.Run(ticking) })
	swept := make(chan struct{}, 1)
	serving.Go(func() {
		a.Sweep(ticking, nil, func(admin.SweepStep) {
			select {
			case swept <- struct{}{}:
			default:
			}
		})
	})
	if _, _, err := s.Put(ctx, pelton.Schedule{Name: "often", Every: time.Second, Task: pelton.Spec{Kind: "plain"}}); err != nil {
		t.Errorf("put schedule: %v", err)
	}
	must[*pelton.Task](t, "run schedule")(s.RunNow(ctx, "often"))
	<-swept
	eventually(t, "a tick of the schedule", func() bool {
		schedule, err := s.Get(ctx, "often")
		return err == nil && len(schedule.Last) >= 2
	})
	if err := s.Delete(ctx, "often"); err != nil {
		t.Errorf("delete schedule: %v", err)
	}
	untick()
	serving.Wait()
	stop()
	running.Wait()
	refusedWorker.settled(t, wnc, "as worker")
	refusedAdmin.settled(t, anc, "as admin")
	refusedProducer.settled(t, pnc, "as producer")
}

// What a role must not do is refused.
func TestPermissionsRefuse(t *testing.T) {
	t.Parallel()
	g := startGuarded(t, "guarded", 1)
	anc, _ := g.connect(t, broker.RoleAdmin)
	a := must[*admin.Client](t, "open admin")(admin.New(t.Context(), anc, admin.Config{Namespace: g.ns}))
	t.Cleanup(a.Close)
	if err := func() error {
		_, err := a.PatchQueue(t.Context(), "default", []byte(`{"lease":"20s"}`))
		return err
	}(); err != nil {
		t.Fatal(err)
	}

	api := func(call string) string { return "$JS.API." + strings.ReplaceAll(call, "NS", g.ns) }
	of := func(subject string) string { return strings.ReplaceAll(subject, "NS", g.ns) }
	nobody := []string{
		api("STREAM.DELETE.NS_TASKS_0"), api("STREAM.DELETE.KV_NS_STATE_0"), api("STREAM.RESTORE.NS_TASKS_0"),
		api("STREAM.SNAPSHOT.NS_TASKS_0"), api("STREAM.CREATE.OTHER"), api("STREAM.LIST"), api("STREAM.INFO.OTHER"),
		api("CONSUMER.CREATE.OTHER.x"), api("DIRECT.GET.OTHER"), api("STREAM.PURGE.OTHER"), "$JS.ACK.OTHER.c.1.1.1.1.1", "other.t.0.r.default.high", "$KV.OTHER.k",
		"_INBOX.x",
	}
	client := append([]string{
		api("STREAM.CREATE.NS_TASKS_0"), api("STREAM.UPDATE.NS_TASKS_0"), api("STREAM.PURGE.KV_NS_STATE_0"), api("STREAM.PURGE.NS_DEAD"), api("STREAM.PURGE.KV_NS_CONFIG"), api("STREAM.MSG.DELETE.KV_NS_CONFIG"),
		api("CONSUMER.DELETE.NS_TASKS_0.r_default_normal"), api("CONSUMER.CREATE.KV_NS_STATE_0.x.>"), api("CONSUMER.CREATE.NS_DEAD.x.>"), api("CONSUMER.CREATE.NS_TASKS_0.x.NS.t.0.>"),
		api("CONSUMER.CREATE.KV_NS_TOKENS.x.>"), api("DIRECT.GET.KV_NS_TOKENS"), api("DIRECT.GET.KV_NS_TOKENS.>"), api("STREAM.MSG.GET.KV_NS_TOKENS"), of("$KV.NS_TOKENS.x"),
		of("$KV.NS_CONFIG.limit.x"), of("$KV.NS_CONFIG.schedule.x"), of("$KV.NS_CONFIG.tick.x"), of("$KV.NS_CONFIG.horizon"), of("NS.y.r"), of("NS.disk"),
		of("$KV.NS_STATE_0.a.b"), api("STREAM.MSG.DELETE.KV_NS_TOKENS"),
	}, nobody...)
	for role, publish := range map[broker.Role][]string{
		broker.RoleProducer: append([]string{
			api("CONSUMER.MSG.NEXT.NS_TASKS_0.r_default_normal"), of("$JS.ACK.NS_TASKS_0.r_default_normal.1.1.1.1.1"), api("CONSUMER.PAUSE.NS_TASKS_0.r_default_normal"),
			of("NS.d.default.x"), of("$KV.NS_WORKERS.w"), of("$KV.NS_LOCKS.lock.x.0"), of("$KV.NS_CONFIG.pause.x"), of("NS.w.x"), of("_INBOX.NS.worker.x"),
		}, client...),
		broker.RoleWorker: append([]string{of("$KV.NS_CONFIG.queue.default")}, client...),
		broker.RoleAdmin:  nobody,
	} {
		nc, refused := g.connect(t, role)
		for _, subject := range publish {
			wantRefused(t, nc, refused, string(role)+" publishes to "+subject, func() error { return nc.PublishRequest(subject, broker.InboxPrefix(g.ns, role)+".x", []byte("{}")) })
		}
		for _, subject := range []string{">", "_INBOX.>", of("_INBOX.NS.>"), "$JS.>", "$KV.>", of("$KV.NS_STATE_0.>"), of("_INBOX.NS.") + otherThan(role) + ".>"} {
			wantRefused(t, nc, refused, string(role)+" subscribes to "+subject, func() error {
				_, err := nc.SubscribeSync(subject)
				return err
			})
		}
		if role != broker.RoleAdmin {
			wantRefused(t, nc, refused, string(role)+" subscribes to tasks", func() error {
				_, err := nc.SubscribeSync(of("NS.t.>"))
				return err
			})
		}
	}

	// Nothing of it was done.
	js := must[jetstream.JetStream](t, "jetstream")(jetstream.New(anc))
	for _, stream := range []string{of("NS_TASKS_0"), of("KV_NS_STATE_0"), of("KV_NS_CONFIG")} {
		if _, err := js.Stream(t.Context(), stream); err != nil {
			t.Errorf("%s: %v", stream, err)
		}
	}
	if _, err := nats.Connect(g.url, nats.UserInfo(g.ns+"-admin", "wrong")); !errors.Is(err, nats.ErrAuthorization) {
		t.Errorf("wrong password: %v", err)
	}
	if _, err := nats.Connect(g.url); !errors.Is(err, nats.ErrAuthorization) {
		t.Errorf("no user: %v", err)
	}
}

func otherThan(role broker.Role) string {
	if role == broker.RoleAdmin {
		return "producer"
	}
	return string(broker.RoleAdmin)
}

// wantRefused fails the test if the broker lets something pass.
func wantRefused(t *testing.T, nc *nats.Conn, refused *violations, what string, do func() error) {
	t.Helper()
	if err := do(); err != nil {
		t.Errorf("%s: %v", what, err)
		return
	}
	if err := nc.FlushTimeout(5 * time.Second); err != nil {
		t.Errorf("%s: %v", what, err)
	}
	select { // the broker's word comes before the flush's, and is told by another goroutine
	case <-refused.came:
		refused.take()
	case <-time.After(2 * time.Second):
		t.Errorf("%s: it was not refused", what)
	}
}

func TestPermissionsNeedANamespace(t *testing.T) {
	t.Parallel()
	var out, errs strings.Builder
	for _, bad := range []string{"a.b", "*", "", "a b"} {
		code := Main(t.Context(), []string{"config", "nats-permissions", "--namespace", bad}, strings.NewReader(""), &out, &errs, nil)
		if bad != "" && (code != exitUsage || out.Len() > 0) {
			t.Errorf("%q: exit code %d %s", bad, code, &out)
		}
		out.Reset()
	}
}
