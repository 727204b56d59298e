package e2e_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.yaml.in/yaml/v3"
)

// composeService is what these tests read of a service of compose.yaml.
type composeService struct {
	Image       string            `yaml:"image"`
	Restart     string            `yaml:"restart"`
	Command     []string          `yaml:"command"`
	Environment map[string]string `yaml:"environment"`
	Volumes     []string          `yaml:"volumes"`
	Secrets     []string          `yaml:"secrets"`
	DependsOn   []string          `yaml:"depends_on"`
	Ports       []string          `yaml:"ports"`
	Deploy      struct {
		Replicas int `yaml:"replicas"`
	} `yaml:"deploy"`
}

// composition is compose.yaml as processes: its very commands, environments and
// files, with three things replaced. A host is an address of loopback of its own, so
// that ports stay; a path in a container is one of the test's folder; a variable has
// a value.
type composition struct {
	t        *testing.T
	dir      string
	network  string // of this test: 127.x.y.
	hosts    []string
	Services map[string]composeService `yaml:"services"`
	Volumes  map[string]any            `yaml:"volumes"`
	Secrets  map[string]struct {
		Environment string `yaml:"environment"`
	} `yaml:"secrets"`
	variables map[string]string
	nats      string // path of nats-server
}

func readComposition(t *testing.T, variables map[string]string) *composition {
	t.Helper()
	text, err := os.ReadFile("../compose.yaml")
	if err != nil {
		t.Fatal(err)
	}
	c := &composition{t: t, dir: t.TempDir(), variables: variables, network: fmt.Sprintf("127.%d.%d.", 1+rand.IntN(250), rand.IntN(250))}
	filled := regexp.MustCompile(`\$\{(\w+):\?[^}]*\}`).ReplaceAllStringFunc(string(text), func(variable string) string {
		name, _, _ := strings.Cut(strings.TrimPrefix(variable, "${"), ":")
		value, known := variables[name]
		if !known {
			t.Errorf("compose.yaml asks for %s", name)
		}
		return value
	})
	if err := yaml.Unmarshal([]byte(filled), c); err != nil {
		t.Fatal(err)
	}
	for name, service := range c.Services {
		for n := range max(1, service.Deploy.Replicas) {
			c.hosts = append(c.hosts, instance(service, name, n))
		}
		for _, other := range service.DependsOn {
			if _, there := c.Services[other]; !there {
				t.Errorf("%s depends on %s, which is not there", name, other)
			}
		}
		for _, secret := range service.Secrets {
			if c.Secrets[secret].Environment == "" {
				t.Errorf("%s has a secret %s that is not there", name, secret)
			}
		}
	}
	slices.Sort(c.hosts)
	return c
}

// instance is the name of one container of a service.
func instance(s composeService, name string, n int) string {
	if s.Deploy.Replicas > 1 {
		return fmt.Sprintf("%s-%d", name, n+1)
	}
	return name
}

// address is where a host is.
func (c *composition) address(host string) string {
	c.t.Helper()
	i := slices.Index(c.hosts, host)
	if i < 0 {
		c.t.Fatalf("compose.yaml has no %s", host)
	}
	return c.network + fmt.Sprint(i+1)
}

// on replaces in text what is different on this machine, for a service on a host.
func (c *composition) on(host string, s composeService, text string) string {
	c.t.Helper()
	for _, other := range c.hosts {
		text = regexp.MustCompile(`(^|[/@" ])`+other+`:(\d)`).ReplaceAllString(text, "${1}"+c.address(other)+":${2}")
	}
	text = strings.ReplaceAll(text, "0.0.0.0", c.address(host))
	for _, volume := range s.Volumes {
		source, target, _ := strings.Cut(volume, ":")
		target, _, _ = strings.Cut(target, ":")
		text = regexp.MustCompile(`(^|[=" ])`+regexp.QuoteMeta(target)+`($|[/"; ])`).ReplaceAllString(text, "${1}"+c.path(host, target)+"${2}")
		if _, declared := c.Volumes[source]; !declared && !strings.HasPrefix(source, "./") {
			c.t.Errorf("the volume %s of %s is not declared", source, host)
		}
	}
	return strings.ReplaceAll(text, "/run/secrets/", c.path(host, "/run/secrets")+"/")
}

