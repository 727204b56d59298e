package deploy

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/yaml"
)

// binary is pelton, built once for all tests.
var binary = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "pelton-deploy-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "pelton")
	build := exec.Command("go", "build", "-o", path, "./cmd/pelton")
	build.Dir = ".."
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build pelton: %w\n%s", err, out)
	}
	return path, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if path, err := binary(); err == nil {
		_ = os.RemoveAll(filepath.Dir(path))
	}
	os.Exit(code)
}

// helped is what a command says of its flags.
func helped(t *testing.T, command ...string) string {
	t.Helper()
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, path, append(command, "--help")...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %v\n%s", command, err, out)
	}
	return string(out)
}

// What one manifest says of another is so: labels, ports, secrets, accounts, volumes.
func TestManifestsFit(t *testing.T) {
	t.Parallel()
	for name, values := range installations {
		m := install(t, values)
		problem := func(format string, args ...any) {
			t.Helper()
			t.Errorf("%s: %s", name, fmt.Sprintf(format, args...))
		}
		chosen := func(what string, selector *meta.LabelSelector) (found []workload) {
			chooser, err := meta.LabelSelectorAsSelector(selector)
			if err != nil {
				problem("%s: %v", what, err)
				return nil
			}
			for _, w := range m.workloads {
				if chooser.Matches(labels.Set(w.pod.Labels)) {
					found = append(found, w)
				}
			}
			return found
		}
		for _, w := range m.workloads {
			if found := chosen(w.name, w.selector); len(found) != 1 || found[0].name != w.name {
				problem("the selector of %s chooses %v", w.name, found)
			}
			m.checkPod(w, problem)
		}
		for _, s := range m.services {
			found := chosen(s.Name, &meta.LabelSelector{MatchLabels: s.Spec.Selector})
			if len(found) != 1 {
				problem("the service %s chooses %v", s.Name, found)
				continue
			}
			for _, port := range s.Spec.Ports {
				if !hasPort(found[0], port.TargetPort) {
					problem("%s has no port %s for the service %s", found[0].name, port.TargetPort.String(), s.Name)
				}
			}
		}
		for _, b := range m.budgets {
			if found := chosen(b.Name, b.Spec.Selector); len(found) != 1 || found[0].name != b.Name {
				problem("the budget %s chooses %v", b.Name, found)
			}
		}
		for _, p := range m.policies {
			found := chosen(p.Name, &p.Spec.PodSelector)
			if len(found) == 0 {
				problem("the policy %s chooses nobody", p.Name)
			}
			for _, rule := range p.Spec.Ingress {
				for _, port := range rule.Ports {
					for _, w := range found {
						if !hasPort(w, *port.Port) {
							problem("%s has no port %s for the policy %s", w.name, port.Port.String(), p.Name)
						}
					}
				}
			}
		}
		for _, i := range m.ingresses {
			backend := i.Spec.Rules[0].HTTP.Paths[0].Backend.Service
			if backend.Name != m.services[0].Name || backend.Port.Name != m.services[0].Spec.Ports[0].Name {
				problem("the ingress leads to %+v", backend)
			}
		}
		for _, s := range m.scaled {
			if !slices.ContainsFunc(m.workloads, func(w workload) bool { return w.name == s.Spec.ScaleTargetRef.Name && w.replicas == nil }) {
				problem("KEDA scales %s, which is not there or has a number of its own", s.Spec.ScaleTargetRef.Name)
			}
		}
		for _, p := range m.monitors {
			if found := chosen(p.Name, &p.Spec.Selector); len(found) != len(m.workloads) {
				problem("Prometheus scrapes %d of %d workloads", len(found), len(m.workloads))
			}
			m.checkSecret(p.Spec.PodMetricsEndpoints[0].Authorization.Credentials, problem)
		}
	}
}

func hasPort(w workload, port intstr.IntOrString) bool {
	return slices.ContainsFunc(w.pod.Spec.Containers[0].Ports, func(p core.ContainerPort) bool {
		return p.Name == port.StrVal || p.ContainerPort == port.IntVal
	})
}

