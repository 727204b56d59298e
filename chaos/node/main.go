// Command node is a nats-server of a cluster of the fault suite.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// options reads the flags.
func options() (*server.Options, error) {
	opts := &server.Options{NoSigs: true, JetStream: true, MaxPayload: 1 << 20, Logtime: true, SyncInterval: time.Second}
	var client, cluster, monitor, routes string
	flag.StringVar(&opts.ServerName, "name", "", "`name` of the server")
	flag.StringVar(&opts.StoreDir, "dir", "", "`folder` of its data")
	flag.StringVar(&opts.Authorization, "token", "", "what clients have to show")
	flag.StringVar(&client, "client", "", "`HOST:PORT` for clients")
	flag.StringVar(&cluster, "cluster", "", "`HOST:PORT` for the other servers")
	flag.StringVar(&monitor, "monitor", "", "`HOST:PORT` of its health")
	flag.StringVar(&routes, "routes", "", "HOST:PORT of all servers, separated by commas")
	flag.Parse()
	var bad error
	for addr, to := range map[string]struct {
		host *string
		port *int
	}{client: {&opts.Host, &opts.Port}, cluster: {&opts.Cluster.Host, &opts.Cluster.Port}, monitor: {&opts.HTTPHost, &opts.HTTPPort}} {
		host, port, err := net.SplitHostPort(addr)
		if err == nil {
			*to.host = host
			*to.port, err = strconv.Atoi(port)
		}
		bad = errors.Join(bad, err)
	}
	opts.Cluster.Name = "chaos"
	// A client finds only the servers that it was told, as a host that is cut off does, and a broken
	// link between servers is noticed soon.
	opts.Cluster.NoAdvertise, opts.Cluster.PingInterval, opts.MaxPingsOut = true, time.Second, 3
	for route := range strings.SplitSeq(routes, ",") {
		opts.Routes = append(opts.Routes, &url.URL{Scheme: "nats", Host: route})
	}
	return opts, bad
}

// run serves until SIGTERM, then ends in good order: it hands over what it leads, and
// tells its clients to go elsewhere.
func run() error {
	opts, err := options()
	if err != nil {
		return err
	}
	opts.LameDuckDuration, opts.LameDuckGracePeriod = time.Second, 500*time.Millisecond
	ns, err := server.NewServer(opts)
	if err != nil {
		return fmt.Errorf("make server: %w", err)
	}
	ns.ConfigureLogger()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM) //nolint:forbidigo // a main starts it
	defer stop()
	ns.Start()
	<-ctx.Done()
	ns.LameDuckShutdown()
	ns.WaitForShutdown()
	return nil
}