// path is where a path of a host's container is.
func (c *composition) path(host, path string) string { return filepath.Join(c.dir, host, path) }

// mount makes a service's folders and files, and its secrets.
func (c *composition) mount(host string, s composeService) {
	c.t.Helper()
	write := func(path, content string) {
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			c.t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			c.t.Fatal(err)
		}
	}
	for _, volume := range s.Volumes {
		source, target, _ := strings.Cut(volume, ":")
		target, _, _ = strings.Cut(target, ":")
		if !strings.HasPrefix(source, "./") {
			if err := os.MkdirAll(c.path(host, target), 0o700); err != nil {
				c.t.Fatal(err)
			}
			continue
		}
		text, err := os.ReadFile(filepath.Join("..", source))
		if err != nil {
			c.t.Fatal(err)
		}
		write(c.path(host, target), c.resolved(c.on(host, s, string(text))))
	}
	for _, secret := range s.Secrets {
		write(c.path(host, "/run/secrets/"+secret), c.variables[c.Secrets[secret].Environment])
	}
}

// resolved has addresses for what Prometheus would look up, and less patience.
func (c *composition) resolved(text string) string {
	lookup := regexp.MustCompile(`dns_sd_configs:\s+- names: \[(\w+)\]\s+type: A\s+port: (\d+)\s+refresh_interval: \w+\n`)
	text = lookup.ReplaceAllStringFunc(text, func(found string) string {
		m := lookup.FindStringSubmatch(found)
		var targets []string
		for n := range c.Services[m[1]].Deploy.Replicas {
			targets = append(targets, c.address(instance(c.Services[m[1]], m[1], n))+":"+m[2])
		}
		return "static_configs: [{targets: [" + strings.Join(targets, ", ") + "]}]\n"
	})
	return strings.Replace(text, "scrape_interval: 15s", "scrape_interval: 500ms\n  scrape_timeout: 500ms", 1)
}

// start runs a service on a host.
func (c *composition) start(name, host string) *process {
	c.t.Helper()
	s := c.Services[name]
	c.mount(host, s)
	var args, env []string
	for _, arg := range s.Command {
		args = append(args, c.on(host, s, arg))
	}
	for key, value := range s.Environment {
		env = append(env, key+"="+c.on(host, s, value))
	}
	at := c.address(host)
	switch image, _, _ := strings.Cut(s.Image, ":"); image {
	case "pelton":
		return startEnv(c.t, env, args...)
	case "nats":
		return launch(c.t, exec.Command(c.nats, append(args, "--addr="+at)...), host)
	case "redis":
		data := c.path(host, "/data")
		return launch(c.t, exec.Command(args[0], append(args[1:], "--bind", at, "--dir", data)...), host)
	case "prom/prometheus":
		return launch(c.t, exec.Command("prometheus", append(args, "--web.listen-address="+at+":9090")...), host)
	default:
		c.t.Fatalf("%s has the image %s", name, s.Image)
		return nil
	}
}

// kept starts a service again that ends before it has written the log line, as its
// "restart" says: brokers that do not know all of each other yet refuse three copies.
func (c *composition) kept(name, host string, p *process, msg string) *process {
	c.t.Helper()
	if c.Services[name].Restart != "unless-stopped" {
		c.t.Errorf("%s is not started again when it ends", name)
	}
	eventually(c.t, host+" writes "+msg, func() bool {
		select {
		case <-p.done:
			c.t.Logf("%s is started again: %s", host, p.tail(1))
			p = c.start(name, host)
		default:
		}
		return strings.Contains(p.tail(1000), `"msg":"`+msg+`"`)
	})
	return p
}

