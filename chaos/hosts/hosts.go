// Package hosts makes hosts of network namespaces, joined by a switch in one of its own. Processes run on
// them as they do on machines, and what one host sends to another can be lost: all of it, or so many of a
// hundred packets. It needs Linux, root, and the programs ip (iproute2) and nft (nftables).
package hosts

import (
	"errors"
	"slices"
)

// ErrNoHosts is a system on which there can be no hosts. Why, the wrapped error says.
var ErrNoHosts = errors.New("network namespaces cannot be made here")

// Link is what one host sends to another.
type Link struct{ From, To string }

// All is the percentage of packets of which nothing comes through.
const All = 100

// Names are the hosts in the order in which they were named.
func (n *Network) Names() []string { return slices.Clone(n.names) }

// Others are the hosts but these.
func (n *Network) Others(than ...string) []string {
	return slices.DeleteFunc(n.Names(), func(name string) bool { return slices.Contains(than, name) })
}

// From is everything that some hosts send to others.
func (n *Network) From(some []string, others []string) (links []Link) {
	for _, from := range some {
		for _, to := range others {
			if from != to {
				links = append(links, Link{from, to})
			}
		}
	}
	return links
}

// Between is everything that some hosts send to others, and these to them.
func (n *Network) Between(some, others []string) []Link {
	return append(n.From(some, others), n.From(others, some)...)
}
