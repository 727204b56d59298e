// Package nginxtest gives tests the nginx that deploy/nginx.conf describes: that very file, with nothing but
// addresses and paths changed.
package nginxtest

import (
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"testing"
)

// Config is a configuration for `nginx -c`, which stays in the foreground.
type Config struct {
	Path string // of the file
	Log  string // path of the access log, a line of JSON for each request
}

// Write writes the configuration of an nginx that listens on address before two replicas, into a folder that it
// has for itself. Each of changes is what is in the file and what is to be there instead; what is not in the
// file fails the test.
func Write(t testing.TB, address string, replicas [2]string, changes ...[2]string) Config {
	t.Helper()
	text, err := os.ReadFile("../deploy/nginx.conf") // of a test whose package is a folder of the module
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	c := Config{Path: filepath.Join(dir, "nginx.conf"), Log: filepath.Join(dir, "access.log")}
	conf := string(text)
	for _, swap := range append(changes,
		[2]string{"listen 8080 ", "listen " + address + " "},
		[2]string{"api-1:7420", replicas[0]},
		[2]string{"api-2:7420", replicas[1]},
		[2]string{"/tmp/nginx/", dir + "/"},
		[2]string{"/dev/stdout", c.Log},
		[2]string{"/dev/stderr", "stderr"},
	) {
		if !strings.Contains(conf, swap[0]) {
			t.Fatalf("deploy/nginx.conf has no %q", swap[0])
		}
		conf = strings.ReplaceAll(conf, swap[0], swap[1])
	}
	me, err := user.Current() // nginx's workers, too
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(c.Path, fmt.Appendf(nil, "daemon off;\nuser %s;\n%s", me.Username, conf), 0o600); err != nil { //nolint:gosec // a folder of the test's own
		t.Fatal(err)
	}
	return c
}
