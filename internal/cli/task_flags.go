package cli

import (
	"errors"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/peltonq/pelton"
)

// taskFlags are the flags that say what a task is like, of whatever enqueues it.
type taskFlags struct {
	queue       string
	priority    enumValue
	delay       durationValue
	maxAttempts int
	timeout     durationValue
	retention   durationValue
	backoff     string
	rateKey     string
	labels      []string
	key         string

	uniqueKey    string
	uniqueUntil  enumValue
	uniqueWindow durationValue
	onConflict   enumValue
}

func (f *taskFlags) register(cmd *cobra.Command) {
	f.timeout, f.retention = durationValue(pelton.DefaultTimeout), durationValue(pelton.DefaultRetention)
	f.priority = enumOf(pelton.Normal, pelton.Priorities()...)
	f.uniqueUntil = enumOf(pelton.UntilFinished, pelton.UniqueUntils()...)
	f.onConflict = enumOf(pelton.ConflictReject, pelton.OnConflicts()...)
	flags := cmd.Flags()
	flags.StringVar(&f.queue, "queue", pelton.DefaultQueue, "the queue")
	flags.Var(&f.priority, "priority", "the priority: "+f.priority.choices())
	flags.Var(&f.delay, "delay", "make it ready that much later, such as 90s or 7d")
	flags.IntVar(&f.maxAttempts, "max-attempts", pelton.DefaultMaxAttempts, "how often to try")
	flags.Var(&f.timeout, "timeout", "how long one run may take")
	flags.Var(&f.retention, "retention", "how long the finished task stays readable")
	flags.StringVar(&f.backoff, "backoff", "", "delays between attempts: `initial=1s,max=1h,factor=2`, each may be left out")
	flags.StringVar(&f.rateKey, "rate-key", "", "what limits per rate key count it under, such as a tenant")
	flags.StringArrayVar(&f.labels, "label", nil, "`name=value`; may be repeated")
	flags.StringVar(&f.key, "concurrency-key", "", "run it when it is its turn among the tasks with this `key`: one at a time, in order")
	flags.StringVar(&f.uniqueKey, "unique", "", "refuse a second unfinished task of the kind with this `key`")
	flags.Var(&f.uniqueUntil, "unique-until", "when the task gives its unique key back: "+f.uniqueUntil.choices())
	flags.Var(&f.uniqueWindow, "unique-window", "hold the unique key for at least that long, such as 10m")
	flags.Var(&f.onConflict, "on-conflict", "what to do if another task holds the unique key: "+f.onConflict.choices())
	completeEnum(cmd, "priority", &f.priority)
	completeEnum(cmd, "unique-until", &f.uniqueUntil)
	completeEnum(cmd, "on-conflict", &f.onConflict)
}

// fields are the task's fields that flags were given for, checked as far as that
// needs no server.
func (f *taskFlags) fields(given func(flag string) bool) ([]field, error) {
	var list []field
	add := func(flag, name string, value any) {
		if given(flag) {
			list = append(list, field{name, value})
		}
	}
	if given("queue") {
		if err := pelton.ValidateQueue(f.queue); err != nil {
			return nil, usagef("--queue: %s", plain(err))
		}
	}
	if f.maxAttempts < 1 {
		return nil, usagef("--max-attempts must be at least 1")
	}
	add("queue", "queue", f.queue)
	add("priority", "priority", f.priority.value)
	add("delay", "delay", f.delay.String())
	add("max-attempts", "max_attempts", f.maxAttempts)
	add("timeout", "timeout", f.timeout.String())
	add("retention", "retention", f.retention.String())

	backoff, err := parseBackoff(f.backoff)
	if err != nil {
		return nil, err
	}
	add("backoff", "backoff", backoff)

	if given("concurrency-key") {
		if err := pelton.ValidateKey(f.key); err != nil || f.key == "" {
			return nil, usagef("--concurrency-key: want 1 to 256 bytes without control characters")
		}
	}
	add("concurrency-key", "concurrency_key", f.key)

	if given("rate-key") {
		if err := pelton.ValidateKey(f.rateKey); err != nil {
			return nil, usagef("--rate-key: %s", plain(err))
		}
	}
	add("rate-key", "rate_key", f.rateKey)
	labels, err := parseLabels(f.labels)
	if err != nil {
		return nil, err
	}
	add("label", "labels", labels)
	unique, err := f.unique(given)
	if err != nil {
		return nil, err
	}
	add("unique", "unique", unique)
	return list, nil
}

// parseBackoff reads the parts of --backoff; their bounds are the server's to check.
func parseBackoff(text string) (map[string]any, error) {
	parts := make(map[string]any)
	for part := range strings.SplitSeq(text, ",") {
		if text == "" {
			break
		}
		name, value, found := strings.Cut(part, "=")
		var err error
		switch {
		case !found || parts[name] != nil:
			err = errors.New("want name=value, each name once")
		case name == "initial", name == "max":
			_, err = pelton.ParseDuration(value)
			parts[name] = value
		case name == "factor":
			parts[name], err = strconv.ParseFloat(value, 64)
		default:
			err = errors.New("want initial, max or factor")
		}
		if err != nil {
			return nil, usagef("--backoff %q: %s", clip(part, 100), plain(err))
		}
	}
	return parts, nil
}

// unique is what the flags of the unique key say; nothing without one.
func (f *taskFlags) unique(given func(flag string) bool) (*pelton.Unique, error) {
	if !given("unique") {
		for _, flag := range []string{"unique-until", "unique-window", "on-conflict"} {
			if given(flag) {
				return nil, usagef("--%s needs --unique", flag)
			}
		}
		return nil, nil //nolint:nilnil // documented
	}
	if f.uniqueKey == "" {
		return nil, usagef("--unique must not be empty")
	}
	u := &pelton.Unique{Key: f.uniqueKey, Window: f.uniqueWindow.duration()}
	if given("unique-until") {
		u.Until = pelton.UniqueUntil(f.uniqueUntil.value)
	}
	if given("on-conflict") {
		u.OnConflict = pelton.OnConflict(f.onConflict.value)
	}
	return u, nil
}
