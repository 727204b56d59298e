package embed

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// readyTimeout bounds the wait for a started server to take connections. What is
// stored has been read by then, so that is a matter of milliseconds.
const readyTimeout = 10 * time.Second

// tlsTimeout bounds a handshake with a client.
const tlsTimeout = 5 * time.Second

// ErrClosed is a Connect to a server that was shut down.
var ErrClosed = errors.New("embedded broker is shut down")

// Server is a running broker. Shut it down with Shutdown.
type Server struct {
	cfg    Config // with the port that the system chose
	folder *folder
	logger *slog.Logger
	url    string // empty without a port

	level  atomic.Int32 // how full the disk is
	memory string       // memoryFolder

	mu     sync.Mutex
	nats   *server.Server // nil while it is down
	staged []string       // streams whose batches are gathered in memory

	untend  context.CancelFunc
	tending sync.WaitGroup

	stop    sync.Once
	stopped chan struct{} // closed when the server has ended and the folder is free
	stopErr error         // set before stopped is closed
}

// Start runs a broker on the data folder cfg.Dir and returns when it takes
// connections. It reads what is stored first, which takes as long as it takes:
// ctx is looked at before and after.
//
// The error wraps ErrLocked when another server holds the folder. A stream that
// lies in the folder and cannot be read is an error that names it: the server
// itself would go on without it.
func Start(ctx context.Context, cfg Config) (*Server, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("start embedded broker: %w", context.Cause(ctx))
	}
	folder, err := openFolder(cfg.Dir)
	if err != nil {
		return nil, err
	}
	began := time.Now()
	ns, err := run(cfg, folder)
	if err == nil && ctx.Err() != nil {
		end(ns)
		err = fmt.Errorf("start embedded broker: %w", context.Cause(ctx))
	}
	if err != nil {
		return nil, errors.Join(err, folder.close(!folder.unclean))
	}
	s := &Server{cfg: cfg, folder: folder, logger: cfg.Logger, memory: memoryFolder(), nats: ns, stopped: make(chan struct{})}
	if cfg.Listen != "" {
		s.url, s.cfg.Listen = ns.ClientURL(), ns.Addr().String()
	}
	tending, untend := context.WithCancel(context.WithoutCancel(ctx)) // ends with Shutdown
	s.untend = untend
	s.look(tending)
	s.tending.Go(func() { s.tend(tending) })
	if !cfg.Sync.Always && cfg.Sync.Interval <= earlyMost {
		early := &earlyWriter{store: filepath.Join(cfg.Dir, storeName), hand: startWriting}
		s.tending.Go(func() { early.run(tending) })
	}
	cfg.Logger.InfoContext(ctx, "embedded broker started",
		slog.String("data", cfg.Dir), slog.String("sync", cfg.Sync.String()), slog.String("url", s.ClientURL()),
		slog.Bool("unclean", folder.unclean), slog.Duration("took", time.Since(began)))
	return s, nil
}

// run starts the server and checks that it has what it should. A server that
// fails is gone when run returns.
func run(cfg Config, folder *folder) (*server.Server, error) {
	if err := folder.unstage(); err != nil {
		return nil, err
	}
	stored, err := folder.streams()
	if err != nil {
		return nil, err
	}
	opts, err := serverOptions(cfg)
	if err != nil {
		return nil, err
	}
	ns, err := server.NewServer(opts)
	if err != nil {
		return nil, fmt.Errorf("configure embedded broker: %w", err)
	}
	log := &serverLog{logger: cfg.Logger}
	ns.SetLoggerV2(log, false, false, false)
	ns.Start()
	if err := check(ns, log, cfg.Dir, stored); err != nil {
		end(ns)
		return nil, err
	}
	return ns, nil
}

func serverOptions(cfg Config) (*server.Options, error) {
	opts := &server.Options{
		ServerName:             "pelton",
		DontListen:             cfg.Listen == "",
		NoSigs:                 true, // signals are the program's
		JetStream:              true,
		DisableJetStreamBanner: true,
		StoreDir:               cfg.Dir,
		SyncAlways:             cfg.Sync.Always,
		SyncInterval:           cfg.Sync.Interval,
		JetStreamLimits:        server.JSLimitOpts{DefaultMaxConsumers: -1}, // for streams of earlier versions, which have no bound
		MaxPayload:             maxPayload,
		MaxConn:                maxConnections,
	}
	// By itself the server would keep to three quarters of what is free now, and
	// not learn of a disk that grows or of programs that fill it: tend does better.
	if _, err := freeSpace(cfg.Dir); err == nil {
		opts.JetStreamMaxStore = math.MaxInt64 / 2
	}
	if cfg.Listen != "" {
		addr, err := parseListen(cfg.Listen)
		if err != nil {
			return nil, err
		}
		opts.Host, opts.Port = addr.host, addr.port
		opts.TLSConfig, opts.TLSTimeout = cfg.TLS, tlsTimeout.Seconds()
	}
	if cfg.Token != "" {
		opts.CustomClientAuthentication = tokenCheck(sha256.Sum256([]byte(cfg.Token)))
	}
	return opts, nil
}

