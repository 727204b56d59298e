package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"

	"github.com/peltonq/pelton"
)

func writeFile(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// Each layer wins over the one before, setting by setting, and is named.
func TestLayers(t *testing.T) {
	t.Parallel()
	path := writeFile(t, "p.yaml", `
addr: file
lease: 3s
concurrency: 3
queues: [a, b]
test:
  concurrency: 4   # for this command alone
  limit: {low: 2, high: 3}
  exec: {a.b: cat -n}
`)
	type values struct {
		Addr, Token, Name string
		Lease             time.Duration
		N                 int
		Queues, Exec      []string
		Limits            map[pelton.Priority]int
	}
	var (
		got    values
		lease  durationValue
		limits slotsValue
	)
	origins, _, err := configureTest(func(flags *pflag.FlagSet) {
		flags.StringVar(&got.Addr, "addr", "default", "")
		flags.StringVar(&got.Name, "name", "default", "")
		secretVar(flags, &got.Token, "token", "")
		flags.Var(&lease, "lease", "")
		flags.IntVar(&got.N, "concurrency", 1, "")
		flags.StringSliceVar(&got.Queues, "queues", []string{"default"}, "")
		flags.StringArrayVar(&got.Exec, "exec", nil, "")
		flags.Var(&limits, "limit", "")
	}, []string{"PELTON_CONFIG=" + path, "PELTON_LEASE=2s", "PELTON_ADDR=environment"}, "--addr", "flag")
	if err != nil {
		t.Fatal(err)
	}
	got.Lease, got.Limits = lease.duration(), limits.slots
	want := values{
		Addr: "flag", Name: "default", Lease: 2 * time.Second, N: 4, Queues: []string{"a", "b"}, Exec: []string{"a.b=cat -n"},
		Limits: map[pelton.Priority]int{pelton.Low: 2, pelton.High: 3},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for key, want := range map[string]string{
		"addr": "flag --addr", "lease": "environment PELTON_LEASE", "queues": "file " + path + ":5",
		"concurrency": "file " + path + ":7", "name": "default", "config": "environment PELTON_CONFIG",
	} {
		if got := origins[key].String(); got != want {
			t.Errorf("%s came from %q, want %q", key, got, want)
		}
	}
}

func TestConfigErrors(t *testing.T) {
	t.Parallel()
	known := knownSettings((&app{}).root())
	for _, tc := range []struct {
		text string
		want []string // none means that it is right
	}{
		{"", nil},
		{"# nothing\n", nil},
		{"serve:\n", nil},
		{"url: http://x\nserve: {addr: x, exec: [a=b, c=d]}\nworker: {exec: {a: b}, queues: q}", nil},
		{"addr: &a x\nserve: {data: *a}", nil},
		{"\nnats-lisetn: x", []string{`f:2:1: unknown key "nats-lisetn"; did you mean nats-listen?`}},
		{"nats_listen: x", []string{`f:1:1: unknown key "nats_listen"; did you mean nats-listen?`}},
		{"servr: {}", []string{"did you mean serve?"}},
		{"quite-something: 1\nlog_level: info", []string{`f:1:1: unknown key "quite-something"`, "did you mean log-level?"}},
		{"serve:\n  metrics-addr: x", []string{`f:2:3: unknown key "metrics-addr" in section serve`}},
		{"worker:\n  worker: {}", []string{"unknown key"}},
		{"config: x", []string{"unknown key"}},
		{"help: true", []string{"unknown key"}},
		{"state: queued", []string{"unknown key"}}, // a flag of a verb
		{"addr: x\nlease: 1s\naddr: y", []string{"f:3:1: addr is set twice, first on line 1"}},
		{"addr:", []string{"addr has no value"}},
		{"addr: [a]", []string{"f:1:7: addr takes one value"}},
		{"queues: {a: b}", []string{"queues takes one value or a list"}},
		{"queues: [[a]]", []string{"queues: want one text"}},
		{"queues: []", []string{"queues has no value"}},
		{"limit: [low]", []string{"limit takes names with values"}},
		{"- a", []string{"f:1:1: want keys and values"}},
		{"serve: 1", []string{"f:1:8: want keys and values"}},
		{"a: b\n---\nc: d", []string{"more than one document"}},
		{"token: @/run/x", []string{"yaml"}},
		{"<<: {addr: x}", []string{"unknown key"}},
	} {
		_, bad := parseConfig("f", []byte(tc.text), known)
		if len(bad) != len(tc.want) {
			t.Errorf("%q: %v, want %q", tc.text, bad, tc.want)
			continue
		}
		for i, want := range tc.want {
			if !strings.Contains(bad[i].Error(), want) {
				t.Errorf("%q: %v, want %q", tc.text, bad[i], want)
			}
		}
	}
}

// FuzzParseConfig: whatever is in the file, it is taken or its places are told.
func FuzzParseConfig(f *testing.F) {
	for _, seed := range []string{"", "addr: x", "serve: {exec: {a: b}}", "a: &a [*a]", "queues: *x", "? [a]\n: b", "!!binary x: y", "{{}: 1}", "addr: &a\n  - *a"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		known := knownSettings((&app{}).root())
		file, bad := parseConfig("f", []byte(text), known)
		for _, e := range bad {
			if e.text == "" || !strings.HasPrefix(e.Error(), "f:") {
				t.Errorf("%+v", e)
			}
		}
		if len(bad) == 0 {
			_ = file.checkValues(known) // values may be wrong in any way
		}
	})
}

func TestSecrets(t *testing.T) {
	t.Parallel()
	secret := writeFile(t, "secret", "s3cret\n")
	config := writeFile(t, "p.yaml", "token-file: "+secret)
	both := writeFile(t, "both.yaml", "token: x\ntoken-file: "+secret)
	for _, tc := range []struct {
		name    string
		environ []string
		args    []string
		want    string
		err     string
	}{
		{name: "file", environ: []string{"PELTON_TOKEN_FILE=" + secret}, want: "s3cret"},
		{name: "file named by a flag", args: []string{"--token-file", secret}, want: "s3cret"},
		{name: "file named by the configuration", args: []string{"--config", config}, want: "s3cret"},
		{name: "a flag wins over a file of the environment", environ: []string{"PELTON_TOKEN_FILE=" + secret}, args: []string{"--token", "x"}, want: "x"},
		{name: "a file of a flag wins over the environment", environ: []string{"PELTON_TOKEN=x"}, args: []string{"--token-file", secret}, want: "s3cret"},
		{name: "the environment wins over the configuration", environ: []string{"PELTON_TOKEN=x"}, args: []string{"--config", config}, want: "x"},
		{name: "both", environ: []string{"PELTON_TOKEN_FILE=" + secret, "PELTON_TOKEN=topsecret"}, err: "PELTON_TOKEN and PELTON_TOKEN_FILE exclude each other"},
		{name: "both in the file", args: []string{"--config", both}, err: "exclude each other"},
		{name: "no such file", args: []string{"--token-file", secret + "x"}, err: "--token-file: open"},
		{name: "empty", args: []string{"--token-file", writeFile(t, "empty", "\n")}, err: "is empty"},
		{name: "lines", args: []string{"--token-file", writeFile(t, "lines", "a\nb")}, err: "more than one line"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			var got string
			_, _, err := configureTest(func(flags *pflag.FlagSet) { secretVar(flags, &got, "token", "") }, tc.environ, tc.args...)
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) || exitCode(err) != exitUsage || strings.Contains(err.Error(), "topsecret") {
					t.Fatalf("error %v, want %q", err, tc.err)
				}
				return
			}
			if err != nil || got != tc.want {
				t.Errorf("%q, %v, want %q", got, err, tc.want)
			}
		})
	}
}

