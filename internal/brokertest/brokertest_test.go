package brokertest_test

import (
	"regexp"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/peltonq/pelton/internal/brokertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func put(t *testing.T, nc *nats.Conn) uint64 {
	t.Helper()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateOrUpdateStream(t.Context(), jetstream.StreamConfig{Name: "A", Subjects: []string{"a"}}); err != nil {
		t.Fatal(err)
	}
	ack, err := js.Publish(t.Context(), "a", nil)
	if err != nil {
		t.Fatal(err)
	}
	return ack.Sequence
}

func TestBrokersAreApart(t *testing.T) {
	t.Parallel()
	for range 2 {
		if seq := put(t, brokertest.Start(t)); seq != 1 {
			t.Errorf("sequence %d in a new broker", seq)
		}
	}
}

func TestRestartPortAndToken(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for want := uint64(1); want <= 2; want++ {
		srv := brokertest.StartServer(t, brokertest.In(dir), brokertest.Listening, brokertest.WithToken("secret"))
		inside := brokertest.Connect(t, srv)
		outside, err := nats.Connect(srv.ClientURL(), nats.Token("secret"), nats.Timeout(5*time.Second))
		if err != nil {
			t.Fatal(err)
		}
		if seq := put(t, outside); seq != want {
			t.Errorf("sequence %d, want %d", seq, want)
		}
		outside.Close()
		inside.Close()
		brokertest.Stop(t, srv)
	}
}

func TestNamespace(t *testing.T) {
	t.Parallel()
	valid := regexp.MustCompile(`^[a-z][a-z0-9_]{0,31}$`)
	seen := map[string]bool{brokertest.Namespace(t): true}
	for _, name := range []string{"short", "a name with spaces/and.dots>*", "Ümläut", "", "a very long name that goes on and on, part one", "a very long name that goes on and on, part two"} {
		t.Run(name, func(t *testing.T) { // not parallel: seen is shared
			got := brokertest.Namespace(t)
			if !valid.MatchString(got) {
				t.Errorf("Namespace = %q", got)
			}
			if seen[got] {
				t.Errorf("%q came twice", got)
			}
			seen[got] = true
		})
	}
}
