package admin_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/admin"
	"github.com/peltonq/pelton/internal/brokertest"
)

func keyring(t *testing.T, c *admin.Client) *admin.Keyring {
	t.Helper()
	k, err := c.OpenKeyring(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { k.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		running.Wait()
	})
	return k
}

// A token that one server makes and revokes is good, and is not, on the other one.
func TestTokensOnTwoServers(t *testing.T) {
	t.Parallel()
	srv := brokertest.StartServer(t)
	open := func() *admin.Client {
		c, err := admin.New(t.Context(), brokertest.Connect(t, srv), admin.Config{Namespace: brokertest.Namespace(t)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Close)
		return c
	}
	one, two := open(), open()
	first, second := keyring(t, one), keyring(t, two)
	made, shown, err := one.CreateToken(t.Context(), pelton.Token{Name: "ci", Scopes: []pelton.Scope{"read", "enqueue"}, Queues: []string{"emails"}, CreatedBy: "bootstrap"})
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range []*admin.Keyring{first, second} {
		got, live, err := k.Identify(t.Context(), shown, false)
		if err != nil || live.Err() != nil {
			t.Fatalf("identify: %v", err)
		}
		if diff := cmp.Diff(made, got); diff != "" {
			t.Errorf("(-made +identified):\n%s", diff)
		}
	}
	if _, _, err := two.CreateToken(t.Context(), pelton.Token{Name: "later", Scopes: []pelton.Scope{"admin"}, ExpiresAt: time.Now().Add(time.Hour)}); err != nil {
		t.Fatal(err)
	}
	list, err := two.Tokens(t.Context())
	if err != nil || len(list) != 2 || list[1].ID != made.ID || list[0].Name != "later" {
		t.Errorf("list: %v %+v", err, list)
	}

	_, live, err := second.Identify(t.Context(), shown, false)
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := one.RevokeToken(t.Context(), made.ID); err != nil {
		t.Fatal(err)
	}
	select {
	case <-live.Done():
	case <-time.After(10 * time.Second):
	}
	if _, _, err := second.Identify(t.Context(), shown, false); !errors.Is(err, pelton.ErrNotFound) || live.Err() == nil {
		t.Errorf("revoked: %v", err)
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("in force after %s", took)
	}
	if err := one.RevokeToken(t.Context(), made.ID); !errors.Is(err, pelton.ErrNotFound) {
		t.Errorf("twice: %v", err)
	}
	for _, id := range []string{"", "x", "a.>", strings.Repeat("a", 17), "*"} {
		if err := one.RevokeToken(t.Context(), id); !errors.Is(err, pelton.ErrNotFound) {
			t.Errorf("revoke %q: %v", id, err)
		}
	}
	if _, _, err := one.CreateToken(t.Context(), pelton.Token{Name: "x"}); !errors.Is(err, pelton.ErrInvalid) {
		t.Errorf("without scopes: %v", err)
	}
}

// The broker never sees a secret.
func TestSecretsAreNotStored(t *testing.T) {
	t.Parallel()
	nc := brokertest.Start(t)
	sub, err := nc.SubscribeSync("$KV.>")
	if err != nil {
		t.Fatal(err)
	}
	c, err := admin.New(t.Context(), nc, admin.Config{Namespace: brokertest.Namespace(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	made, shown, err := c.CreateToken(t.Context(), pelton.Token{Name: "ci", Scopes: []pelton.Scope{"read"}})
	if err != nil {
		t.Fatal(err)
	}
	for {
		msg, err := sub.NextMsg(10 * time.Second)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasSuffix(msg.Subject, "."+made.ID) {
			continue
		}
		if _, secret, _ := strings.Cut(shown, "."); strings.Contains(string(msg.Data), secret) || !strings.Contains(string(msg.Data), `"sha256"`) {
			t.Errorf("stored: %s", msg.Data)
		}
		return
	}
}
