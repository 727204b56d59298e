package deploy

import (
	"fmt"
	"strings"
	"testing"

	"helm.sh/helm/v4/pkg/chart/v2/lint"
	"helm.sh/helm/v4/pkg/chart/v2/lint/support"
	"sigs.k8s.io/yaml"
)

const chartDir = "helm/pelton"

// installations are sets of values that cover every template.
var installations = map[string]string{
	"embedded broker, nothing said": ``,
	"embedded broker, with all": `
fullnameOverride: queue
auth: {existingSecret: api, key: t}
nats: {existingSecret: broker, key: nk}
redis: {existingSecret: redis}
server: {sync: 1s, persistence: {size: 1Ti, storageClass: fast}, extraArgs: ["--max-held", "100"], extraEnv: [{name: GOMEMLIMIT, value: 800MiB}],
  nodeSelector: {disk: ssd}, tolerations: [{key: k, operator: Exists}], affinity: {nodeAffinity: {}}, podAnnotations: {a: b}}
workers:
  - name: demo
  - name: mail
    image: registry.example.com/mail:1
    command: ["/pelton"]
    args: ["worker", "run", "--exec", "mail.send=/bin/true"]
    queues: [emails, default]
    concurrency: 4
    grace: 120s
    autoscaling: {enabled: true, minReplicas: 0, maxReplicas: 20, tasksPerReplica: 50}
    env: [{name: SMTP, value: mail}]
    resources: {limits: {memory: 1Gi}}
    nodeSelector: {disk: ssd}
ingress: {enabled: true, className: nginx, host: pelton.example.com, tlsSecret: tls, annotations: {a: b}}
networkPolicy: {enabled: true, apiFrom: [{namespaceSelector: {matchLabels: {team: a}}}], metricsFrom: [{namespaceSelector: {}}]}
podMonitor: {enabled: true, labels: {release: prometheus}}
imagePullSecrets: [{name: pull}]
serviceAccount: {annotations: {a: b}}
service: {type: LoadBalancer, port: 80, annotations: {a: b}}
`,
	"external brokers": `
nats: {url: "nats://a:4222,nats://b:4222,nats://c:4222", existingSecret: broker}
server: {replicas: 3}
workers: [{name: demo, replicas: 3, autoscaling: {enabled: false}}]
networkPolicy: {enabled: true}
podMonitor: {enabled: true}
`,
	"external brokers without a token": `
nats: {url: "nats://a:4222", replicas: 1}
podDisruptionBudget: {enabled: false}
`,
	"external brokers that know users": `
nats: {url: "tls://a:4222,tls://b:4222", credsSecret: user, credsKey: u.creds, tlsSecret: certs, tlsClient: true}
workers: [{name: demo}]
`,
	"external brokers with an authority of their own": `
nats: {url: "tls://a:4222", existingSecret: broker, key: nk, tlsSecret: certs}
`,
}

// helm lint has nothing to say, with any of the values.
func TestLint(t *testing.T) {
	t.Parallel()
	for name, values := range installations {
		given := make(map[string]any)
		if err := yaml.UnmarshalStrict([]byte(values), &given); err != nil {
			t.Fatal(err)
		}
		for _, message := range lint.RunAll(chartDir, given, "ns").Messages {
			if message.Severity > support.InfoSev {
				t.Errorf("%s: %v", name, message)
			}
		}
	}
}

// Wrong values are refused, and say which they are.
func TestSchema(t *testing.T) {
	t.Parallel()
	for values, named := range map[string]string{
		`replicas: 3`:                        "replicas",
		`server: {replica: 3}`:               "replica",
		`server: {replicas: 0}`:              "replicas",
		`server: {drainDelay: 5}`:            "drainDelay",
		`server: {sync: never}`:              "sync",
		`nats: {url: "http://a"}`:            "url",
		`nats: {url: "nats://me:pass@a"}`:    "url",
		`nats: {replicas: 2}`:                "replicas",
		`workers: [{image: x}]`:              "name",
		`workers: [{name: Mail}]`:            "name",
		`workers: [{name: a, queues: []}]`:   "queues",
		`workers: [{name: a, grace: 1m}]`:    "grace",
		`ingress: {enabled: true}`:           "host",
		`auth: {existingSecret: "A secret"}`: "existingSecret",

		`nats: {credsSecret: user}`: "url",
		`nats: {url: "nats://a", credsSecret: user, existingSecret: broker}`: "existingSecret",
		`nats: {tlsSecret: certs}`:                "url",
		`nats: {url: "tls://a", tlsClient: true}`: "tlsSecret",
	} {
		if _, err := render(values); err == nil || !strings.Contains(err.Error(), named) {
			t.Errorf("%s: %v", values, err)
		}
	}
}

// The shapes: what there is, how many, and with what beside it.
func TestShapes(t *testing.T) {
	t.Parallel()
	type shape struct {
		workloads          []string
		services, budgets  int
		secretKeys, claims int
		policies, scaled   int
	}
	for name, want := range map[string]shape{
		"embedded broker, nothing said":    {[]string{"StatefulSet/r-pelton=1"}, 2, 0, 2, 1, 0, 0},
		"embedded broker, with all":        {[]string{"StatefulSet/queue=1", "Deployment/queue-demo=1", "Deployment/queue-mail=?"}, 2, 2, 0, 1, 2, 1},
		"external brokers":                 {[]string{"Deployment/r-pelton=3", "Deployment/r-pelton-demo=3"}, 1, 2, 1, 0, 2, 0},
		"external brokers without a token": {[]string{"Deployment/r-pelton=2"}, 1, 0, 1, 0, 0, 0},

		"external brokers that know users":                {[]string{"Deployment/r-pelton=2", "Deployment/r-pelton-demo=1"}, 1, 2, 1, 0, 0, 0},
		"external brokers with an authority of their own": {[]string{"Deployment/r-pelton=2"}, 1, 1, 1, 0, 0, 0},
	} {
		m := install(t, installations[name])
		got := shape{services: len(m.services), budgets: len(m.budgets), policies: len(m.policies), scaled: len(m.scaled)}
		for _, w := range m.workloads {
			replicas := "?" // KEDA's
			if w.replicas != nil {
				replicas = fmt.Sprint(*w.replicas)
			}
			got.workloads = append(got.workloads, w.kind+"/"+w.name+"="+replicas)
			got.claims += len(w.claims)
		}
		for _, s := range m.secrets {
			got.secretKeys += len(s.Data)
			for key, value := range s.Data {
				if len(value) < 32 {
					t.Errorf("%s: the secret %s has %d bytes", name, key, len(value))
				}
			}
		}
		if fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", want) {
			t.Errorf("%s: %+v, want %+v", name, got, want)
		}
	}
}
