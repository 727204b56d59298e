package cli

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/peltonq/pelton"
)

func TestEnvName(t *testing.T) {
	t.Parallel()
	if got := envName("nats-listen"); got != "PELTON_NATS_LISTEN" {
		t.Error(got)
	}
}

// configureTest gives a command's flags what the layers say, as every command gets it.
func configureTest(flags func(*pflag.FlagSet), environ []string, args ...string) (map[string]origin, string, error) {
	var stderr bytes.Buffer
	a := &app{environ: environ, stderr: &stderr}
	root := a.root()
	cmd := inSection(&cobra.Command{Use: "test"}, "test")
	flags(cmd.Flags())
	root.AddCommand(cmd)
	if err := cmd.ParseFlags(args); err != nil {
		return nil, "", err
	}
	origins, err := a.configure(cmd)
	return origins, stderr.String(), err
}

func TestEnvironment(t *testing.T) {
	t.Parallel()
	type values struct {
		Addr   string
		Demo   bool
		N      int
		Grace  time.Duration
		Queues []string
		Exec   []string
		Limits map[pelton.Priority]int
	}
	for _, tc := range []struct {
		name string
		args []string
		env  map[string]string
		want values
		err  string
	}{
		{
			name: "defaults",
			want: values{Addr: "a", N: 16, Grace: time.Second, Queues: []string{"default"}},
		},
		{
			name: "environment",
			env: map[string]string{
				"PELTON_ADDR": "b", "PELTON_DEMO": "true", "PELTON_CONCURRENCY": "3", "PELTON_GRACE": "2d", "PELTON_QUEUES": "x,y",
				"PELTON_EXEC": "a=b,c\nd=e f\n", "PELTON_LIMIT": "low=2,high=3",
			},
			want: values{
				Addr: "b", Demo: true, N: 3, Grace: 48 * time.Hour, Queues: []string{"x", "y"},
				Exec: []string{"a=b,c", "d=e f"}, Limits: map[pelton.Priority]int{pelton.Low: 2, pelton.High: 3},
			},
		},
		{
			name: "flags win, and bad variables behind them do not matter",
			args: []string{"--addr", "c", "--concurrency=5", "--queues", "z", "--limit", "low=1"},
			env:  map[string]string{"PELTON_ADDR": "b", "PELTON_CONCURRENCY": "x", "PELTON_QUEUES": "y", "PELTON_LIMIT": "high=1"},
			want: values{Addr: "c", N: 5, Grace: time.Second, Queues: []string{"z"}, Limits: map[pelton.Priority]int{pelton.Low: 1}},
		},
		{name: "empty is unset", env: map[string]string{"PELTON_CONCURRENCY": ""}, want: values{Addr: "a", N: 16, Grace: time.Second, Queues: []string{"default"}}},
		{name: "bad number", env: map[string]string{"PELTON_CONCURRENCY": "many"}, err: "PELTON_CONCURRENCY"},
		{name: "bad duration", env: map[string]string{"PELTON_GRACE": "soon"}, err: "PELTON_GRACE"},
		{name: "bad bool", env: map[string]string{"PELTON_DEMO": "perhaps"}, err: "PELTON_DEMO"},
		{name: "bad slots", env: map[string]string{"PELTON_LIMIT": "low"}, err: "PELTON_LIMIT"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			var (
				got    values
				grace  = durationValue(time.Second)
				limits = slotsValue{least: 1}
			)
			var environ []string
			for name, value := range tc.env {
				environ = append(environ, name+"="+value)
			}
			_, _, err := configureTest(func(flags *pflag.FlagSet) {
				flags.StringVar(&got.Addr, "addr", "a", "")
				flags.BoolVar(&got.Demo, "demo", false, "")
				flags.IntVar(&got.N, "concurrency", 16, "")
				flags.Var(&grace, "grace", "")
				flags.StringSliceVar(&got.Queues, "queues", []string{"default"}, "")
				flags.StringArrayVar(&got.Exec, "exec", nil, "")
				flags.Var(&limits, "limit", "")
			}, environ, tc.args...)
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) || exitCode(err) != exitUsage {
					t.Fatalf("error %v, want one that names %s", err, tc.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			got.Grace, got.Limits = grace.duration(), limits.slots
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// No two flags of one command may share a variable, and every flag must have a
// usage line.
func TestEveryFlagIsUsable(t *testing.T) {
	t.Parallel()
	var visit func(cmd *cobra.Command)
	visit = func(cmd *cobra.Command) {
		seen := make(map[string]string)
		cmd.InheritedFlags() // merges
		cmd.Flags().VisitAll(func(f *pflag.Flag) {
			if other, taken := seen[envName(f.Name)]; taken {
				t.Errorf("%s: --%s and --%s share a variable", cmd.CommandPath(), f.Name, other)
			}
			seen[envName(f.Name)] = f.Name
			if f.Usage == "" {
				t.Errorf("%s: --%s has no usage", cmd.CommandPath(), f.Name)
			}
		})
		for _, sub := range cmd.Commands() {
			visit(sub)
		}
	}
	visit((&app{}).root())
}
