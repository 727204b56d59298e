package brokertest

import (
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nkeys"
)

// Operator is a broker of this test alone that knows its clients by credentials: users
// whose JWT an account has signed, and accounts whose JWT the operator has.
type Operator struct {
	Server  *server.Server
	account nkeys.KeyPair // the one that has JetStream
}

// StartOperator starts one, on a port of loopback. It ends with the test.
func StartOperator(t testing.TB) *Operator {
	t.Helper()
	operator, system, account := newKey(t, nkeys.CreateOperator), newKey(t, nkeys.CreateAccount), newKey(t, nkeys.CreateAccount)
	trusted, err := jwt.DecodeOperatorClaims(signed(t, jwt.NewOperatorClaims(publicKey(t, operator)), operator))
	if err != nil {
		t.Fatal(err)
	}
	known := &server.MemAccResolver{}
	claims := jwt.NewAccountClaims(publicKey(t, account))
	claims.Limits.JetStreamLimits = jwt.JetStreamLimits{MemoryStorage: jwt.NoLimit, DiskStorage: jwt.NoLimit, Streams: jwt.NoLimit, Consumer: jwt.NoLimit}
	for _, c := range []*jwt.AccountClaims{claims, jwt.NewAccountClaims(publicKey(t, system))} {
		if err := known.Store(c.Subject, signed(t, c, operator)); err != nil {
			t.Fatal(err)
		}
	}
	s, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true, MaxPayload: 1 << 20, JetStream: true, StoreDir: t.TempDir(),
		TrustedOperators: []*jwt.OperatorClaims{trusted}, SystemAccount: publicKey(t, system), AccountResolver: known,
	})
	if err != nil {
		t.Fatalf("start a broker with an operator: %v", err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(20 * time.Second) {
		t.Fatal("a broker with an operator takes no connections")
	}
	return &Operator{s, account}
}

// Creds is a file of credentials of a new user, who may do everything, and the public
// key by which the broker knows that user.
func (o *Operator) Creds(t testing.TB) (file []byte, user string) {
	t.Helper()
	return credsOf(t, o.account)
}

// StrangeCreds is one of a user of an account that no broker knows.
func StrangeCreds(t testing.TB) []byte {
	t.Helper()
	file, _ := credsOf(t, newKey(t, nkeys.CreateAccount))
	return file
}

func credsOf(t testing.TB, account nkeys.KeyPair) (file []byte, user string) {
	t.Helper()
	key := newKey(t, nkeys.CreateUser)
	user = publicKey(t, key)
	seed, err := key.Seed()
	if err != nil {
		t.Fatal(err)
	}
	file, err = jwt.FormatUserConfig(signed(t, jwt.NewUserClaims(user), account), seed)
	if err != nil {
		t.Fatal(err)
	}
	return file, user
}

func newKey(t testing.TB, create func() (nkeys.KeyPair, error)) nkeys.KeyPair {
	t.Helper()
	key, err := create()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func publicKey(t testing.TB, key nkeys.KeyPair) string {
	t.Helper()
	public, err := key.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	return public
}

func signed(t testing.TB, claims interface {
	Encode(by nkeys.KeyPair) (string, error)
}, by nkeys.KeyPair,
) string {
	t.Helper()
	text, err := claims.Encode(by)
	if err != nil {
		t.Fatal(err)
	}
	return text
}
