// Command pelton is a distributed task queue in one binary: server, worker and
// client. Run "pelton --help".
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/peltonq/pelton/internal/cli"
)

func main() {
	// The first signal asks for an orderly end, the second ends at once.
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	// Handled, and not ignored, because programs that a worker starts would inherit
	// that: a reader that goes away is an error of the write, and no server dies
	// with the reader of its log.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)

	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		<-signals
		cancel()
		<-signals
		os.Exit(1)
	}()
	os.Exit(cli.Main(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr, os.Environ()))
}
