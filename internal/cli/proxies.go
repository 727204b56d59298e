package cli

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
)

// forwardedFor is where proxies write whom they speak for: each appends the address
// from which it was called.
const forwardedFor = "X-Forwarded-For"

// maxForwarded is how many addresses of a header are looked at.
const maxForwarded = 16

// proxiesValue is a flag of networks: 10.0.0.0/8,::1.
type proxiesValue []netip.Prefix

func (p *proxiesValue) Type() string { return "networks" }

func (p *proxiesValue) String() string {
	texts := make([]string, len(*p))
	for i, prefix := range *p {
		texts[i] = prefix.String()
	}
	return strings.Join(texts, ",")
}

func (p *proxiesValue) Set(text string) error {
	var parsed proxiesValue
	for part := range strings.SplitSeq(text, ",") {
		part = strings.TrimSpace(part)
		prefix, err := netip.ParsePrefix(part)
		if err != nil {
			addr, err := netip.ParseAddr(part)
			if err != nil || addr.Zone() != "" {
				return fmt.Errorf("%q is neither an address nor a network such as 10.0.0.0/8", clip(part, 64))
			}
			prefix = netip.PrefixFrom(addr.Unmap(), addr.Unmap().BitLen())
		}
		parsed = append(parsed, prefix.Masked())
	}
	*p = parsed
	return nil
}

func (p *proxiesValue) has(addr netip.Addr) bool {
	for _, prefix := range *p {
		if prefix.Contains(addr) {
			return true
		}
	}
	return false
}

// trust gives next the address of the caller as RemoteAddr where a trusted proxy
// says it. Without trusted proxies the header means nothing: anybody can write one.
func (p *proxiesValue) trust(next http.Handler) http.Handler {
	if len(*p) == 0 {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if caller, ok := p.caller(r.RemoteAddr, r.Header.Values(forwardedFor)); ok {
			r = r.WithContext(r.Context()) // a shallow copy: the server keeps the connection's own
			r.RemoteAddr = net.JoinHostPort(caller.String(), "0")
		}
		next.ServeHTTP(w, r)
	})
}

// caller follows the chain of proxies from the connection backwards, for as long as
// who says the next address is trusted: what stands left of that, the caller made up.
func (p *proxiesValue) caller(remote string, headers []string) (netip.Addr, bool) {
	host, _, err := net.SplitHostPort(remote)
	if err != nil {
		return netip.Addr{}, false
	}
	at, err := netip.ParseAddr(host)
	if err != nil {
		return netip.Addr{}, false
	}
	at = at.Unmap().WithZone("")
	first := at
	chain := strings.Join(headers, ",")
	for range maxForwarded {
		if !p.has(at) || chain == "" {
			break
		}
		cut := strings.LastIndexByte(chain, ',')
		next, err := forwardedAddr(strings.TrimSpace(chain[cut+1:]))
		if err != nil {
			break // the last one that was understood said it
		}
		at, chain = next, chain[:max(cut, 0)]
	}
	return at, at != first
}

// forwardedAddr reads an address as proxies write it: some add the port.
func forwardedAddr(text string) (netip.Addr, error) {
	if addrPort, err := netip.ParseAddrPort(text); err == nil {
		return addrPort.Addr().Unmap().WithZone(""), nil
	}
	addr, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(text, "["), "]"))
	return addr.Unmap().WithZone(""), err
}
