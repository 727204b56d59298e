package deploy

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/common/util"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/engine"
	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	policy "k8s.io/api/policy/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
)

// manifests are what a chart renders, decoded strictly as the types of Kubernetes.
type manifests struct {
	workloads []workload
	services  []core.Service
	secrets   []core.Secret
	accounts  []core.ServiceAccount
	budgets   []policy.PodDisruptionBudget
	policies  []networking.NetworkPolicy
	ingresses []networking.Ingress
	scaled    []scaledObject
	monitors  []podMonitor
}

// workload is a Deployment or a StatefulSet.
type workload struct {
	kind, name string
	replicas   *int32
	selector   *meta.LabelSelector
	pod        core.PodTemplateSpec
	claims     []core.PersistentVolumeClaim
}

// scaledObject is what the chart uses of KEDA's keda.sh/v1alpha1.
type scaledObject struct {
	meta.TypeMeta   `json:",inline"`
	meta.ObjectMeta `json:"metadata"`

	Spec struct {
		ScaleTargetRef struct {
			Name string `json:"name"`
		} `json:"scaleTargetRef"`
		MinReplicaCount *int32 `json:"minReplicaCount"`
		MaxReplicaCount *int32 `json:"maxReplicaCount"`
		Fallback        struct {
			FailureThreshold int32 `json:"failureThreshold"`
			Replicas         int32 `json:"replicas"`
		} `json:"fallback"`
		Triggers []struct {
			Type       string            `json:"type"`
			MetricType string            `json:"metricType"`
			Metadata   map[string]string `json:"metadata"`
		} `json:"triggers"`
	} `json:"spec"`
}

// podMonitor is what it uses of monitoring.coreos.com/v1.
type podMonitor struct {
	meta.TypeMeta   `json:",inline"`
	meta.ObjectMeta `json:"metadata"`

	Spec struct {
		Selector            meta.LabelSelector `json:"selector"`
		PodMetricsEndpoints []struct {
			Port          string `json:"port"`
			Interval      string `json:"interval"`
			Authorization *struct {
				Credentials core.SecretKeySelector `json:"credentials"`
			} `json:"authorization"`
		} `json:"podMetricsEndpoints"`
	} `json:"spec"`
}

// render is `helm template`, the values' schema included.
func render(values string) (map[string]string, error) {
	chart, err := loader.LoadDir(chartDir)
	if err != nil {
		return nil, err
	}
	given := make(map[string]any)
	if err := yaml.UnmarshalStrict([]byte(values), &given); err != nil {
		return nil, err
	}
	all, err := util.ToRenderValues(chart, given, common.ReleaseOptions{Name: "r", Namespace: "ns", IsInstall: true}, common.DefaultCapabilities)
	if err != nil {
		return nil, err
	}
	return engine.Render(chart, all)
}

// decode reads one document of what was rendered.
func (m *manifests) decode(text string) error {
	var kind meta.TypeMeta
	if err := yaml.Unmarshal([]byte(text), &kind); err != nil {
		return err
	}
	switch kind.APIVersion + " " + kind.Kind {
	case "apps/v1 Deployment":
		d, err := strict[apps.Deployment](text)
		m.workloads = append(m.workloads, workload{"Deployment", d.Name, d.Spec.Replicas, d.Spec.Selector, d.Spec.Template, nil})
		return err
	case "apps/v1 StatefulSet":
		s, err := strict[apps.StatefulSet](text)
		m.workloads = append(m.workloads, workload{"StatefulSet", s.Name, s.Spec.Replicas, s.Spec.Selector, s.Spec.Template, s.Spec.VolumeClaimTemplates})
		return err
	case "v1 Service":
		return keep(&m.services, text)
	case "v1 Secret":
		return keep(&m.secrets, text)
	case "v1 ServiceAccount":
		return keep(&m.accounts, text)
	case "policy/v1 PodDisruptionBudget":
		return keep(&m.budgets, text)
	case "networking.k8s.io/v1 NetworkPolicy":
		return keep(&m.policies, text)
	case "networking.k8s.io/v1 Ingress":
		return keep(&m.ingresses, text)
	case "keda.sh/v1alpha1 ScaledObject":
		return keep(&m.scaled, text)
	case "monitoring.coreos.com/v1 PodMonitor":
		return keep(&m.monitors, text)
	default:
		return fmt.Errorf("there is a %s %q", kind.APIVersion, kind.Kind)
	}
}

// strict refuses unknown fields, wrong case and what stands there twice.
func strict[T any](text string) (object T, err error) {
	raw, err := yaml.YAMLToJSONStrict([]byte(text))
	if err != nil {
		return object, err
	}
	complaints, err := json.UnmarshalStrict(raw, &object)
	return object, errors.Join(append(complaints, err)...)
}

func keep[T any](list *[]T, text string) error {
	object, err := strict[T](text)
	*list = append(*list, object)
	return err
}

func install(t *testing.T, values string) *manifests {
	t.Helper()
	files, err := render(values)
	if err != nil {
		t.Fatal(err)
	}
	m := &manifests{}
	for _, file := range slices.Sorted(maps.Keys(files)) {
		if !strings.HasSuffix(file, ".yaml") {
			continue
		}
		for _, text := range regexp.MustCompile(`(?m)^---$`).Split(files[file], -1) {
			if strings.TrimSpace(text) == "" {
				continue
			}
			if err := m.decode(text); err != nil {
				t.Errorf("%s: %v\n%s", file, err, text)
			}
		}
	}
	return m
}
