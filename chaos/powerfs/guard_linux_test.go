package powerfs

import (
	"bufio"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// A process that is killed leaves no mount behind.
func TestGuard(t *testing.T) {
	t.Parallel()
	const mountHere = "PELTON_POWERFS_MOUNT"
	if dir := os.Getenv(mountHere); dir != "" { // the one that dies
		if _, err := NewDisk().Mount(dir); err != nil {
			t.Fatal(err)
		}
		os.Stdout.WriteString("mounted\n")
		select {}
	}
	dir := boot(t).dir + ".dies" // whatever boot skips for, this is skipped for
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	child := exec.Command(os.Args[0], "-test.run=^TestGuard$", "-test.timeout=20s")
	child.Env = append(os.Environ(), mountHere+"="+dir)
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "mounted\n" {
		t.Errorf("%q, %v", line, err)
	} else if !mounted(t, dir) {
		t.Error("not mounted")
	}
	_ = child.Process.Kill()
	_ = child.Wait()
	deadline := time.After(10 * time.Second)
	again := time.NewTicker(5 * time.Millisecond)
	defer again.Stop()
	for mounted(t, dir) {
		select {
		case <-again.C:
		case <-deadline:
			t.Fatal("still mounted")
		}
	}
	if err := os.Remove(dir); err != nil {
		t.Error(err)
	}
}

func mounted(t *testing.T, dir string) bool {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Contains(string(mounts), " "+dir+" ")
}
