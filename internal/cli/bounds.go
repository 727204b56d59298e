package cli

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/spf13/pflag"

	"github.com/peltonq/pelton/api"
	"github.com/peltonq/pelton/internal/metrics"
)

const (
	defaultConnections = 16_384
	minConnections     = 8
)

// boundFlags say how much a server takes upon itself.
type boundFlags struct {
	memory      bytesValue
	held        int
	connections int
}

func (f *boundFlags) register(flags *pflag.FlagSet) {
	f.memory = api.DefaultMemory
	flags.Var(&f.memory, "max-request-memory", "what requests may hold of memory together: bodies, tasks that are read, answers")
	flags.IntVar(&f.held, "max-held", api.DefaultHeld, "the most answers that are held (?wait=) and event streams, together")
	flags.IntVar(&f.connections, "max-connections", defaultConnections, "the most connections to the HTTP API")
}

func (f *boundFlags) check() error {
	switch {
	case f.memory < api.MinMemory:
		return usagef("--max-request-memory %s is less than %s", &f.memory, bytesValue(api.MinMemory))
	case f.held < 0:
		return usagef("--max-held %d is negative", f.held)
	case f.connections < minConnections:
		return usagef("--max-connections %d is less than %d", f.connections, minConnections)
	}
	return nil
}

// budgets are the bounds for the API. m shows them and that of the connections.
func (f *boundFlags) budgets(w *web, m *metrics.Metrics) (memory, held *api.Budget) {
	memory, held = api.NewBudget(int64(f.memory)), api.NewBudget(int64(f.held))
	m.WatchBound("memory", "pelton_http_memory_bytes", "What requests hold of memory, as the server weighs it.", memory)
	m.WatchBound("held", "pelton_http_held", "Answers that are held, and event streams.", held)
	m.WatchBound("connections", "pelton_http_connections", "Connections to the HTTP API.", w.conns)
	return memory, held
}

// bytesValue is a flag of a number of bytes: 1048576, 512KiB, 256MiB, 1GiB.
type bytesValue int64

func (v *bytesValue) Type() string { return "bytes" }

func (v bytesValue) String() string {
	for _, unit := range byteUnits() {
		if v >= bytesValue(unit.size) && int64(v)%unit.size == 0 {
			return fmt.Sprintf("%d%s", int64(v)/unit.size, unit.name)
		}
	}
	return strconv.FormatInt(int64(v), 10)
}

func (v *bytesValue) Set(s string) error {
	number, size := s, int64(1)
	for _, unit := range byteUnits() {
		if rest, found := strings.CutSuffix(s, unit.name); found {
			number, size = rest, unit.size
			break
		}
	}
	n, err := strconv.ParseUint(number, 10, 63)
	if err != nil || n > uint64(math.MaxInt64/size) {
		return fmt.Errorf("%q is not a number of bytes such as 1048576, 512KiB, 256MiB or 1GiB", clip(s, 64))
	}
	*v = bytesValue(int64(n) * size)
	return nil
}

// byteUnits are the units of bytesValue, the largest first.
func byteUnits() []struct {
	name string
	size int64
} {
	return []struct {
		name string
		size int64
	}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}}
}
