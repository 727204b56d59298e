package hosts

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// short is long enough to see that nothing comes: a lost SYN is sent again after a second.
const short = 300 * time.Millisecond

func network(t *testing.T, names ...string) *Network {
	t.Helper()
	n, err := New(t.Context(), names...)
	switch {
	case errors.Is(err, ErrNoHosts) && os.Getenv("PELTON_TEST_REQUIRE") != "1":
		t.Skip(err)
	case err != nil:
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
		if left := existing(t, n.prefix); left != "" {
			t.Errorf("namespaces are left: %s", left)
		}
	})
	return n
}

// existing are the namespaces of a prefix that there are.
func existing(t *testing.T, prefix string) (found string) {
	t.Helper()
	entries, err := os.ReadDir(netnsDir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), prefix) {
			found += e.Name() + " "
		}
	}
	return found
}

// echo serves on a host, by a process that runs there, and answers lines with themselves.
func echo(t *testing.T, n *Network, host string) (addr string) {
	t.Helper()
	path, args := n.Command(host, os.Args[0], "-test.run=^TestEchoes$")
	cmd := exec.Command(path, args...)
	addr = net.JoinHostPort(n.Addr(host), "7")
	cmd.Env = append(os.Environ(), echoAt+"="+addr)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "listening\n" {
		t.Fatalf("%q %v", line, err)
	}
	return addr
}

// echoAt is where the process of echo listens.
const echoAt = "PELTON_HOSTS_ECHO"

// TestEchoes is that process.
func TestEchoes(t *testing.T) {
	addr := os.Getenv(echoAt)
	if addr == "" {
		t.Skip("it is a part of the other tests")
	}
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	packets, err := net.ListenPacket("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		packet := make([]byte, 1)
		for {
			if _, from, err := packets.ReadFrom(packet); err == nil {
				_, _ = packets.WriteTo(packet, from)
			}
		}
	}()
	os.Stdout.WriteString("listening\n")
	for {
		conn, err := listener.Accept()
		if err != nil {
			t.Fatal(err)
		}
		go func() { _, _ = io.Copy(conn, conn) }()
	}
}

// says sends a line and reports whether it comes back in time.
func says(t *testing.T, conn net.Conn, within time.Duration) bool {
	t.Helper()
	if err := conn.SetDeadline(time.Now().Add(within)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, "x\n"); err != nil {
		t.Fatal(err)
	}
	_, err := io.ReadFull(conn, make([]byte, 2))
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatal(err)
	}
	return err == nil
}

func dial(t *testing.T, n *Network, host, addr string, within time.Duration) (net.Conn, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	conn, err := n.Dial(ctx, host, addr)
	if err == nil {
		t.Cleanup(func() { _ = conn.Close() })
	}
	return conn, err
}

func lose(t *testing.T, n *Network, percent int, links ...Link) {
	t.Helper()
	if err := n.Lose(percent, links...); err != nil {
		t.Fatal(err)
	}
}

// What is cut does not pass, in the one direction or the other, and what was lost comes later; other
// links know nothing of it.
func TestLinks(t *testing.T) {
	t.Parallel()
	n := network(t, "a", "b", "c")
	addr := echo(t, n, "b")
	a, err := dial(t, n, "a", addr, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	c, err := dial(t, n, "c", addr, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	for _, links := range [][]Link{{{"a", "b"}}, {{"b", "a"}}, n.Between([]string{"a"}, []string{"b"})} {
		lose(t, n, All, links...)
		if says(t, a, short) {
			t.Errorf("%v are cut, and an answer came", links)
		}
		if _, err := dial(t, n, "a", addr, short); err == nil {
			t.Errorf("%v are cut, and a connection was made", links)
		}
		if !says(t, c, 5*time.Second) {
			t.Errorf("%v are cut, and another link is, too", links)
		}
		lose(t, n, 0, links...)
		if err := a.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(a, make([]byte, 2)); err != nil {
			t.Errorf("%v are mended, and what was lost did not come: %v", links, err)
		}
	}
	if err := n.Lose(All, Link{"a", "nobody"}); err == nil {
		t.Error("a link to nobody was cut")
	}
	if _, err := (&net.Dialer{Timeout: short}).Dial("tcp", addr); err == nil {
		t.Error("a host is reached from outside of the network")
	}
}

// So many of a hundred packets are lost.
func TestLoss(t *testing.T) {
	t.Parallel()
	n := network(t, "a", "b")
	conn, err := n.dial(t.Context(), "a", "udp4", echo(t, n, "b"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	const sent, percent = 2000, 30
	lose(t, n, percent, Link{"a", "b"})
	came := 0
	for range sent / 20 {
		for range 20 {
			if _, err := conn.Write([]byte{1}); err != nil {
				t.Fatal(err)
			}
		}
		if err := conn.SetReadDeadline(time.Now().Add(25 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		for err == nil {
			if _, err = conn.Read(make([]byte, 1)); err == nil {
				came++
			}
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal(err)
		}
		err = nil
	}
	if want := sent * (100 - percent) / 100; came < want-120 || came > want+120 { // six standard deviations
		t.Errorf("%d of %d packets came, want about %d", came, sent, want)
	}
}

// A process that is killed leaves no host behind, and nobody who runs on one.
func TestGuard(t *testing.T) {
	t.Parallel()
	const hostsHere = "PELTON_HOSTS_HERE"
	if os.Getenv(hostsHere) != "" { // the one that dies
		n := network(t, "a")
		path, args := n.Command("a", "sleep", "1000")
		cmd := exec.Command(path, args...)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		fmt.Printf("%s %d\n", n.prefix, cmd.Process.Pid)
		select {}
	}
	network(t, "a") // whatever this skips for, it is skipped for
	child := exec.Command(os.Args[0], "-test.run=^TestGuard$", "-test.timeout=60s")
	child.Env = append(os.Environ(), hostsHere+"=1")
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	var prefix string
	var pid int
	if _, err := fmt.Fscanf(out, "%s %d\n", &prefix, &pid); err != nil {
		t.Error(err)
	} else if existing(t, prefix) == "" {
		t.Error("there is no host")
	}
	_ = child.Process.Kill()
	_ = child.Wait()
	deadline := time.After(20 * time.Second)
	again := time.NewTicker(10 * time.Millisecond)
	defer again.Stop()
	for existing(t, prefix) != "" || alive(pid) {
		select {
		case <-again.C:
		case <-deadline:
			t.Fatalf("left: %s, process %d: %t", existing(t, prefix), pid, alive(pid))
		}
	}
}

// alive reports whether a process runs.
func alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !strings.Contains(string(stat), ") Z ")
}
