package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"sync"

	"github.com/nats-io/nats.go"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/broker"
	"github.com/peltonq/pelton/internal/embed"
	"github.com/peltonq/pelton/redislimit"
)

// minBroker is the first version of the server with all that Pelton uses.
const minBroker = "2.14.0"

// broker looks at the NATS server and at what lies in it.
func (d *doctor) broker(ctx context.Context) error {
	if d.flags.nats.url == "" {
		return nil
	}
	own, err := d.flags.nats.options()
	if err != nil {
		d.fail("broker.access", "servers and workers with the same settings do not start: mend the setting, or the file that it names", "%s", err)
		return nil
	}
	nc := d.connect(own)
	if nc == nil {
		return nil
	}
	defer nc.Close()

	found, err := broker.Inspect(ctx, nc, string(d.flags.namespace))
	switch {
	case errors.Is(err, pelton.ErrNotSupported):
		d.fail("broker.jetstream", "enable JetStream in the NATS server, and for this account", "%s", err)
	case err != nil:
		d.fail("broker.jetstream", "the user may need more permissions, or a server has no leader: see the log of NATS", "%s", err)
	default:
		d.installation(found)
	}
	return nil
}

// connect looks at each of the broker's URLs, and gives a connection by the first that
// works: of several, one that is out of reach is no more than a warning. It is nil if none
// does.
func (d *doctor) connect(own []nats.Option) (nc *nats.Conn) {
	opts := append([]nats.Option{
		nats.Name("pelton doctor"), nats.Timeout(natsTimeout), nats.NoReconnect(),
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}), // what is denied shows as no answer
	}, own...)
	urls := strings.Split(d.flags.nats.url, ",")
	conns, errs := make([]*nats.Conn, len(urls)), make([]error, len(urls))
	var all sync.WaitGroup
	for i, url := range urls {
		all.Go(func() { conns[i], errs[i] = nats.Connect(strings.TrimSpace(url), opts...) })
	}
	all.Wait()
	for _, c := range conns {
		switch {
		case c == nil:
		case nc == nil:
			nc = c
		default:
			c.Close()
		}
	}
	for i, err := range errs {
		url := redactURLs(urls[i])
		const start = "start it there, or say by --nats or PELTON_NATS where it is; 'pelton serve' opens its own with --nats-listen"
		switch {
		case err == nil:
			d.ok("broker.reachable", "%s", url)
		case isRefusal(err):
			d.fail("broker.token", "give its token by --nats-token-file, --nats-token or PELTON_NATS_TOKEN, or credentials by --nats-creds or PELTON_NATS_CREDS", "the broker at %s refuses us: %s", url, err)
		case nc != nil:
			d.warn("broker.reachable", start, "one of several brokers, at %s: %s", url, redacted(err, urls[i]))
		default:
			d.fail("broker.reachable", start, "the broker at %s: %s", url, redacted(err, urls[i]))
		}
	}
	return nc
}

// redacted is an error without a URL's user and password.
func redacted(err error, url string) string {
	return strings.ReplaceAll(err.Error(), url, redactURLs(url))
}

// installation judges what is in the broker.
func (d *doctor) installation(found *broker.Inspection) {
	if older(found.ServerVersion, minBroker) {
		d.fail("broker.version", "use nats-server "+minBroker+" or later", "nats-server %s lacks what Pelton needs", found.ServerVersion)
	} else {
		d.ok("broker.version", "nats-server %s", found.ServerVersion)
	}
	if found.MaxPayload < found.MinPayload {
		d.fail("broker.payload", fmt.Sprintf("set max_payload of the NATS server to %d or more", found.MinPayload), "messages may have %d bytes", found.MaxPayload)
	}
	if found.SkewError > 0 {
		d.clock("broker.clock", "the broker's clock", found.Skew, found.SkewError)
	}
	d.quota("broker.storage", "raise the account's storage, or let tasks and dead letters go: 'pelton queue list', 'pelton dead purge'",
		"%s of %s are used", found.Storage.Used, found.Storage.Limit, byteCount)
	d.quota("broker.streams", "raise the account's limit of streams", "%s of %s streams", found.StreamCount.Used, found.StreamCount.Limit, plainNumber)
	d.quota("broker.consumers", "raise the account's limit of consumers: a queue needs up to eight", "%s of %s consumers", found.Consumers.Used, found.Consumers.Limit, plainNumber)
	if found.Shards > 1 {
		d.ok("broker.shards", "tasks are spread over %d shards", found.Shards)
	}
	d.streams(found.Streams)
}

