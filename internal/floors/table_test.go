package floors

// rule is what one package may import, next to the standard library. Packages of
// the module are named by their folder; "." is the vocabulary.
type rule struct {
	pkg       string
	module    []string // packages of the module
	libraries []string // modules or packages of others, with all that lies below them
	tests     []string // packages of the module that only its tests may import
}

// Libraries that more than one row names.
const (
	uuid       = "github.com/google/uuid"
	lru        = "github.com/hashicorp/golang-lru/v2"
	natsClient = "github.com/nats-io/nats.go"
	natsServer = "github.com/nats-io/nats-server/v2"
	natsJWT    = "github.com/nats-io/jwt/v2"
	natsKeys   = "github.com/nats-io/nkeys"
)

// table lists every package, from the ground up: a row names only rows above it
// in its module column. Rows may be there before their packages are.
var table = []rule{
	// The vocabulary stays light: code that only names kinds imports it.
	{pkg: ".", libraries: []string{uuid}},

	// Places at which the fault suite may end a process.
	{pkg: "internal/failpoint"},

	// Where programs listen that tests start.
	{pkg: "internal/freeport"},

	// Certificates that change while a server runs.
	{pkg: "internal/certs/certstest"},
	{pkg: "internal/certs"},

	// The broker, and the only packages that link its server.
	{pkg: "internal/embed", libraries: []string{natsServer, natsClient, "github.com/gofrs/flock"}},
	{pkg: "internal/brokertest", module: []string{"internal/embed", "internal/freeport"}, libraries: []string{natsServer, natsClient, natsJWT, natsKeys}},
	{pkg: "internal/broker", module: []string{".", "internal/failpoint"}, libraries: []string{natsClient, lru, "golang.org/x/sync"}},

	// What counts starts: in the process, and in Redis for the fleet. The second is
	// apart so that a worker without Redis does not link its client.
	{pkg: "internal/limit", module: []string{"."}, libraries: []string{lru, "golang.org/x/time"}},
	{pkg: "redislimit", module: []string{".", "internal/limit"}, libraries: []string{
		"github.com/redis/go-redis/v9",
		"github.com/go-redis/redis_rate/v10",
		"github.com/failsafe-go/failsafe-go",
		lru,
	}},
	{pkg: "internal/redistest", module: []string{"internal/freeport"}},

	// Siblings. A test of one may need another to produce or to run its tasks.
	{pkg: "producer", module: []string{".", "internal/failpoint", "internal/broker"}, libraries: []string{natsClient}, tests: siblings},
	{pkg: "worker", module: []string{".", "internal/failpoint", "internal/broker", "internal/limit"}, libraries: []string{natsClient, uuid, "golang.org/x/sync", "golang.org/x/time"}, tests: append([]string{"redislimit"}, siblings...)},
	{pkg: "scheduler", module: []string{".", "internal/failpoint", "internal/broker"}, libraries: []string{natsClient, "github.com/netresearch/go-cron"}, tests: siblings},
	{pkg: "admin", module: []string{".", "internal/broker"}, libraries: []string{natsClient, "golang.org/x/time"}, tests: siblings},

	// The API declares the interfaces it needs and never sees NATS.
	{pkg: "api/dashboard", module: []string{"."}},
	{pkg: "api", module: []string{".", "api/dashboard"}, libraries: []string{
		"github.com/danielgtaylor/huma/v2",
		"github.com/go-json-experiment/json",
	}},

	// What handlers can be made of, on top of the worker.
	{pkg: "internal/metrics", module: []string{".", "worker"}, libraries: []string{"github.com/prometheus/client_golang"}},
	{pkg: "internal/command", module: []string{".", "worker"}},
	{pkg: "internal/demo", module: []string{".", "worker"}, libraries: []string{"code.dny.dev/ssrf", "golang.org/x/image"}},

	// For users' tests.
	{pkg: "peltontest", module: []string{".", "internal/embed", "internal/brokertest", "internal/broker", "producer", "worker", "admin"}, libraries: []string{natsServer, natsClient}},

	// The wiring sees everything except the helpers of tests.
	{
		pkg: "internal/cli",
		module: []string{
			".", "internal/embed", "internal/broker", "producer", "worker", "scheduler", "admin",
			"api", "api/dashboard", "internal/limit", "redislimit", "internal/command", "internal/demo", "internal/metrics", "internal/certs",
		},
		libraries: []string{
			natsClient,
			"github.com/spf13/cobra",
			"github.com/spf13/pflag",
			"github.com/knadh/koanf",
			"charm.land",
			uuid,
			"golang.org/x/sync",
			"golang.org/x/term",
			"go.yaml.in/yaml/v3",
		},
	},
	{pkg: "cmd/pelton", module: []string{"internal/cli"}},

	// Tests of the whole, which meet the binary from outside.
	{pkg: "internal/floors"},
	{pkg: "chaos/history", module: []string{"."}, libraries: []string{"golang.org/x/sys"}},
	{pkg: "chaos/check", module: []string{".", "chaos/history"}},
	{pkg: "internal/nginxtest"},
	{pkg: "e2e", module: append([]string{"internal/brokertest", "internal/nginxtest", "internal/limit", "redislimit", "chaos/history", "chaos/check"}, outside...), libraries: []string{"go.yaml.in/yaml/v3"}},
	{pkg: "chaos/proxy"},
	{pkg: "chaos/guard"},
	{pkg: "chaos/powerfs", module: []string{"chaos/guard"}, libraries: []string{"github.com/hanwen/go-fuse/v2"}},
	{pkg: "chaos/hosts", module: []string{"chaos/guard"}, libraries: []string{"golang.org/x/sys"}},
	{pkg: "chaos/actor", module: []string{".", "worker", "redislimit", "chaos/history"}, libraries: []string{natsClient}},
	{pkg: "chaos/node", libraries: []string{natsServer}},
	{pkg: "chaos", module: append([]string{"internal/failpoint", "chaos/history", "chaos/check", "chaos/proxy", "chaos/powerfs", "chaos/hosts", "internal/nginxtest"}, outside...)},
}

var (
	siblings = []string{"producer", "worker", "scheduler", "admin"}
	outside  = []string{".", "producer", "worker", "scheduler", "admin", "internal/embed", "internal/brokertest", "peltontest"}
)

// What every test may import on top of its package's row.
var (
	testPackages  = []string{"internal/embed", "internal/brokertest", "internal/redistest", "internal/certs/certstest", "internal/freeport", "peltontest"}
	testLibraries = []string{
		natsClient, natsServer,
		"github.com/google/go-cmp",
		"github.com/rogpeppe/go-internal",
		"go.uber.org/goleak",
		"pgregory.net/rapid",
		"github.com/chromedp",
		"github.com/getkin/kin-openapi",
		"github.com/santhosh-tekuri/jsonschema",
	}
)
