//go:build !linux

package hosts

import (
	"context"
	"errors"
	"fmt"
	"net"
)

// Network is some hosts and their switch.
type Network struct{ names []string }

// New needs Linux.
func New(context.Context, ...string) (*Network, error) {
	return nil, fmt.Errorf("%w: %w", ErrNoHosts, errors.ErrUnsupported)
}

// Close does nothing.
func (n *Network) Close() error { return nil }

// Addr is empty.
func (n *Network) Addr(string) string { return "" }

// Command gives the command back.
func (n *Network) Command(_, path string, args ...string) (string, []string) { return path, args }

// Dial needs Linux.
func (n *Network) Dial(context.Context, string, string) (net.Conn, error) {
	return nil, errors.ErrUnsupported
}

// Lose needs Linux.
func (n *Network) Lose(int, ...Link) error { return errors.ErrUnsupported }
