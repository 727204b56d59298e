package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// clusterSize is how many brokers a cluster has: the fewest that survive a loss.
const clusterSize = 3

// cluster is some brokers on loopback, each a process with data of its own, which
// sync as often as Pelton's does by default.
type cluster struct {
	nodes    []*child
	urls     string   // of all of them, separated by commas
	profiles []string // where each shows its profiles
}

// nodeOptions are the argument of a broker's process, as JSON.
type nodeOptions struct {
	Name    string   `json:"name"`
	Dir     string   `json:"dir"`
	Cluster int      `json:"cluster"` // port for the other brokers
	Profile int      `json:"profile"` // port for profiles
	Routes  []string `json:"routes"`  // of all brokers
}

// startCluster returns when the brokers have a leader.
func startCluster(ctx context.Context, dir string) (c *cluster, err error) {
	c = &cluster{}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.stop())
		}
	}()
	all := make([]nodeOptions, clusterSize)
	var routes, urls []string
	for i := range all {
		o := nodeOptions{Name: fmt.Sprintf("n%d", i+1)}
		o.Dir = filepath.Join(dir, o.Name)
		if o.Cluster, err = freePort(ctx); err == nil {
			o.Profile, err = freePort(ctx)
		}
		if err == nil {
			err = os.MkdirAll(o.Dir, 0o700)
		}
		if err != nil {
			return c, err
		}
		all[i] = o
		routes = append(routes, "nats://127.0.0.1:"+strconv.Itoa(o.Cluster))
		c.profiles = append(c.profiles, fmt.Sprintf("http://127.0.0.1:%d/debug/pprof/", o.Profile))
	}
	for _, o := range all {
		o.Routes = routes
		says, err := json.Marshal(o)
		if err != nil {
			return c, err
		}
		node, at, err := listening(ctx, o.Dir+".log", "node", string(says))
		if err != nil {
			return c, err
		}
		c.nodes, urls = append(c.nodes, node), append(urls, at)
	}
	c.urls = strings.Join(urls, ",")
	nc, err := nats.Connect(c.urls)
	if err != nil {
		return c, err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return c, err
	}
	return c, c.nodes[0].until(ctx, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		_, err := js.AccountInfo(ctx)
		return err
	})
}

// stop ends all brokers at once: the last one would wait for the others.
func (c *cluster) stop() error {
	errs := make([]error, len(c.nodes))
	var group sync.WaitGroup
	for i, node := range c.nodes {
		group.Go(func() { errs[i] = node.stop() })
	}
	group.Wait()
	return errors.Join(errs...)
}

func (c *cluster) pids() (pids []int) {
	for _, node := range c.nodes {
		pids = append(pids, node.cmd.Process.Pid)
	}
	return pids
}

// profile writes a CPU profile of each broker to a folder.
func (c *cluster) profile(ctx context.Context, folder, name string, window time.Duration) error {
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return err
	}
	errs := make([]error, len(c.profiles))
	var group sync.WaitGroup
	for i, base := range c.profiles {
		group.Go(func() {
			from := fmt.Sprintf("%sprofile?seconds=%d", base, int(window.Seconds()))
			errs[i] = download(ctx, from, filepath.Join(folder, fmt.Sprintf("%s-n%d.pprof", name, i+1)))
		})
	}
	group.Wait()
	return errors.Join(errs...)
}

func download(ctx context.Context, from, file string) error {
	out, err := os.Create(file) //nolint:gosec // the user names the folder
	if err != nil {
		return err
	}
	err = answered(ctx, http.MethodGet, from, func(body io.Reader) error {
		_, err := io.Copy(out, body)
		return err
	})
	return errors.Join(err, out.Close())
}

// nodeServer is the role of a broker of a cluster. Its argument is nodeOptions.
func nodeServer(ctx context.Context, args []string) error {
	var o nodeOptions
	if err := json.Unmarshal([]byte(args[0]), &o); err != nil {
		return err
	}
	opts := &natsserver.Options{
		ServerName: o.Name, Host: "127.0.0.1", Port: natsserver.RANDOM_PORT, JetStream: true, StoreDir: o.Dir, SyncInterval: time.Second,
		NoSigs: true, NoLog: true, MaxPayload: 1 << 20, ProfPort: o.Profile, Cluster: natsserver.ClusterOpts{Name: "bench", Host: "127.0.0.1", Port: o.Cluster},
	}
	for _, route := range o.Routes {
		u, err := url.Parse(route)
		if err != nil {
			return err
		}
		opts.Routes = append(opts.Routes, u)
	}
	return serveNATS(ctx, opts)
}

// serveNATS runs a broker until ctx ends, and prints its address when it is ready.
func serveNATS(ctx context.Context, opts *natsserver.Options) error {
	s, err := runNATS(opts)
	if err != nil {
		return err
	}
	fmt.Println("ready", s.ClientURL())
	<-ctx.Done()
	s.Shutdown()
	s.WaitForShutdown()
	return nil
}