// check is nil for a server that started well and has every stored stream.
func check(ns *server.Server, log *serverLog, dir string, stored []string) error {
	if fatal := log.firstFatal(); fatal != "" {
		return fmt.Errorf("start embedded broker in %s: %s", dir, fatal)
	}
	if !ns.ReadyForConnections(readyTimeout) {
		return fmt.Errorf("start embedded broker in %s: not ready after %s", dir, readyTimeout)
	}
	info, err := ns.Jsz(&server.JSzOptions{Accounts: true, Streams: true})
	if err != nil {
		return fmt.Errorf("list streams of embedded broker in %s: %w", dir, err)
	}
	for _, account := range info.AccountDetails {
		for _, stream := range account.Streams {
			stored = slices.DeleteFunc(stored, func(name string) bool { return name == account.Name+"/"+stream.Name })
		}
	}
	if len(stored) > 0 {
		return fmt.Errorf("data folder %s is damaged: cannot recover %s (the log says why); restore a backup, or move the folder aside to start empty",
			dir, strings.Join(stored, ", "))
	}
	return nil
}

func end(ns *server.Server) {
	ns.Shutdown()
	ns.WaitForShutdown()
}

// inProcess gives connections to the server as it is now, which may be another one
// than before.
type inProcess struct{ s *Server }

// InProcessConn is what nats.go asks for, at first and again.
func (p inProcess) InProcessConn() (net.Conn, error) {
	p.s.mu.Lock()
	defer p.s.mu.Unlock()
	if p.s.nats == nil || !p.s.nats.Running() {
		return nil, ErrClosed
	}
	conn, err := p.s.nats.InProcessConn()
	if err != nil {
		return nil, err //nolint:wrapcheck // nats.go wraps it
	}
	return &pipe{Conn: conn}, nil
}

// Connect opens a connection inside this process, which needs no port. The
// options come after its own and win. Close the connection before Shutdown. The
// error is ErrClosed after Shutdown.
//
// A server whose disk was full may be started anew while the process lives:
// connections are lost then, and come back if their options say so.
func (s *Server) Connect(opts ...nats.Option) (*nats.Conn, error) {
	own := []nats.Option{nats.InProcessServer(inProcess{s})}
	if s.cfg.Token != "" {
		own = append(own, nats.Token(s.cfg.Token))
	}
	select {
	case <-s.stopped:
		return nil, ErrClosed
	default:
	}
	nc, err := nats.Connect("", append(own, opts...)...)
	if err != nil {
		return nil, fmt.Errorf("connect to embedded broker: %w", err)
	}
	return nc, nil
}

// ClientURL is where other processes reach the broker, without the token; empty
// when it opened no port.
func (s *Server) ClientURL() string { return s.url }

// UncleanStart reports whether the last server on this folder was killed, or its
// machine was, instead of being shut down.
func (s *Server) UncleanStart() bool { return s.folder.unclean }

// Shutdown ends all connections, brings what was written to disk and releases
// the data folder. It returns when that is done or ctx ends; the work goes on in
// the latter case, and calling Shutdown again waits for it again.
func (s *Server) Shutdown(ctx context.Context) error {
	s.stop.Do(func() {
		go func() {
			defer close(s.stopped)
			s.untend()
			s.tending.Wait()
			s.mu.Lock()
			if s.nats != nil {
				end(s.nats)
			}
			s.mu.Unlock()
			s.stopErr = errors.Join(s.folder.unstage(), s.folder.close(true))
			s.logger.InfoContext(ctx, "embedded broker stopped", slog.String("data", s.folder.dir))
		}()
	})
	select {
	case <-s.stopped:
		return s.stopErr
	case <-ctx.Done():
		return fmt.Errorf("shut down embedded broker: %w", context.Cause(ctx))
	}
}

// tokenCheck is the hash of the token that clients must send. The server's own
// check would take a token that looks like a bcrypt hash for one.
type tokenCheck [sha256.Size]byte

// Check reports whether the client sent the token, in constant time.
func (t tokenCheck) Check(c server.ClientAuthentication) bool {
	sent := sha256.Sum256([]byte(c.GetOpts().Token))
	return subtle.ConstantTimeCompare(sent[:], t[:]) == 1
}