// buildNATS builds the version that go.mod pins, which is the one that the file names.
func (c *composition) buildNATS() {
	c.t.Helper()
	c.nats = filepath.Join(c.dir, "nats-server")
	if out, err := exec.Command("go", "build", "-o", c.nats, "github.com/nats-io/nats-server/v2").CombinedOutput(); err != nil {
		c.t.Fatalf("build nats-server: %v\n%s", err, out)
	}
	version, err := exec.Command(c.nats, "--version").Output()
	if _, image, _ := strings.Cut(c.Services["nats-1"].Image, ":"); err != nil || image == "" || !strings.Contains(string(version), image) {
		c.t.Errorf("compose.yaml names image %s, go.mod pins %s", c.Services["nats-1"].Image, version)
	}
}

// The fleet of compose.yaml takes tasks and runs them, keeps three copies of
// everything, goes on when a broker and a replica are killed, and is scraped.
func TestComposeTopology(t *testing.T) {
	t.Parallel()
	for _, program := range []string{"redis-server", "nginx", "prometheus"} {
		require(t, program)
	}
	c := readComposition(t, map[string]string{"NATS_TOKEN": "nats-secret", "PELTON_TOKEN": "api-secret"})
	c.buildNATS()
	running := make(map[string]*process)
	for name, s := range c.Services { // in no order, as containers start
		for n := range max(1, s.Deploy.Replicas) {
			if host := instance(s, name, n); name != "nginx" && name != "prometheus" {
				running[host] = c.start(name, host)
			}
		}
	}
	for _, host := range []string{"api-1", "api-2"} {
		running[host] = c.kept(host, host, running[host], "ready")
	}
	for _, host := range []string{"worker-1", "worker-2"} {
		running[host] = c.kept("worker", host, running[host], "worker started")
	}
	nginx := nginxBefore(t, [2]string{c.address("api-1") + ":7420", c.address("api-2") + ":7420"})
	if !slices.Contains(c.Services["nginx"].Volumes, "./deploy/nginx.conf:/etc/nginx/nginx.conf:ro") || !slices.Contains(c.Services["nginx"].Ports, "127.0.0.1:7420:8080") {
		t.Errorf("nginx of compose.yaml has not the configuration that was tested: %+v", c.Services["nginx"])
	}

	if status, _, _, err := call(t.Context(), http.MethodPost, nginx.url+"/tasks", `{"kind":"demo.echo"}`); err != nil || status != http.StatusUnauthorized {
		t.Errorf("POST without a token: %d %v, want 401", status, err)
	}
	runs := func(when string) {
		t.Helper()
		if status, answer, err := c.authorized(http.MethodPost, nginx.url+"/tasks?wait=20s", when, `{"kind":"demo.echo","payload":"through"}`); err != nil || status != http.StatusOK {
			t.Errorf("a task %s: %d %s %v", when, status, answer, err)
		}
	}
	runs("at the start")
	c.checkStreams()
	c.checkMetrics()
	t.Run("prometheus", func(t *testing.T) { c.checkPrometheus() })

	running["nats-2"].kill(syscall.SIGKILL)
	running["api-1"].kill(syscall.SIGKILL)
	runs("with a broker and a replica less")
}

// authorized asks with the token, and repeats a request with a key while the answer is 503.
func (c *composition) authorized(method, url, key, body string) (status int, answer []byte, err error) {
	c.t.Helper()
	eventually(c.t, "an answer other than 503 of "+url, func() bool {
		status, answer, err = c.authorizedOnce(method, url, key, body)
		return err != nil || status != http.StatusServiceUnavailable
	})
	return status, answer, err
}

// checkStreams looks at how many brokers have each stream.
func (c *composition) checkStreams() {
	c.t.Helper()
	nc, err := nats.Connect("nats://"+c.address("nats-1")+":4222", nats.Token(c.variables["NATS_TOKEN"]))
	if err != nil {
		c.t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		c.t.Fatal(err)
	}
	// What a worker made before there was a server has one copy at first.
	eventually(c.t, "everything has three copies", func() bool {
		list, streams, copied := js.ListStreams(c.t.Context()), 0, 0
		for info := range list.Info() {
			streams++
			if info.Config.Replicas == 3 && info.Cluster != nil && len(info.Cluster.Replicas) == 2 && info.Cluster.Replicas[0].Current && info.Cluster.Replicas[1].Current {
				copied++
			}
		}
		return list.Err() == nil && streams >= 6 && copied == streams
	})
}

