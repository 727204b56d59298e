package e2e_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/freeport"
)

// image is what the last stage of a Dockerfile says of a container.
type image struct {
	from, user, health, data string
	env, entrypoint, cmd     []string
}

// readImage reads the instructions that our Dockerfiles use.
func readImage(t *testing.T, path string) *image {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	list := func(rest string) (words []string) {
		if err := json.Unmarshal([]byte(rest), &words); err != nil {
			t.Errorf("%s: %s is not in the exec form, and the image has no shell", path, rest)
		}
		return words
	}
	var i *image
	for line := range strings.Lines(string(text)) {
		verb, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		if verb == "FROM" {
			i = &image{from: rest}
		}
		if i == nil {
			continue
		}
		switch verb {
		case "USER":
			i.user = rest
		case "ENV":
			i.env = append(i.env, rest)
		case "ENTRYPOINT":
			i.entrypoint = list(rest)
		case "CMD":
			i.cmd = list(rest)
		case "HEALTHCHECK":
			_, i.health, _ = strings.Cut(rest, " CMD ")
			list(i.health)
		case "COPY":
			if strings.HasSuffix(rest, " /data") {
				i.data = rest
			}
		}
	}
	return i
}

// An image of the binary needs nothing beside it: it is static and starts in an
// empty root as an unprivileged user, as the Dockerfile's last stage says, and its
// health check works there.
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
	i := readImage(t, "../Dockerfile")
	owner, _, _ := strings.Cut(i.user, ":")
	uid, err := strconv.ParseUint(owner, 10, 32) // a name would need /etc/passwd, and Kubernetes' runAsNonRoot a number
	if err != nil || uid == 0 || i.from != "scratch" || !strings.Contains(i.data, "--chown="+i.user) || !strings.Contains(i.data, "--chmod=700") {
		t.Fatalf("the image is not an empty one with an unprivileged user: %+v", i)
	}
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
	if err := os.WriteFile(filepath.Join(root, i.entrypoint[0]), content, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(root, "data"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(filepath.Join(root, "data"), int(uid), int(uid)); err != nil {
		t.Fatal(err)
	}
	address := freeport.Addr(t)
	container := func(args []string, env ...string) *exec.Cmd {
		return &exec.Cmd{
			Path: args[0], Args: args, Dir: "/", Env: append(env, i.env...),
			SysProcAttr: &syscall.SysProcAttr{Chroot: root, Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}},
		}
	}
	var check []string
	if err := json.Unmarshal([]byte(i.health), &check); err != nil {
		t.Fatal(err)
	}
	healthy := func() error {
		out, err := container(check, "PELTON_URL=http://"+address, "PELTON_TOKEN=secret").CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	}
	if err := healthy(); err == nil {
		t.Error("healthy without a server")
	}
	p := launch(t, container(append(append(i.entrypoint, i.cmd...), "--demo"), "PELTON_ADDR="+address, "PELTON_TOKEN=secret", "PELTON_LOG_FORMAT=json"), "serve in an empty root")
	p.line("ready")
	if err := healthy(); err != nil {
		t.Errorf("health check: %v", err)
	}
	run, err := container([]string{"/pelton", "task", "enqueue", "demo.echo", "1", "--wait", "-o", "json"}, "PELTON_URL=http://"+address, "PELTON_TOKEN=secret").Output()
	var task pelton.Task
	if err == nil {
		err = json.Unmarshal(run, &task)
	}
	if err != nil || task.State != pelton.Succeeded {
		t.Errorf("task: %s %v", run, err)
	}
	if entries, err := os.ReadDir(filepath.Join(root, "data")); err != nil || len(entries) == 0 {
		t.Errorf("nothing is stored in /data: %v", err)
	}
}

// The image of a release is the one that is built from source, but for where its
// binary comes from.
func TestImagesAreAlike(t *testing.T) {
	t.Parallel()
	built, released := readImage(t, "../Dockerfile"), readImage(t, "../deploy/release.Dockerfile")
	released.data = strings.Replace(released.data, "--from=base", "--from=build", 1)
	if diff := fmt.Sprintf("%+v", *built); diff != fmt.Sprintf("%+v", *released) {
		t.Errorf("Dockerfile:         %s\nrelease.Dockerfile: %+v", diff, *released)
	}
}
