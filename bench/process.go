package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// server is a pelton process that this program started.
type server struct {
	cmd  *exec.Cmd
	http string // base URL
	nats string
	took time.Duration // from start to ready
}

// serve starts `pelton serve` and returns when it is ready.
func serve(ctx context.Context, binary, data string, args ...string) (*server, error) {
	args = append([]string{
		"serve", "--addr", "127.0.0.1:0", "--nats-listen", "127.0.0.1:0", "--nats-token", "bench",
		"--data", data, "--log-format", "json",
	}, args...)
	return start(ctx, binary, args...)
}

func start(ctx context.Context, binary string, args ...string) (*server, error) {
	s := &server{cmd: exec.CommandContext(ctx, binary, args...)}
	s.cmd.SysProcAttr = ownGroup()
	s.cmd.Cancel = func() error { return s.cmd.Process.Signal(syscall.SIGTERM) }
	s.cmd.WaitDelay = 10 * time.Second
	stderr, err := s.cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	began := time.Now()
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	lines := bufio.NewScanner(stderr)
	var last []string
	for lines.Scan() {
		last = append(last, lines.Text())
		var line struct{ Msg, Addr, NATS string }
		if json.Unmarshal(lines.Bytes(), &line) == nil && (line.Msg == "ready" || line.Msg == "worker started") {
			s.took = time.Since(began)
			if line.Addr != "" {
				s.http = "http://" + strings.TrimPrefix(line.Addr, "http://")
			}
			s.nats = strings.Replace(line.NATS, "nats://", "nats://bench@", 1)
			go func() { _, _ = io.Copy(io.Discard, stderr) }() // ends with the process
			return s, nil
		}
	}
	return nil, fmt.Errorf("%s %s ended before it was ready: %w\n%s", binary, args[0], s.cmd.Wait(), strings.Join(last, "\n"))
}

func (s *server) stop() error {
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	return s.cmd.Wait()
}

// ticks is the CPU time of a process, in clock ticks of 10 ms.
func ticks(pid int) (float64, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// After the command's name, which ends with the last parenthesis, utime and
	// stime are fields 14 and 15 of proc(5).
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+2:]))
	user, err1 := strconv.ParseFloat(fields[11], 64)
	system, err2 := strconv.ParseFloat(fields[12], 64)
	return user + system, errors.Join(err1, err2)
}
