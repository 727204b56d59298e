package cli_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/cli"
)

// patience is how long a script waits for something that takes milliseconds.
const patience = 20 * time.Second

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"pelton": func() {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		code := cli.Main(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr, os.Environ())
		stop()
		os.Exit(code)
	}})
}

// TestScript runs testdata/script. Beyond testscript's own commands there are:
//
//	serve NAME [-until MESSAGE] [flag...]
//		runs "pelton serve" until its log says MESSAGE ("ready"), and sets
//		PELTON_URL and, with --nats-listen, BROKER
//	shutdown NAME (testscript's own "stop" ends the script, and would hide what follows)
//		ends that server by SIGTERM and expects exit code 0
//	exits CODE program [arg...]
//		is exec that expects an exit code
//	eventually program [arg...]
//		is exec until it succeeds
//	get STATUS PATH
//		is a GET of the API that expects a status; the body is stdout
//	field VARIABLE NAME
//		sets VARIABLE to a field of the JSON object in stdout
//	freeport VARIABLE
//		finds a port
//	secret VARIABLE FILE
//		sets VARIABLE to the one line of a file
//	certs AUTHORITY NAME...
//		makes an authority, and certificates of it
//	operator NAME...
//		starts a broker that knows its clients by credentials, writes such for it to
//		NAME.creds and a stranger's to stranger.creds, and sets BROKER
//	secure
//		makes PELTON_URL an https:// one
//	comesto CODE program [arg...]
//		is exits, until it does
//	genlines N FILE
//		writes a file of that many tasks
//	drained QUEUE N
//		waits until a queue has neither ready nor running tasks, and expects that the
//		handlers of the server ran N times for it
//	needtmux
//		ends the script where there is no terminal for it
//	terminal COMMAND
//		runs a shell command in a terminal of 80 columns and 24 lines
//	screen [PATTERN]
//		waits until its screen matches, and prints it
//	colours
//		expects that the screen has some
//	keys KEY...
//		presses keys there
//	signalafter SIGNAL LINES CODE program [arg...]
//		runs a program, sends it INT, TERM or KILL after so many lines of its stdout,
//		and expects an exit code (- for one that was killed)
func TestScript(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			env.Values[serversKey{}], env.Values[testingKey{}] = make(servers), env.T()
			// Under the race detector every program would end a second late.
			env.Setenv("GORACE", "atexit_sleep_ms=0")
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"serve": cmdServe, "shutdown": cmdShutdown, "exits": cmdExits, "eventually": cmdEventually,
			"get": cmdGet, "field": cmdField, "freeport": cmdFreePort, "signalafter": cmdSignalAfter, "genlines": cmdGenLines, "drained": cmdDrained,
			"secret": cmdSecret, "comesto": cmdComesTo, "certs": cmdCerts(t), "operator": cmdOperator(t), "secure": cmdSecure,
			"needtmux": cmdNeedTmux, "terminal": cmdTerminal, "screen": cmdScreen, "keys": cmdKeys, "colours": cmdColours,
		},
	})
}

type (
	serversKey struct{}
	servers    map[string]*backgroundServer
)

// backgroundServer is a "pelton serve" that a script started.
type backgroundServer struct {
	cmd    *exec.Cmd
	log    lockedBuffer
	copied chan struct{} // closed at the end of stderr
}

// lockedBuffer can be read while it is written to.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) add(line string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.buf.WriteString(line + "\n")
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func cmdServe(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: serve NAME [-until MESSAGE] [flag...]")
	}
	name, args, until := args[0], args[1:], "ready"
	if len(args) > 1 && args[0] == "-until" {
		until, args = args[1], args[2:]
	}
	all := append([]string{"serve", "--addr", "127.0.0.1:0", "--log-format", "json", "--data", ts.MkAbs("data-" + name)}, args...)
	path, err := exec.LookPath("pelton")
	ts.Check(err)
	s := &backgroundServer{cmd: exec.Command(path, all...), copied: make(chan struct{})}
	s.cmd.Dir = ts.MkAbs(".")
	for _, variable := range []string{"PELTON_TOKEN", "PELTON_EXEC", "PELTON_DEMO", "PELTON_NATS", "PATH", "GORACE"} {
		if value := ts.Getenv(variable); value != "" {
			s.cmd.Env = append(s.cmd.Env, variable+"="+value)
		}
	}
	stderr, err := s.cmd.StderrPipe()
	ts.Check(err)
	ts.Check(s.cmd.Start())
	reached := make(chan map[string]any, 1)
	go s.follow(stderr, until, reached)
	ts.Defer(func() {
		_ = s.cmd.Process.Kill() // fails when shutdown has ended it, as it should
		_ = s.wait()
		ts.Logf("[log of %s]\n%s", name, &s.log)
	})
	ts.Value(serversKey{}).(servers)[name] = s

	select {
	case line, ok := <-reached:
		if !ok {
			ts.Fatalf("server %s ended before it was %s:\n%s", name, until, &s.log)
		}
		if addr, _ := line["addr"].(string); addr != "" {
			ts.Setenv("PELTON_URL", "http://"+addr)
		}
		if broker, _ := line["nats"].(string); broker != "" {
			ts.Setenv("BROKER", broker)
		}
	case <-time.After(patience):
		ts.Fatalf("server %s is not %s:\n%s", name, until, &s.log)
	}
}

