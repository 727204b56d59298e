package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/api"
	"github.com/peltonq/pelton/internal/limit"
	"github.com/peltonq/pelton/internal/metrics"
	"github.com/peltonq/pelton/redislimit"
	"github.com/peltonq/pelton/worker"
)

// limiterFlags say where rate limits are counted.
type limiterFlags struct {
	redis string
	share float64
}

func (f *limiterFlags) register(flags *pflag.FlagSet) {
	secretVar(flags, &f.redis, "redis", "`URL` of the Redis in which rate limits are counted for all processes")
	flags.Float64Var(&f.share, "rate-share", 1, "what this process may use of each rate limit by itself, without Redis or while it is out of reach: 0.25 for one of four")
}

// limiter counts for one process: in Redis if there is one.
type limiter struct {
	worker.Limiter
	close func()
}

// open checks the flags. A Redis that is out of reach is no error.
func (f *limiterFlags) open(ctx context.Context, log *slog.Logger, m *metrics.Metrics) (*limiter, error) {
	local, err := limit.NewLocal(f.share)
	if err != nil {
		return nil, usagef("--rate-share %v is not above 0 and at most 1", f.share)
	}
	if f.redis == "" {
		return &limiter{local, func() {}}, nil
	}
	redislimit.Silence()
	fleet, err := redislimit.Open(ctx, f.redis, redislimit.Config{Share: f.share, Observer: m, Logger: log})
	if errors.Is(err, pelton.ErrInvalid) {
		return nil, usagef("--redis (PELTON_REDIS): %s", plain(err))
	}
	if err != nil {
		return nil, err
	}
	return &limiter{fleet, func() {
		if err := fleet.Close(); err != nil {
			log.DebugContext(ctx, "limiter not closed", slog.Any("error", err))
		}
	}}, nil
}

// configure gives a worker the limiter, if it is one for the fleet: else the
// worker counts by itself and says what that means.
func (f *limiterFlags) configure(cfg *worker.Config, l *limiter) {
	cfg.LimitShare = f.share
	if f.redis != "" {
		cfg.Limiter = l.Limiter
	}
}

// apiRateFlags bound the requests of each caller.
type apiRateFlags struct {
	rate  rateValue
	burst int
}

func (f *apiRateFlags) register(flags *pflag.FlagSet) {
	flags.Var(&f.rate, "api-rate", "the most requests of each token, such as `100/1s`; none by default")
	flags.IntVar(&f.burst, "api-burst", 0, "how many of them may come at once (default: as many as --api-rate says)")
}

// requests is what the API needs to bound its callers, nil if it need not.
func (f *apiRateFlags) requests(l *limiter, namespace string) (*api.RequestLimit, error) {
	if f.rate.Limit == 0 {
		if f.burst != 0 {
			return nil, usagef("--api-burst needs --api-rate")
		}
		return nil, nil //nolint:nilnil // no bound is no error
	}
	checked, err := pelton.Limit{Name: "api", Kind: "api", Rate: pelton.RateLimit{Limit: f.rate.Limit, Per: f.rate.Per, Burst: f.burst}}.Normalized()
	if err != nil {
		return nil, usagef("--api-rate, --api-burst: %s", plain(err))
	}
	return &api.RequestLimit{Rate: checked.Rate, Take: func(ctx context.Context, caller string) api.Quota {
		d := l.Take(ctx, limit.Bucket{Limit: "api", Key: namespace + ":api:" + caller, Rate: checked.Rate}, 1)
		return api.Quota{Allowed: d.Allowed > 0, Remaining: d.Remaining, RetryAfter: d.RetryAfter, ResetAfter: d.ResetAfter}
	}}, nil
}

// rateValue is a flag of a number in a time: 100/1s, 5/m.
type rateValue struct{ pelton.RateLimit }

func (v *rateValue) Type() string { return "rate" }

func (v *rateValue) String() string {
	if v.Limit == 0 {
		return ""
	}
	return fmt.Sprintf("%d/%s", v.Limit, pelton.FormatDuration(v.Per))
}

func (v *rateValue) Set(s string) error {
	number, per, found := strings.Cut(s, "/")
	n, err := strconv.Atoi(number)
	if per == "s" || per == "m" || per == "h" || per == "d" {
		per = "1" + per
	}
	d, perErr := pelton.ParseDuration(per)
	if !found || err != nil || n < 1 || perErr != nil || d < time.Millisecond {
		return fmt.Errorf("%q is not NUMBER/TIME, such as 100/1s or 5/m", clip(s, 64))
	}
	v.Limit, v.Per = n, d
	return nil
}