func TestWarnVariables(t *testing.T) {
	t.Parallel()
	for variable, want := range map[string]string{
		"PELTON_TOKN=x":                    "PELTON_TOKEN?",
		"PELTON_NATS_LISTN=x":              "PELTON_NATS_LISTEN?",
		"PELTON_TOKN=":                     "", // empty is unset
		"PELTON_TOKEN=x":                   "",
		"PELTON_STATE=x":                   "", // another command's
		"PELTON_PORT=tcp://1.2.3.4:7420":   "", // Kubernetes
		"PELTON_SERVICE_HOST=1.2.3.4":      "",
		"PELTON_COLOUR_OF_THE_DASHBOARD=x": "",
		"PELTN_TOKEN=x":                    "", // not ours
	} {
		_, stderr, err := configureTest(func(*pflag.FlagSet) {}, []string{variable, "PELTON_LOG_FORMAT=json"})
		want = strings.TrimSuffix(want, "?")
		if stderr != "" && !strings.HasPrefix(stderr, `{"time":`) { // the command has a section, as a server
			t.Errorf("%s: %q is no line of the log", variable, stderr)
		}
		if err != nil || (stderr != "") != (want != "") || !strings.Contains(stderr, want) {
			t.Errorf("%s: %q, %v, want %q", variable, stderr, err, want)
		}
	}
}
