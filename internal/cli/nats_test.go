package cli

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/peltonq/pelton/internal/broker"
	"github.com/peltonq/pelton/internal/brokertest"
)

func writeCreds(t *testing.T, path string, text []byte) {
	t.Helper()
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

// A file that is renewed counts from the next connection on, and one that is gone for
// a while ends nothing.
func TestCredsAreReadForEachConnection(t *testing.T) {
	t.Parallel()
	o := brokertest.StartOperator(t)
	first, firstUser := o.Creds(t)
	second, secondUser := o.Creds(t)
	path := filepath.Join(t.TempDir(), "user.creds")
	writeCreds(t, path, first)
	l, err := dialLink(slog.New(slog.DiscardHandler), natsFlags{url: o.Server.ClientURL(), creds: credsFile(path)}, party{broker.DefaultNamespace, broker.RoleAdmin})
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()
	connectedAs := func(user string) func() bool {
		return func() bool {
			z, err := o.Server.Connz(&server.ConnzOptions{Username: true, State: server.ConnOpen})
			if err != nil {
				t.Fatal(err)
			}
			return l.nc.IsConnected() && len(z.Conns) == 1 && z.Conns[0].AuthorizedUser == user
		}
	}
	eventually(t, "connected as the first user", connectedAs(firstUser))

	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := l.nc.ForceReconnect(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "not connected without the file", func() bool { return l.nc.IsReconnecting() && l.nc.LastError() != nil })
	writeCreds(t, path, second)
	eventually(t, "connected as the second user", connectedAs(secondUser))
}

func TestCredsFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	user := string(brokertest.StrangeCreds(t))
	_, seedPart, _ := strings.Cut(user, "------END NATS USER JWT------")
	jwtPart := strings.TrimSuffix(user, seedPart)
	for _, tc := range []struct {
		name, text string
		bad        string // part of the error; empty for a good file
	}{
		{name: "good", text: user},
		{name: "windows", text: strings.ReplaceAll(user, "\n", "\r\n")},
		{name: "empty", bad: "does not hold a user's JWT and seed"},
		{name: "token", text: "s3cret\n", bad: "does not hold a user's JWT and seed"},
		{name: "no-seed", text: jwtPart, bad: "does not hold a user's JWT and seed"},
		{name: "no-jwt", text: seedPart, bad: "does not hold a user's JWT and seed"},
		{name: "spoilt-seed", text: strings.Replace(user, "\nSU", "\nSX", 1), bad: "does not hold a user's JWT and seed"},
		{name: "binary", text: strings.Repeat("\x00\xff", 100), bad: "does not hold a user's JWT and seed"},
		{name: "long", text: strings.Repeat("x", maxSecret+1), bad: "is longer than 65536 bytes"},
	} {
		path := filepath.Join(dir, tc.name)
		writeCreds(t, path, []byte(tc.text))
		err := credsFile(path).check()
		if tc.bad == "" && err != nil || tc.bad != "" && (err == nil || !strings.Contains(err.Error(), tc.bad) || !strings.Contains(err.Error(), path)) {
			t.Errorf("%s: %v, want %q", tc.name, err, tc.bad)
		}
		if err != nil && (strings.Contains(err.Error(), "SU") || strings.Contains(err.Error(), "eyJ")) {
			t.Errorf("%s: the error has parts of the file: %v", tc.name, err)
		}
	}
	if err := credsFile(filepath.Join(dir, "nowhere")).check(); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("missing: %v", err)
	}
	if err := credsFile(dir).check(); err == nil || !strings.Contains(err.Error(), "is a directory") {
		t.Errorf("a folder: %v", err)
	}
}