// follow keeps the log and sends the first line with the message, or closes.
func (s *backgroundServer) follow(stderr io.Reader, until string, reached chan<- map[string]any) {
	defer close(s.copied)
	defer close(reached)
	found := false
	for lines := bufio.NewScanner(stderr); lines.Scan(); {
		s.log.add(lines.Text())
		var line map[string]any
		if json.Unmarshal(lines.Bytes(), &line) == nil && line["msg"] == until && !found {
			found = true
			reached <- line
		}
	}
}

func (s *backgroundServer) wait() error {
	<-s.copied
	return s.cmd.Wait()
}

func cmdShutdown(ts *testscript.TestScript, _ bool, args []string) {
	s := ts.Value(serversKey{}).(servers)[args[0]]
	ts.Check(s.cmd.Process.Signal(syscall.SIGTERM))
	if err := s.wait(); err != nil {
		ts.Fatalf("server %s: %v\n%s", args[0], err, &s.log)
	}
}

func cmdExits(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("%s: exit code %d, want %d", strings.Join(args[1:], " "), got, want)
	}
}

func cmdEventually(ts *testscript.TestScript, _ bool, args []string) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); ; <-tick.C {
		err := ts.Exec(args[0], args[1:]...)
		if err == nil {
			return
		}
		if time.Now().After(end) {
			ts.Fatalf("%s: %v", strings.Join(args, " "), err)
		}
	}
}

func cmdGet(ts *testscript.TestScript, _ bool, args []string) {
	status, body := fetch(ts, args[1])
	_, err := ts.Stdout().Write(body)
	ts.Check(err)
	if strconv.Itoa(status) != args[0] {
		ts.Fatalf("GET %s: %d, want %s", args[1], status, args[0])
	}
}

// fetch is a GET of the API.
func fetch(ts *testscript.TestScript, path string) (status int, body []byte) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, ts.Getenv("PELTON_URL")+path, http.NoBody)
	ts.Check(err)
	resp, err := http.DefaultClient.Do(req)
	ts.Check(err)
	defer resp.Body.Close()
	body, err = io.ReadAll(resp.Body)
	ts.Check(err)
	return resp.StatusCode, body
}

func cmdField(ts *testscript.TestScript, _ bool, args []string) {
	var object map[string]any
	ts.Check(json.Unmarshal([]byte(ts.ReadFile("stdout")), &object))
	value, ok := object[args[1]].(string)
	if !ok {
		ts.Fatalf("no text in field %s", args[1])
	}
	ts.Setenv(args[0], value)
}

func cmdFreePort(ts *testscript.TestScript, _ bool, args []string) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	_, port, err := net.SplitHostPort(ln.Addr().String())
	ts.Check(err)
	ts.Check(ln.Close())
	ts.Setenv(args[0], port)
}

func cmdSignalAfter(ts *testscript.TestScript, _ bool, args []string) {
	number := map[string]syscall.Signal{"INT": syscall.SIGINT, "TERM": syscall.SIGTERM, "KILL": syscall.SIGKILL}[args[0]]
	after, err := strconv.Atoi(args[1])
	ts.Check(err)
	path, err := exec.LookPath(args[3])
	ts.Check(err)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args[4:]...)
	cmd.Dir, cmd.Stderr = ts.MkAbs("."), ts.Stderr()
	cmd.Env = []string{"PELTON_URL=" + ts.Getenv("PELTON_URL"), "GORACE=" + ts.Getenv("GORACE"), "HOME=" + ts.Getenv("HOME")}
	out, err := cmd.StdoutPipe()
	ts.Check(err)
	ts.Check(cmd.Start())
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	count := 0
	for lines.Scan() {
		_, err := ts.Stdout().Write(append(lines.Bytes(), '\n'))
		ts.Check(err)
		if count++; count == after {
			ts.Check(cmd.Process.Signal(number))
		}
	}
	_ = cmd.Wait() // its state says it
	if count < after {
		ts.Fatalf("%s ended after %d lines: %v", args[3], count, cmd.ProcessState)
	}
	code := strconv.Itoa(cmd.ProcessState.ExitCode())
	if killed := cmd.ProcessState.Sys().(syscall.WaitStatus).Signaled(); killed {
		code = "-"
	}
	if code != args[2] {
		ts.Fatalf("%s: exit code %s, want %s", args[3], code, args[2])
	}
}

func cmdGenLines(ts *testscript.TestScript, _ bool, args []string) {
	n, err := strconv.Atoi(args[0])
	ts.Check(err)
	var lines bytes.Buffer
	for i := range n {
		lines.WriteString(`{"kind":"demo.echo","payload":` + strconv.Itoa(i) + "}\n")
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), lines.Bytes(), 0o600))
}

func cmdDrained(ts *testscript.TestScript, _ bool, args []string) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(3 * patience); ; <-tick.C { // thousands of tasks, under the race detector too
		ts.Check(ts.Exec("pelton", "queue", "get", args[0], "-o", "json"))
		var q pelton.Queue
		ts.Check(json.Unmarshal([]byte(ts.ReadFile("stdout")), &q))
		if q.Ready+q.Running == 0 {
			break
		}
		if time.Now().After(end) {
			ts.Fatalf("queue %s is not drained", args[0])
		}
	}
	_, metrics := fetch(ts, "/metrics")
	runs := 0
	for line := range strings.Lines(string(metrics)) {
		if strings.HasPrefix(line, "pelton_task_runs_total{") && strings.Contains(line, `queue="`+args[0]+`"`) {
			fields := strings.Fields(line)
			n, err := strconv.Atoi(fields[len(fields)-1])
			ts.Check(err)
			runs += n
		}
	}
	if strconv.Itoa(runs) != args[1] {
		ts.Fatalf("%d runs of tasks of queue %s, want %s", runs, args[0], args[1])
	}
}
