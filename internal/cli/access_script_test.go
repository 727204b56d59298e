package cli_test

import (
	"errors"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/peltonq/pelton/internal/brokertest"
	"github.com/peltonq/pelton/internal/certs/certstest"
)

// cmdSecret sets a variable to what a file says, without its end of line.
func cmdSecret(ts *testscript.TestScript, _ bool, args []string) {
	ts.Setenv(args[0], strings.TrimSpace(ts.ReadFile(args[1])))
}

// cmdSecure makes PELTON_URL one of TLS.
func cmdSecure(ts *testscript.TestScript, _ bool, _ []string) {
	ts.Setenv("PELTON_URL", strings.Replace(ts.Getenv("PELTON_URL"), "http:", "https:", 1))
}

// cmdComesTo runs a program until it has an exit code.
func cmdComesTo(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); ; <-tick.C {
		err := ts.Exec(args[1], args[2:]...)
		var exit *exec.ExitError
		if errors.As(err, &exit) && exit.ExitCode() == want || err == nil && want == 0 {
			return
		}
		if time.Now().After(end) {
			ts.Fatalf("%s: %v, want exit code %d", strings.Join(args[1:], " "), err, want)
		}
	}
}

// cmdCerts issues certificates and their keys, NAME.pem and NAME-key.pem, of an authority
// AUTHORITY.pem that it makes first: certs AUTHORITY NAME...
func cmdCerts(t *testing.T) func(*testscript.TestScript, bool, []string) {
	return func(ts *testscript.TestScript, _ bool, args []string) {
		ca := certstest.New(t, ts.MkAbs("."), args[0])
		for _, name := range args[1:] {
			ca.Issue(t, ts.MkAbs(name+".pem"), ts.MkAbs(name+"-key.pem"), name)
		}
	}
}

// cmdOperator starts a broker with an operator, and writes credentials for it: operator NAME...
func cmdOperator(t *testing.T) func(*testscript.TestScript, bool, []string) {
	return func(ts *testscript.TestScript, _ bool, args []string) {
		o := brokertest.StartOperator(t)
		files := map[string][]byte{"stranger": brokertest.StrangeCreds(t)}
		for _, name := range args {
			files[name], _ = o.Creds(t)
		}
		for name, text := range files {
			ts.Check(os.WriteFile(ts.MkAbs(name+".creds"), text, 0o600))
		}
		ts.Setenv("BROKER", o.Server.ClientURL())
	}
}