// checkPod looks at what Kubernetes' "restricted" standard asks for, and at what the pod
// needs of others.
func (m *manifests) checkPod(w workload, problem func(string, ...any)) {
	spec, c := w.pod.Spec, w.pod.Spec.Containers[0]
	pod, security := spec.SecurityContext, c.SecurityContext
	if !*pod.RunAsNonRoot || *pod.RunAsUser == 0 || pod.SeccompProfile.Type != core.SeccompProfileTypeRuntimeDefault ||
		*security.AllowPrivilegeEscalation || !*security.ReadOnlyRootFilesystem || security.Capabilities.Drop[0] != "ALL" || *spec.AutomountServiceAccountToken {
		problem("%s may do more than it needs: %+v %+v", w.name, pod, security)
	}
	if *spec.EnableServiceLinks {
		problem("%s gets PELTON_PORT and the like from a Service", w.name)
	}
	if !slices.ContainsFunc(m.accounts, func(a core.ServiceAccount) bool { return a.Name == spec.ServiceAccountName }) {
		problem("%s has no account %s", w.name, spec.ServiceAccountName)
	}
	for _, probe := range []*core.Probe{c.LivenessProbe, c.ReadinessProbe} {
		if probe != nil && !hasPort(w, probe.HTTPGet.Port) {
			problem("%s is probed at %s", w.name, probe.HTTPGet.Port.String())
		}
	}
	if server := c.Args[0] == "serve"; server && (c.ReadinessProbe.HTTPGet.Path != "/readyz" || c.LivenessProbe.HTTPGet.Path != "/healthz") {
		problem("%s is asked for %+v", w.name, c.LivenessProbe)
	}
	for _, mount := range c.VolumeMounts {
		claim := slices.ContainsFunc(w.claims, func(p core.PersistentVolumeClaim) bool { return p.Name == mount.Name })
		volume := slices.ContainsFunc(spec.Volumes, func(v core.Volume) bool { return v.Name == mount.Name })
		if claim == volume {
			problem("%s mounts %s", w.name, mount.Name)
		}
	}
	files := m.checkFiles(spec, problem)
	for _, env := range c.Env {
		if env.ValueFrom != nil {
			m.checkSecret(*env.ValueFrom.SecretKeyRef, problem)
		}
		if strings.HasPrefix(env.Value, "/etc/") && !slices.Contains(files, env.Value) {
			problem("%s is told of %s, and has %v", w.name, env.Value, files)
		}
	}
}

// checkFiles looks at the files that a pod has of secrets. It returns where they are.
func (m *manifests) checkFiles(spec core.PodSpec, problem func(string, ...any)) (files []string) {
	for _, volume := range spec.Volumes {
		if volume.Secret == nil {
			continue
		}
		if mode := *volume.Secret.DefaultMode; mode&0o007 != 0 || mode&0o040 == 0 {
			problem("%s may be read by %o", volume.Name, mode)
		}
		for _, item := range volume.Secret.Items {
			m.checkSecret(core.SecretKeySelector{LocalObjectReference: core.LocalObjectReference{Name: volume.Secret.SecretName}, Key: item.Key}, problem)
			for _, mount := range spec.Containers[0].VolumeMounts {
				if mount.Name == volume.Name {
					files = append(files, mount.MountPath+"/"+item.Path)
				}
			}
		}
	}
	return files
}

// checkSecret looks for a key: in a secret of the chart, or one that the values name.
func (m *manifests) checkSecret(ref core.SecretKeySelector, problem func(string, ...any)) {
	given := map[string][]string{
		"api": {"t"}, "broker": {"nk", "nats-token"}, "redis": {"redis-url"},
		"user": {"u.creds"}, "certs": {"ca.crt", "tls.crt", "tls.key"},
	}
	if keys, there := given[ref.Name]; there {
		if !slices.Contains(keys, ref.Key) {
			problem("%s of the secret %s is not what the values say", ref.Key, ref.Name)
		}
		return
	}
	for _, s := range m.secrets {
		if _, there := s.Data[ref.Key]; s.Name == ref.Name && there {
			return
		}
	}
	problem("there is no %s in a secret %s", ref.Key, ref.Name)
}

// Each variable that the chart sets is a flag of the command that gets it, and so is
// each argument.
func TestPeltonTakesIt(t *testing.T) {
	t.Parallel()
	help := map[string]string{"serve": helped(t, "serve"), "worker": helped(t, "worker", "run")}
	for name, values := range installations {
		for _, w := range install(t, values).workloads {
			c := w.pod.Spec.Containers[0]
			command, flags := c.Args[0], []string(nil)
			for _, env := range c.Env {
				if variable, ours := strings.CutPrefix(env.Name, "PELTON_"); ours {
					flags = append(flags, "--"+strings.ToLower(strings.ReplaceAll(variable, "_", "-")))
				}
			}
			for _, arg := range c.Args {
				if strings.HasPrefix(arg, "--") {
					flags = append(flags, arg)
				}
			}
			if len(flags) < 5 || help[command] == "" {
				t.Errorf("%s: %s runs %v with %v", name, w.name, c.Args, flags)
			}
			for _, flag := range flags {
				if !strings.Contains(help[command], flag+" ") {
					t.Errorf("%s: %s of %s is not a flag of pelton %s", name, flag, w.name, command)
				}
			}
		}
	}
}

// KEDA's query is one that Prometheus takes.
func TestScalingQuery(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("promtool"); err != nil {
		if os.Getenv("PELTON_TEST_REQUIRE") == "1" {
			t.Fatal("promtool is missing: run scripts/deps.sh")
		}
		t.Skip("promtool is not installed")
	}
	var rules []map[string]string
	for _, s := range install(t, installations["embedded broker, with all"]).scaled {
		query := s.Spec.Triggers[0].Metadata["query"]
		for _, want := range []string{`namespace="ns"`, `queue=~"emails|default"`} {
			if !strings.Contains(query, want) {
				t.Errorf("%s has no %s", query, want)
			}
		}
		rules = append(rules, map[string]string{"record": "keda", "expr": query})
	}
	text, err := yaml.Marshal(map[string]any{"groups": []any{map[string]any{"name": "keda", "rules": rules}}})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "rules.yml")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("promtool", "check", "rules", path).CombinedOutput(); err != nil || len(rules) == 0 {
		t.Errorf("%d queries: %v\n%s", len(rules), err, out)
	}
}
