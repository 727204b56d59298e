package brokertest

import (
	"fmt"
	"net/url"
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/peltonq/pelton/internal/freeport"
)

// clusterTimeout is for the election of the leader of all streams.
const clusterTimeout = 30 * time.Second

// StartCluster is a cluster of so many brokers of this test alone, on loopback, and their
// URLs, separated by commas. They end with the test.
func StartCluster(t testing.TB, size int) (servers []*server.Server, urls string) {
	t.Helper()
	var routes []*url.URL
	for range size {
		routes = append(routes, &url.URL{Scheme: "nats", Host: freeport.Addr(t)})
	}
	for i, route := range routes {
		port, err := strconv.Atoi(route.Port())
		if err != nil {
			t.Fatal(err)
		}
		s, err := server.NewServer(&server.Options{
			ServerName: fmt.Sprintf("n%d", i), Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true, MaxPayload: 1 << 20,
			JetStream: true, StoreDir: t.TempDir(), Routes: routes,
			Cluster: server.ClusterOpts{Name: "c", Host: "127.0.0.1", Port: port},
		})
		if err != nil {
			t.Fatalf("start a broker of a cluster: %v", err)
		}
		s.Start()
		t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
		servers = append(servers, s)
	}
	for _, s := range servers {
		if !s.ReadyForConnections(clusterTimeout) {
			t.Fatal("a broker of a cluster takes no connections")
		}
		if urls != "" {
			urls += ","
		}
		urls += s.ClientURL()
	}
	awaitLeader(t, servers)
	return servers, urls
}

// awaitLeader waits until the brokers know each other and one of them leads.
func awaitLeader(t testing.TB, servers []*server.Server) {
	t.Helper()
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	for over := time.After(clusterTimeout); ; {
		for _, s := range servers {
			if s.JetStreamIsLeader() && len(s.JetStreamClusterPeers()) == len(servers) {
				return
			}
		}
		select {
		case <-look.C:
		case <-over:
			t.Fatal("the brokers have no leader")
		}
	}
}

// ConnectTo is a connection to brokers elsewhere, closed with the test.
func ConnectTo(t testing.TB, urls string, opts ...nats.Option) *nats.Conn {
	t.Helper()
	nc, err := nats.Connect(urls, opts...)
	if err != nil {
		t.Fatalf("connect to the cluster: %v", err)
	}
	t.Cleanup(nc.Close)
	return nc
}
