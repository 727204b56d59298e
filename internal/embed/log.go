package embed

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
)

// serverLog hands the server's log to slog and remembers what the server calls
// fatal: it expects the process to exit there, where Start returns an error.
type serverLog struct {
	logger *slog.Logger

	mu    sync.Mutex
	fatal string // the first one
}

func (l *serverLog) Noticef(format string, args ...any) { l.log(slog.LevelDebug, format, args) }
func (l *serverLog) Warnf(format string, args ...any)   { l.log(slog.LevelWarn, format, args) }
func (l *serverLog) Errorf(format string, args ...any)  { l.log(slog.LevelError, format, args) }

// Debugf and Tracef drop their lines, which quote what clients send. The server
// is started with both off.
func (l *serverLog) Debugf(string, ...any) {}
func (l *serverLog) Tracef(string, ...any) {}

// Fatalf logs nothing: the message becomes the error of Start.
func (l *serverLog) Fatalf(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fatal == "" {
		l.fatal = fmt.Sprintf(format, args...)
	}
}

func (l *serverLog) firstFatal() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.fatal
}

func (l *serverLog) log(level slog.Level, format string, args []any) {
	ctx := context.Background() //nolint:forbidigo // the server's log calls carry no context
	if !l.logger.Enabled(ctx, level) {
		return
	}
	// Protocol errors end in a snippet of what the client sent, which can be payload.
	detail, _, _ := strings.Cut(fmt.Sprintf(format, args...), ": proto=")
	l.logger.Log(ctx, level, "nats-server", slog.String("detail", strings.TrimSpace(detail)))
}
