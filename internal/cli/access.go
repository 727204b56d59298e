package cli

import (
	"context"
	"net"
	"os"
	"sync"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/admin"
	"github.com/peltonq/pelton/api"
)

// exposed reports whether the API is asked to listen where other machines reach it, so
// that callers must show a token, whatever becomes of the tokens.
func (f *serveFlags) exposed() bool {
	host, _, err := net.SplitHostPort(f.addr)
	return !f.insecure && (err != nil || !isLoopback(host))
}

// mayHaveTokens reports whether tokens may be stored where this server looks: what is not
// there holds none. It is asked before anything is made.
func (f *serveFlags) mayHaveTokens() bool {
	if f.nats.url != "" {
		return true
	}
	_, err := os.Stat(f.data)
	return err == nil
}

// keyring is what the API needs of tokens.
type keyring struct {
	*admin.Client
	*admin.Keyring
}

// CreateToken and RevokeToken return when this server knows of it. If it cannot be told
// in time, the change is made all the same, and it will be.
func (k *keyring) CreateToken(ctx context.Context, t pelton.Token) (*pelton.Token, string, error) {
	made, shown, err := k.Client.CreateToken(ctx, t)
	if err == nil {
		_ = k.Refresh(ctx)
	}
	return made, shown, err
}

// RevokeToken is as CreateToken.
func (k *keyring) RevokeToken(ctx context.Context, id string) error {
	err := k.Client.RevokeToken(ctx, id)
	if err == nil {
		_ = k.Refresh(ctx)
	}
	return err
}

// auditing starts the writing of the audit log, if --audit asks for one. stop ends it when
// no more requests are answered, and writes what waits.
func (s *serving) auditing(ctx context.Context, client *admin.Client) (how *api.Auditing, stop func()) {
	if s.flags.audit.value == auditOff {
		return nil, func() {}
	}
	log := client.NewAuditLog()
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var writing sync.WaitGroup
	writing.Go(func() { log.Run(ctx) })
	host, _ := os.Hostname() // empty where there is none
	return &api.Auditing{Record: log.Record, Enqueues: s.flags.audit.value == auditAll, Server: host}, func() {
		cancel()
		writing.Wait()
	}
}

// What --audit can be.
const (
	auditOff     = "off"
	auditOperate = "operate"
	auditAll     = "all"
)

// openKeyring reads the tokens. An API that others can reach needs one, of either sort:
// its gate is still closed.
func (s *serving) openKeyring(ctx context.Context, l *link, client *admin.Client) (*keyring, error) {
	var keys *admin.Keyring
	err := l.retry(ctx, 0, func(ctx context.Context) (err error) {
		ctx, cancel := context.WithTimeout(ctx, openTimeout)
		defer cancel()
		keys, err = client.OpenKeyring(ctx)
		return err
	})
	if err != nil {
		return nil, err
	}
	if _, _, err := keys.Identify(ctx, s.flags.token, true); err == nil {
		return nil, usagef("--token (PELTON_TOKEN) is one that 'pelton token create' made: as the server's own it would have all rights, whatever it was made for; leave it out")
	}
	if s.flags.exposed() && s.flags.token == "" && !keys.Any() {
		return nil, s.flags.refuseOpen("--addr", s.flags.addr, "--token")
	}
	return &keyring{client, keys}, nil
}
