package e2e_test

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/redistest"
)

// composeFile is what this test reads of compose.yaml.
type composeFile struct {
	Services map[string]struct {
		Image       string            `yaml:"image"`
		Command     []string          `yaml:"command"`
		Environment map[string]string `yaml:"environment"`
	} `yaml:"services"`
}

// The topology of compose.yaml as processes: the very commands and environments
// of the file, with host names and container paths replaced.
func TestComposeTopology(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../compose.yaml")
	if err != nil {
		t.Fatal(err)
	}
	natsServer := filepath.Join(t.TempDir(), "nats-server")
	// The version that go.mod pins is the one the file names.
	build := exec.Command("go", "build", "-o", natsServer, "github.com/nats-io/nats-server/v2")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build nats-server: %v\n%s", err, out)
	}
	address := freeAddress(t)
	redis := redistest.Start(t)
	replaced := strings.NewReplacer(
		"${NATS_TOKEN:?set NATS_TOKEN}", "nats-secret", "${PELTON_TOKEN:?set PELTON_TOKEN}", "api-secret",
		"nats://nats:4222", "nats://"+address, "redis://redis:6379", redis.URL, "0.0.0.0:7420", "127.0.0.1:0", "=/data", "="+filepath.Join(t.TempDir(), "nats"),
	).Replace(string(text))
	var file composeFile
	if err := yaml.Unmarshal([]byte(replaced), &file); err != nil {
		t.Fatal(err)
	}
	version, err := exec.Command(natsServer, "--version").Output()
	if err != nil || !strings.Contains(string(version), strings.TrimPrefix(file.Services["nats"].Image, "nats:")) {
		t.Errorf("compose.yaml names image %s, go.mod pins %s", file.Services["nats"].Image, version)
	}

	host, port, _ := net.SplitHostPort(address)
	nats := exec.Command(natsServer, append(file.Services["nats"].Command, "--addr", host, "--port", port)...)
	if err := nats.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = nats.Process.Signal(syscall.SIGTERM)
		_ = nats.Wait()
	})

	run := func(name string) *process {
		service := file.Services[name]
		var env []string
		for k, v := range service.Environment {
			env = append(env, k+"="+v)
		}
		return startEnv(t, env, service.Command...)
	}
	api := run("api") // starts before NATS may be up, as containers do
	run("worker").line("worker started")
	url := "http://" + api.line("ready")["addr"].(string)

	if status, _, _, err := call(t.Context(), http.MethodPost, url+"/tasks", `{"kind":"demo.echo"}`); err != nil || status != http.StatusUnauthorized {
		t.Errorf("POST without a token: %d %v, want 401", status, err)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+"/tasks?wait=20s", strings.NewReader(`{"kind":"demo.echo","payload":"through"}`))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer api-secret")
	req.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if n := redis.Clients(); n < 2 {
		t.Errorf("%d of API and worker are connected to Redis", n)
	}
	if resp.StatusCode != http.StatusOK {
		t.Errorf("POST with ?wait: %s, want 200 with the finished task", resp.Status)
	}
}

// An image of the binary needs nothing beside it: it is static and starts in an
// empty root as an unprivileged user, like the Dockerfile's last stage.
func TestBinaryRunsOnAnEmptyImage(t *testing.T) {
	t.Parallel()
	if raceEnabled {
		t.Skip("the race detector's binary is not static")
	}
	if os.Getuid() != 0 {
		t.Skip("chroot needs root")
	}
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	const nobody = 65532
	root := t.TempDir()
	for dir := root; dir != "/"; dir = filepath.Dir(dir) { // the way in must be open to the user
		if info, err := os.Stat(dir); err == nil && info.Mode().Perm()&0o005 != 0o005 {
			if err := os.Chmod(dir, info.Mode().Perm()|0o055); err != nil {
				t.Skipf("cannot open %s: %v", dir, err)
			}
		}
	}
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "pelton"), content, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(root, "data"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(filepath.Join(root, "data"), nobody, nobody); err != nil {
		t.Fatal(err)
	}
	p := launch(t, &exec.Cmd{
		Path: "/pelton", Args: []string{"/pelton", "serve", "--demo", "--addr", "127.0.0.1:0"}, Dir: "/",
		Env:         []string{"PELTON_DATA=/data", "PELTON_LOG_FORMAT=json"},
		SysProcAttr: &syscall.SysProcAttr{Chroot: root, Credential: &syscall.Credential{Uid: nobody, Gid: nobody}},
	}, "serve in an empty root")
	s := &server{process: p, url: "http://" + p.line("ready")["addr"].(string)}
	if task := s.finish(s.post(`{"kind":"demo.echo","payload":1}`).ID, time.Now().Add(20*time.Second)); task.State != pelton.Succeeded {
		t.Errorf("task has %s", task.State)
	}
}

// freeAddress is a loopback address that nobody listened on a moment ago.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return fmt.Sprint(l.Addr())
}
