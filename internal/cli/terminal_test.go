package cli_test

import (
	"os"
	"os/exec"
	"regexp"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// A terminal is that of tmux: a real one, with a size and a screen that can be read.

// tmux runs one of its commands against the server of this script.
func tmux(ts *testscript.TestScript, args ...string) (string, error) {
	cmd := exec.Command("tmux", append([]string{"-f", "/dev/null", "-S", ts.MkAbs("tmux.sock")}, args...)...)
	cmd.Dir = ts.MkAbs(".")
	for _, name := range []string{"PATH", "HOME", "PELTON_URL", "NO_COLOR", "GORACE"} {
		cmd.Env = append(cmd.Env, name+"="+ts.Getenv(name))
	}
	cmd.Env = append(cmd.Env, "TERM=screen-256color", "LANG=C.UTF-8", "LC_ALL=C.UTF-8", "SHELL=/bin/sh")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// cmdNeedTmux ends the script, aloud, where there is no tmux; CI forbids that.
func cmdNeedTmux(ts *testscript.TestScript, _ bool, _ []string) {
	if _, err := exec.LookPath("tmux"); err == nil {
		return
	}
	if os.Getenv("PELTON_TEST_REQUIRE") == "1" {
		ts.Fatalf("tmux is not installed, and PELTON_TEST_REQUIRE=1 forbids to skip")
	}
	ts.Value(testingKey{}).(testscript.T).Skip("tmux is not installed")
}

type testingKey struct{}

func cmdTerminal(ts *testscript.TestScript, _ bool, args []string) {
	how := []string{"new-session", "-d", "-x", "80", "-y", "24"}
	if _, err := tmux(ts, "has-session"); err == nil {
		how = []string{"new-window"} // of that size, too
	}
	// The shell stays, so that the screen can be read when the command has ended.
	if out, err := tmux(ts, append(how, "trap : INT; "+args[0]+"; echo exit code $?; read wait")...); err != nil {
		ts.Fatalf("tmux: %v: %s", err, out)
	}
	ts.Defer(func() { _, _ = tmux(ts, "kill-server") }) // fails when the script has ended it
}

func cmdScreen(ts *testscript.TestScript, _ bool, args []string) {
	pattern := regexp.MustCompile("(?m)" + args[0])
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); ; <-tick.C {
		screen, err := tmux(ts, "capture-pane", "-p")
		if err == nil && pattern.MatchString(screen) {
			_, err := ts.Stdout().Write([]byte(screen))
			ts.Check(err)
			return
		}
		if time.Now().After(end) {
			ts.Fatalf("the screen does not match %s: %v\n%s", args[0], err, screen)
		}
	}
}

func cmdColours(ts *testscript.TestScript, neg bool, _ []string) {
	screen, err := tmux(ts, "capture-pane", "-p", "-e")
	ts.Check(err)
	if found := regexp.MustCompile(`\x1b\[[0-9;]*3[0-7][;m]`).MatchString(screen); found == neg {
		ts.Fatalf("colours: %t\n%q", found, screen)
	}
}

func cmdKeys(ts *testscript.TestScript, _ bool, args []string) {
	out, err := tmux(ts, append([]string{"send-keys"}, args...)...)
	if err != nil {
		ts.Fatalf("tmux: %v: %s", err, out)
	}
}
