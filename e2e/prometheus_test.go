package e2e_test

import (
	"os/exec"
	"testing"
)

// The configuration of Prometheus and its alerts are ones that it takes, and each
// alert fires when deploy/alerts_test.yml says so.
func TestAlerts(t *testing.T) {
	t.Parallel()
	require(t, "promtool")
	for _, args := range [][]string{
		{"check", "config", "--syntax-only", "../deploy/prometheus.yml"}, // else it looks for the token's file
		{"check", "rules", "../deploy/alerts.yml"},
		{"test", "rules", "../deploy/alerts_test.yml"},
	} {
		if out, err := exec.Command("promtool", args...).CombinedOutput(); err != nil {
			t.Errorf("promtool %v: %v\n%s", args, err, out)
		}
	}
}