func (d *doctor) streams(streams []broker.InspectedStream) {
	var missing []string
	good := 0
	for _, s := range streams {
		switch {
		case s.Missing:
			missing = append(missing, s.Name)
		case !s.Leader:
			d.fail("broker.stream", "start the NATS servers that are down: 'nats stream info' shows its peers", "stream %s has no leader: it neither answers nor takes anything", s.Name)
		case len(s.Misfits) > 0:
			d.fail("broker.stream", "set it back by 'nats stream edit'", "stream %s was changed: %s", s.Name, strings.Join(s.Misfits, "; "))
		case s.Unsettled != "":
			d.warn("broker.copies", "wait, or start the NATS servers that are down, and take no other one down meanwhile", "stream %s %s", s.Name, s.Unsettled)
			good++
		default:
			good++
		}
	}
	switch {
	case len(missing) == len(streams):
		d.fail("broker.stream", "start 'pelton serve' with this broker: it makes them", "there is no installation: none of its %d streams", len(streams))
		return
	case len(missing) > 0:
		d.fail("broker.stream", "what was in it is lost: restore it from a backup, or restart 'pelton serve', which makes it anew and empty", "missing: %s", strings.Join(missing, ", "))
	}
	if good > 0 {
		d.ok("broker.stream", "%d of %d streams and buckets are there and as they should be", good, len(streams))
	}
}

// older compares versions such as 2.15.2; what is none is not older.
func older(version, than string) bool {
	var a, b [3]int
	if n, _ := fmt.Sscanf(version, "%d.%d.%d", &a[0], &a[1], &a[2]); n < 2 {
		return false
	}
	_, _ = fmt.Sscanf(than, "%d.%d.%d", &b[0], &b[1], &b[2]) // a constant
	for i := range a {
		if a[i] != b[i] {
			return a[i] < b[i]
		}
	}
	return false
}

// byteCount is a number of bytes for people.
func byteCount(n int64) string {
	for _, unit := range byteUnits() {
		if n >= unit.size {
			return fmt.Sprintf("%.1f %s", float64(n)/float64(unit.size), unit.name)
		}
	}
	return fmt.Sprintf("%d B", n)
}

// redis looks whether the Redis of rate limits is there.
func (d *doctor) redis(ctx context.Context) error {
	if d.flags.redis == "" {
		return nil
	}
	redislimit.Silence()
	took, err := redislimit.Check(ctx, d.flags.redis)
	switch {
	case errors.Is(err, pelton.ErrInvalid):
		return usagef("--redis (PELTON_REDIS): %s", plain(err))
	case err != nil:
		d.fail("redis", "start it, or say by --redis-file, --redis or PELTON_REDIS where it is: until then each process counts its share of rate limits by itself", "%s", err)
	default:
		d.ok("redis", "answers in %s", took.Round(10_000))
	}
	return nil
}

// folder looks at the data folder, where there is one.
func (d *doctor) folder(context.Context) error {
	dir := d.flags.data
	if abs, err := filepath.Abs(dir); err == nil {
		dir = abs
	}
	s, err := embed.InspectFolder(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist) && !d.dataGiven:
		return nil // the server is elsewhere, or has its broker elsewhere
	case errors.Is(err, fs.ErrNotExist):
		d.fail("data.folder", "'pelton serve --data' makes it; or say where it is", "there is no folder %s", dir)
		return nil
	case errors.Is(err, fs.ErrPermission):
		d.fail("data.folder", "run the server, and this command, as the user to whom it belongs, or change its owner", "no file can be made in it: %s", err)
		return nil
	case err != nil:
		d.fail("data.folder", "the file system may be broken or read-only", "%s", err)
		return nil
	}
	switch {
	case s.Alive:
		d.ok("data.folder", "%s is used by process %d", dir, s.PID)
	case s.PID > 0:
		d.warn("data.folder", "start 'pelton serve' again: it mends what that has left", "the server in %s (process %d) is gone without having shut down", dir, s.PID)
	default:
		d.ok("data.folder", "%s can be written to, and no server uses it", dir)
	}
	if s.OpenToOthers {
		d.warn("data.private", "chmod -R go= "+dir, "other users of this machine can read payloads in %s", dir)
	}
	space := fmt.Sprintf("%s of %s are free, %s are needed for new tasks", byteCount(int64(min(s.Free, 1<<62))), byteCount(int64(min(s.Total, 1<<62))), byteCount(int64(min(s.Reserve, 1<<62))))
	const advice = "free space on that disk, or move the folder to a larger one"
	switch {
	case s.Full, s.Low:
		d.fail("data.space", advice, "new tasks are refused: %s", space)
	case s.Total > 0 && s.Free < 2*s.Reserve:
		d.warn("data.space", advice, "%s", space)
	case s.Total > 0:
		d.ok("data.space", "%s", space)
	}
	d.openFiles()
	return nil
}
