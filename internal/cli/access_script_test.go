package cli_test

import (
	"errors"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// cmdSecret sets a variable to what a file says, without its end of line.
func cmdSecret(ts *testscript.TestScript, _ bool, args []string) {
	ts.Setenv(args[0], strings.TrimSpace(ts.ReadFile(args[1])))
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
