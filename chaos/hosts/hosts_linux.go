package hosts

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/peltonq/pelton/chaos/guard"
)

const (
	// commandTimeout bounds one call of ip or nft.
	commandTimeout = 20 * time.Second
	// dialTimeout bounds a connection: SYN is sent again after 1 s and 3 s.
	dialTimeout = 5 * time.Second
	// most hosts that one network has addresses for.
	most = 200
	// netnsDir is where ip keeps its namespaces.
	netnsDir = "/run/netns"
)

// Network is some hosts and their switch. Make it with New.
type Network struct {
	names   []string
	prefix  string // of the namespaces, this network's own
	release func() error

	mu   sync.Mutex
	lost map[Link]int // percent; absent is none
}

// New makes hosts, each with an address of its own. Nothing of the machine's own network is touched. All of it
// is gone after Close, and if this process dies, with whatever runs there. ErrNoHosts means that this system
// or user cannot have hosts.
func New(ctx context.Context, names ...string) (*Network, error) {
	if len(names) > most {
		return nil, fmt.Errorf("%d hosts, at most %d", len(names), most)
	}
	for _, program := range []string{"ip", "nft"} {
		if _, err := exec.LookPath(program); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrNoHosts, err)
		}
	}
	if os.Geteuid() != 0 {
		return nil, fmt.Errorf("%w: not root", ErrNoHosts)
	}
	n := &Network{names: slices.Clone(names), prefix: "pelton-" + strings.ToLower(rand.Text()[:8]) + "-", lost: make(map[Link]int)}
	var err error
	if n.release, err = guard.Start(cleanUp, n.cleaned()...); err != nil {
		return nil, err
	}
	if err := n.make(ctx); err != nil {
		return nil, errors.Join(err, n.Close()) //nolint:contextcheck // it cleans up after any ctx
	}
	return n, nil
}

// cleanUp ends what runs in namespaces, but for the process of an id, which only dials there, and deletes them.
const cleanUp = `for ns in "$@"; do
  [ -e ` + netnsDir + `/"$ns" ] || continue
  for pid in $(ip netns pids "$ns"); do
    [ "$pid" = "$0" ] || kill -9 "$pid"
  done
  ip netns delete "$ns"
done`

// cleaned are the arguments of cleanUp.
func (n *Network) cleaned() []string {
	return append([]string{strconv.Itoa(os.Getpid())}, n.namespaces()...)
}

// theSwitch is the namespace of the bridge. No host has that name.
const theSwitch = "+"

func (n *Network) namespace(host string) string { return n.prefix + host }

func (n *Network) namespaces() []string {
	all := []string{n.namespace(theSwitch)}
	for _, name := range n.names {
		all = append(all, n.namespace(name))
	}
	return all
}

// make builds everything. The cables are made in the switch's namespace, and no end of them is ever elsewhere.
func (n *Network) make(ctx context.Context) error {
	for i, ns := range n.namespaces() {
		if err := run(ctx, "", "ip", "netns", "add", ns); err != nil {
			if i == 0 && errors.Is(err, errRefused) {
				return fmt.Errorf("%w: %w", ErrNoHosts, err)
			}
			return err
		}
	}
	bridge := n.namespace(theSwitch)
	cables := "link add br0 type bridge\nlink set br0 up\n"
	for i, name := range n.names {
		cables += fmt.Sprintf("link add p%d type veth peer name eth0 netns %s\nlink set p%d master br0 up\n", i, n.namespace(name), i)
	}
	if err := run(ctx, cables, "ip", "-n", bridge, "-batch", "-"); err != nil {
		return err
	}
	for _, name := range n.names {
		card := fmt.Sprintf("link set lo up\naddr add %s/24 dev eth0\nlink set eth0 up\n", n.Addr(name))
		if err := run(ctx, card, "ip", "-n", n.namespace(name), "-batch", "-"); err != nil {
			return err
		}
		if err := n.rule(ctx, name, "add table ip pelton\nadd chain ip pelton heard { type filter hook input priority 0; }\n"); err != nil {
			return fmt.Errorf("%w: %w", ErrNoHosts, err)
		}
	}
	return nil
}

