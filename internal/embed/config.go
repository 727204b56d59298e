package embed

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"strconv"
	"time"
)

const (
	// DefaultSyncInterval is how often stored data is flushed to disk unless
	// Config.Sync says otherwise.
	DefaultSyncInterval = time.Second

	minSyncInterval = 10 * time.Millisecond // below it, "always" is what is meant
	maxSyncInterval = time.Hour

	// maxPayload is the largest message the server takes: a record with a payload
	// and a result of 256 KiB each fits twice over.
	maxPayload = 1 << 20

	// maxConnections bounds the processes that reach the server at a time. Each may
	// have messages waiting for it, up to the server's own bound of 64 MiB; one that
	// takes none for 10 s is cut off.
	maxConnections = 4096
)

// Config says where the embedded broker keeps its data and who may reach it.
type Config struct {
	// Dir is the data folder. It is created if it is missing and belongs to one
	// server at a time. Required.
	Dir string
	// Listen is the host:port on which other processes reach the broker; port 0
	// lets the system choose, and ClientURL tells. Empty means no port at all.
	// Whether an address may be opened without a Token is the caller's decision.
	Listen string
	// TLS is spoken on Listen, by all who come there; at least TLS 1.2. Nil is none.
	// Connections inside the process do without.
	TLS *tls.Config
	// Token is asked of every client, in-process ones included (Connect sends it
	// by itself). Empty means that no client is asked.
	Token string
	// Sync says when written data reaches the disk. The zero value is every
	// DefaultSyncInterval.
	Sync Sync
	// Logger gets what the broker has to say: warnings and errors at their
	// levels, all else at Debug. Nil discards it.
	Logger *slog.Logger
}

// listenAddr is Config.Listen taken apart. Port -1 lets the system choose.
type listenAddr struct {
	host string
	port int
}

func (c Config) withDefaults() (Config, error) {
	if c.Dir == "" {
		return Config{}, errors.New("embedded broker: no data folder given")
	}
	dir, err := filepath.Abs(c.Dir)
	if err != nil {
		return Config{}, fmt.Errorf("embedded broker: data folder %s: %w", c.Dir, err)
	}
	c.Dir = dir
	if c.Listen != "" {
		if _, err := parseListen(c.Listen); err != nil {
			return Config{}, err
		}
	}
	if c.Sync, err = c.Sync.withDefaults(); err != nil {
		return Config{}, err
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c, nil
}

func parseListen(s string) (listenAddr, error) {
	host, portText, err := net.SplitHostPort(s)
	if err != nil {
		return listenAddr{}, fmt.Errorf("listen address %q is not host:port: %w", s, err)
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil {
		return listenAddr{}, fmt.Errorf("listen address %q: port %q is not a number from 0 to 65535", s, portText)
	}
	if port == 0 {
		return listenAddr{host: host, port: -1}, nil
	}
	return listenAddr{host: host, port: int(port)}, nil
}

// Sync says when written data reaches the disk. Always is before the write is
// acknowledged; otherwise every Interval, and a power cut may take what was
// written since. A killed process alone loses nothing either way.
type Sync struct {
	Always   bool
	Interval time.Duration // 10 ms to 1 h; DefaultSyncInterval; unused with Always
}

// ParseSync reads "always" or an interval such as "1s".
func ParseSync(s string) (Sync, error) {
	if s == "always" {
		return Sync{Always: true}, nil
	}
	interval, err := time.ParseDuration(s)
	if err != nil {
		return Sync{}, fmt.Errorf(`sync %q is neither "always" nor a duration such as 1s`, s)
	}
	if interval == 0 {
		return Sync{}, errors.New(`sync 0 is no interval: "always" writes through`)
	}
	return Sync{Interval: interval}.withDefaults()
}

// String is the form that ParseSync reads.
func (s Sync) String() string {
	switch {
	case s.Always:
		return "always"
	case s.Interval == 0:
		return DefaultSyncInterval.String()
	default:
		return s.Interval.String()
	}
}

func (s Sync) withDefaults() (Sync, error) {
	switch {
	case s.Always:
		return Sync{Always: true}, nil
	case s.Interval == 0:
		return Sync{Interval: DefaultSyncInterval}, nil
	case s.Interval < minSyncInterval || s.Interval > maxSyncInterval:
		return Sync{}, fmt.Errorf("sync interval %s is not between %s and %s", s.Interval, minSyncInterval, maxSyncInterval)
	default:
		return s, nil
	}
}