// checkMetrics holds the names in alerts.yml against what APIs and workers say.
func (c *composition) checkMetrics() {
	c.t.Helper()
	rules, err := os.ReadFile("../deploy/alerts.yml")
	if err != nil {
		c.t.Fatal(err)
	}
	_, api, err := c.authorized(http.MethodGet, "http://"+c.address("api-1")+":7420/metrics", "", "")
	if err != nil {
		c.t.Fatal(err)
	}
	var workers []byte
	for _, host := range []string{"worker-1", "worker-2"} { // either has run the task
		_, text, err := c.authorized(http.MethodGet, "http://"+c.address(host)+":9420/metrics", "", "")
		if err != nil {
			c.t.Fatal(err)
		}
		workers = append(workers, text...)
	}
	names := make(map[string]bool)
	for _, name := range regexp.MustCompile(`pelton_\w+`).FindAllString(string(rules), -1) {
		names[name] = true
	}
	delete(names, "pelton_task_crashes_total") // nothing has crashed here
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if help := "# HELP " + name + " "; !strings.Contains(string(api), help) && !strings.Contains(string(workers), help) {
			c.t.Errorf("deploy/alerts.yml has %s, which nobody tells", name)
		}
	}
	for host, text := range map[string][]byte{"the API": api, "a worker": workers} {
		if !strings.Contains(string(text), "pelton_limit_redis_up 1") {
			c.t.Errorf("%s does not count in Redis", host)
		}
	}
}

// checkPrometheus runs Prometheus until it has scraped everybody and has all rules.
func (c *composition) checkPrometheus() {
	c.t.Helper()
	p := c.start("prometheus", "prometheus")
	url := "http://" + c.address("prometheus") + ":9090/api/v1/"
	var answer struct {
		Data struct {
			ActiveTargets []struct {
				Labels     map[string]string
				Health     string
				LastError  string
				ScrapePool string
			}
			Groups []struct {
				Rules []struct{ Health, LastError string }
			}
		}
	}
	fetch := func(path string) {
		_, text, err := c.authorizedOnce(http.MethodGet, url+path, "", "")
		if err == nil {
			_ = json.Unmarshal(text, &answer) // asked again until it is as it should be
		}
	}
	want := map[string]int{"pelton-api": 2, "pelton-worker": 2}
	var seen string
	defer func() {
		if c.t.Failed() {
			c.t.Logf("targets: %s\n%s", seen, p.tail(20))
		}
	}()
	eventually(c.t, "Prometheus has scraped everybody", func() bool {
		answer.Data.ActiveTargets = nil
		fetch("targets")
		up := make(map[string]int)
		for _, target := range answer.Data.ActiveTargets {
			if target.Health == "up" {
				up[target.ScrapePool]++
			}
		}
		seen = fmt.Sprintf("%+v", answer.Data.ActiveTargets)
		return maps.Equal(up, want)
	})
	fetch("rules")
	rules := 0
	for _, group := range answer.Data.Groups {
		rules += len(group.Rules)
	}
	if rules < 10 {
		c.t.Errorf("Prometheus has %d rules", rules)
	}
}

// authorizedOnce asks with the token.
func (c *composition) authorizedOnce(method, url, key, body string) (int, []byte, error) {
	req, err := http.NewRequestWithContext(c.t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set("Authorization", "Bearer "+c.variables["PELTON_TOKEN"])
	req.Header.Set("Content-Type", "application/json")
	if key != "" {
		req.Header.Set("Idempotency-Key", key)
	}
	status, _, answer, err := do(req)
	return status, answer, err
}