// Close ends what still runs on the hosts, and takes them away.
func (n *Network) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), commandTimeout) //nolint:forbidigo // it cleans up after any ctx
	defer cancel()
	err := run(ctx, "", "sh", append([]string{"-c", cleanUp}, n.cleaned()...)...)
	return errors.Join(err, n.release())
}

// Addr is the address of a host. One that is not there has none.
func (n *Network) Addr(host string) string {
	i := slices.Index(n.names, host)
	if i < 0 {
		return ""
	}
	return fmt.Sprintf("192.0.2.%d", i+1) // of TEST-NET-1, which is nobody's
}

// Command is a command that runs on a host: in its place, with the same process id.
func (n *Network) Command(host, path string, args ...string) (string, []string) {
	return "ip", slices.Concat([]string{"netns", "exec", n.namespace(host), path}, args)
}

// Dial connects by TCP from a host to an IP address and port, for which it has five seconds.
func (n *Network) Dial(ctx context.Context, host, address string) (net.Conn, error) {
	return n.dial(ctx, host, "tcp4", address)
}

func (n *Network) dial(ctx context.Context, host, network, address string) (net.Conn, error) {
	ns, err := os.Open(filepath.Join(netnsDir, n.namespace(host)))
	if err != nil {
		return nil, fmt.Errorf("dial from %s: %w", host, err)
	}
	defer ns.Close()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, fmt.Errorf("dial from %s: %w", host, err)
	}
	defer home.Close()
	var conn net.Conn
	dialed := make(chan struct{})
	go func() {
		defer close(dialed)
		runtime.LockOSThread()
		if err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err == nil {
			// A literal address has no second one that another goroutine would try.
			conn, err = (&net.Dialer{Timeout: dialTimeout}).DialContext(ctx, network, address)
		}
		if unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil { // else nobody else ever runs on this thread
			runtime.UnlockOSThread()
		}
	}()
	<-dialed
	if err != nil {
		return nil, fmt.Errorf("dial from %s: %w", host, err)
	}
	return conn, nil
}

// Lose loses so many of a hundred packets of each link from now on, at random: 0 is none, All is every one.
// A packet is lost where it would have been heard. Other links stay as they are.
func (n *Network) Lose(percent int, links ...Link) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	var deaf []string // whose rules change
	for _, l := range links {
		if !slices.Contains(n.names, l.From) || !slices.Contains(n.names, l.To) {
			return fmt.Errorf("there is no link from %s to %s", l.From, l.To)
		}
		if n.lost[l] != percent && !slices.Contains(deaf, l.To) {
			deaf = append(deaf, l.To)
		}
		n.lost[l] = percent
	}
	ctx, cancel := context.WithTimeout(context.Background(), commandTimeout) //nolint:forbidigo // a fault ends although its test is over
	defer cancel()
	errs := make([]error, len(deaf))
	var changing sync.WaitGroup
	for i, host := range deaf {
		rules := n.rules(host)
		changing.Go(func() { errs[i] = n.rule(ctx, host, rules) })
	}
	changing.Wait()
	return errors.Join(errs...)
}

// rules are what a host does not hear, in one transaction.
func (n *Network) rules(host string) string {
	text := "flush chain ip pelton heard\n"
	for _, from := range n.names {
		switch percent := n.lost[Link{from, host}]; {
		case percent >= All:
			text += fmt.Sprintf("add rule ip pelton heard ip saddr %s drop\n", n.Addr(from))
		case percent > 0:
			text += fmt.Sprintf("add rule ip pelton heard ip saddr %s numgen random mod 100 < %d drop\n", n.Addr(from), percent)
		}
	}
	return text
}

func (n *Network) rule(ctx context.Context, host, text string) error {
	return run(ctx, text, "ip", "netns", "exec", n.namespace(host), "nft", "-f", "-")
}

// errRefused is a command that ended badly.
var errRefused = errors.New("refused")

// run runs a program of the system. What it complains about is in the error.
func run(ctx context.Context, stdin, program string, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...) //nolint:gosec // programs and names of this package
	cmd.Stdin = strings.NewReader(stdin)
	var problem bytes.Buffer
	cmd.Stderr = &problem
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%w: %s %s: %w: %s", errRefused, program, strings.Join(args, " "), err, bytes.TrimSpace(problem.Bytes()))
	}
	return nil
}
