package cli

import (
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/spf13/cobra"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/broker"
	"github.com/peltonq/pelton/internal/embed"
)

// serveFlags are the flags of "serve".
type serveFlags struct {
	addr         string
	token        string
	allowedHosts []string
	insecure     bool

	data       string
	sync       syncValue
	natsListen string
	nats       natsFlags
	shards     int

	handlers handlerFlags
	slots    concurrencyFlags
	limiter  limiterFlags
	requests apiRateFlags
	tls      apiTLSFlags
	audit    enumValue
	bounds   boundFlags

	namespace  namespaceFlag
	place      placeFlags
	proxies    proxiesValue
	drainDelay durationValue
}

// syncValue is --sync.
type syncValue struct{ embed.Sync }

func (s *syncValue) Type() string { return "sync" }

func (s *syncValue) Set(text string) error {
	parsed, err := embed.ParseSync(text)
	s.Sync = parsed
	return err
}

func (a *app) serveCmd() *cobra.Command {
	f := &serveFlags{}
	cmd := &cobra.Command{
		Use:   "serve [flags]",
		Short: "Run the server: HTTP API, broker and, when asked, a worker",
		Long: `Run the server. Without --nats it has the broker inside, with its data in --data;
with --nats it is one stateless replica among many. With --demo or --exec it runs
a worker too.

Without a token, of --token or made with "pelton token create", it listens on
loopback only. It stops in order on SIGTERM and
SIGINT; a second signal ends it at once.`,
		Example: `  pelton serve --demo
  pelton serve --exec report.build='python3 report.py'
  PELTON_TOKEN=… PELTON_NATS_TOKEN=… pelton serve --addr :7420 --nats-listen :4222`,
		Args:                  needArgs(0, 0, ""),
		DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := f.check(); err != nil {
				return err
			}
			if err := f.bounds.check(); err != nil {
				return err
			}
			return a.serve(cmd.Context(), f)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.addr, "addr", "127.0.0.1:7420", "`HOST:PORT` of the HTTP API; port 0 lets the system choose")
	secretVar(flags, &f.token, "token", "bearer token that may do everything")
	flags.StringSliceVar(&f.allowedHosts, "allowed-hosts", nil, "more names by which an API without token may be called")
	flags.BoolVar(&f.insecure, "insecure", false, "open addresses other than loopback without a token")
	flags.StringVar(&f.data, "data", "./pelton-data", "`folder` of the embedded broker's data")
	flags.Var(&f.sync, "sync", "when written data reaches the disk: always, or an interval")
	flags.StringVar(&f.natsListen, "nats-listen", "", "`HOST:PORT` on which other processes reach the embedded broker")
	f.nats.register(flags, "`URL` of an external broker, instead of the embedded one; several are separated by commas", true)
	f.tls.register(flags)
	f.audit = enumValue{value: auditOperate, allowed: []string{auditOff, auditOperate, auditAll}}
	flags.Var(&f.audit, "audit", "which calls the audit log keeps: off, operate (changes, but for enqueues), all")
	completeEnum(cmd, "audit", &f.audit)
	flags.IntVar(&f.shards, "shards", 0, fmt.Sprintf("number of shards that tasks are spread over, up to %d; it can grow, not shrink (default: as many as there are)", broker.MaxShards))
	f.namespace.register(flags)
	f.place.register(flags)
	flags.Var(&f.drainDelay, "drain-delay", "how long, after the signal to stop, requests are still taken while /readyz says no, for balancers to notice")
	flags.Var(&f.proxies, "trusted-proxies", "addresses or `NETWORKS` of proxies whose X-Forwarded-For says who the caller is, for --api-rate without tokens")
	f.limiter.register(flags)
	f.requests.register(flags)
	f.bounds.register(flags)
	f.slots.register(flags)
	f.handlers.register(flags)
	return inSection(cmd, sectionServe)
}

// check refuses what would be unsafe or means nothing.
func (f *serveFlags) check() error {
	if f.shards < 0 || f.shards > broker.MaxShards {
		return usagef("--shards %d is not between 1 and %d", f.shards, broker.MaxShards)
	}
	if err := f.place.check(f.nats.url == ""); err != nil {
		return err
	}
	if slices.Contains(f.allowedHosts, "") {
		return usagef("--allowed-hosts has an empty name")
	}
	if f.nats.url == "" && f.natsListen == "" && f.nats.tls.given() {
		return usagef("--nats-tls-cert, --nats-tls-key and --nats-tls-ca are for --nats-listen or --nats")
	}
	if f.nats.url == "" && f.nats.creds != "" {
		return usagef("--nats-creds (%s) is for --nats: the embedded broker knows its clients by --nats-token", envName("nats-creds"))
	}
	if err := f.nats.check(); err != nil {
		return err
	}
	if f.drainDelay < 0 || f.drainDelay.duration() > maxDrainDelay {
		return usagef("--drain-delay %s is not between 0s and %s", &f.drainDelay, pelton.FormatDuration(maxDrainDelay))
	}
	if f.nats.url != "" && f.natsListen != "" {
		return usagef("--nats and --nats-listen exclude each other: the second opens the embedded broker, which the first replaces")
	}
	if err := f.checkOpen("--addr", f.addr, "--token", f.token, f.mayHaveTokens()); err != nil {
		return err
	}
	if f.natsListen == "" {
		return nil
	}
	return f.checkOpen("--nats-listen", f.natsListen, "--nats-token", f.nats.token, false)
}

// checkOpen lets an address be opened that is loopback, or asks for a token, or
// was asked for explicitly; or for which that is seen later.
func (f *serveFlags) checkOpen(flag, addr, tokenFlag, token string, later bool) error {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return usagef("%s %q is not HOST:PORT: %w", flag, clip(addr, 100), err)
	}
	if token == "" && !isLoopback(host) && !f.insecure && !later {
		return f.refuseOpen(flag, addr, tokenFlag)
	}
	return nil
}

func (f *serveFlags) refuseOpen(flag, addr, tokenFlag string) error {
	return usagef("%s %s is open to other machines and there is no token: set %s, or give %s, or --insecure if everyone there may do everything",
		flag, addr, envName(tokenFlag[2:]), tokenFlag)
}

// checkHost reports whether the API shall look at the Host of requests: a page in
// a browser must not reach an API without token by rebinding its own name.
func (f *serveFlags) checkHost() bool {
	host, _, err := net.SplitHostPort(f.addr)
	return f.token == "" && (err != nil || isLoopback(host) || len(f.allowedHosts) > 0)
}

// isLoopback reports whether a host to listen on is reachable from this machine
// alone. Names other than localhost are not trusted to be.
func isLoopback(host string) bool {
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && addr.Unmap().IsLoopback()
}

// apiURL is where the API is reached from this machine when it listens on addr.
func apiURL(scheme, addr string) string {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return scheme + "://" + addr
	}
	if ip, err := netip.ParseAddr(host); err == nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return scheme + "://" + net.JoinHostPort(host, port)
}
