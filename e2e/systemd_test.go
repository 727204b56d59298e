package e2e_test

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// unit is a file of deploy/systemd: its settings, of which each may stand there more
// than once.
type unit map[string][]string

func readUnit(t *testing.T, name string) (unit, string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("../deploy/systemd", name))
	if err != nil {
		t.Fatal(err)
	}
	u := make(unit)
	for line := range strings.Lines(string(text)) {
		key, value, found := strings.Cut(strings.TrimSpace(line), "=")
		if found && !strings.HasPrefix(key, "#") {
			u[key] = append(u[key], value)
		}
	}
	return u, string(text)
}

// command is what systemd would start, with further variables.
func (u unit) command(t *testing.T, replace *strings.Replacer, env ...string) *exec.Cmd {
	t.Helper()
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	words := strings.Fields(replace.Replace(u["ExecStart"][0]))
	if words[0] != "/usr/local/bin/pelton" {
		t.Fatalf("it starts %s", words[0])
	}
	cmd := exec.Command(path, words[1:]...)
	for _, set := range u["Environment"] {
		env = append(env, strings.Fields(replace.Replace(set))...)
	}
	cmd.Env = append(os.Environ(), env...)
	return cmd
}

// systemd takes the units and finds little that they leave open.
func TestUnits(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		t.Skip("systemd is not installed, and too much to be installed for a test")
	}
	pelton, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	for name, instance := range map[string]string{"pelton.service": "pelton.service", "pelton-worker@.service": "pelton-worker@mail.service"} {
		_, text := readUnit(t, name)
		path := filepath.Join(t.TempDir(), instance)
		if err := os.WriteFile(path, []byte(strings.ReplaceAll(text, "/usr/local/bin/pelton", pelton)), 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command("systemd-analyze", "verify", path).CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("systemd-analyze verify %s: %v\n%s", name, err, out)
		}
		// 0 is a perfect cage, 100 none.
		if out, err := exec.Command("systemd-analyze", "security", "--offline=true", "--threshold=20", path).CombinedOutput(); err != nil {
			t.Errorf("systemd-analyze security %s: %v\n%s", name, err, out)
		}
	}
}

// What the units start is what Pelton takes, and it tells systemd what a unit of
// Type=notify waits for.
func TestUnitsRun(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	server, _ := readUnit(t, "pelton.service")
	socket, err := os.MkdirTemp("", "n") // a path of at most 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(socket) })
	systemd, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket + "/s", Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer systemd.Close()
	told := func(want string) {
		t.Helper()
		message := make([]byte, 128)
		if err := systemd.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if n, err := systemd.Read(message); err != nil || string(message[:n]) != want {
			t.Fatalf("systemd is told %q (%v), want %s", message[:n], err, want)
		}
	}
	if server["Type"][0] != "notify" || server["StateDirectory"][0] != "pelton" {
		t.Fatalf("pelton.service: %v", server)
	}
	p := launch(t, server.command(t, strings.NewReplacer("/var/lib/", dir+"/"), "PELTON_ADDR=127.0.0.1:0", "PELTON_NATS_LISTEN=127.0.0.1:0", "PELTON_NATS_TOKEN=secret",
		"NOTIFY_SOCKET="+socket+"/s"), "pelton.service")
	told("READY=1")
	nats, _ := p.line("ready")["nats"].(string)
	if entries, err := os.ReadDir(filepath.Join(dir, "pelton")); err != nil || len(entries) == 0 {
		t.Errorf("nothing is in the state directory: %v", err)
	}

	worker, _ := readUnit(t, "pelton-worker@.service")
	if worker["Type"][0] == "notify" {
		t.Error("the unit of a worker waits for what it does not tell")
	}
	w := launch(t, worker.command(t, strings.NewReplacer("$WORKER_ARGS", "--exec mail.send=/bin/true --exec mail.bounce=/bin/true"),
		"PELTON_NATS="+nats, "PELTON_NATS_TOKEN=secret", "PELTON_QUEUES=emails"), "pelton-worker@.service")
	w.line("worker started")
	for _, process := range []*process{w, p} {
		process.kill(syscall.SIGTERM)
		if process.err != nil {
			t.Errorf("%s: %v", process.name, process.err)
		}
	}
	told("STOPPING=1")
}
