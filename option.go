package pelton

import (
	"maps"
	"time"
)

// Option sets one field of a Spec. Options apply in order; later ones win.
type Option func(*Spec)

// Apply applies opts in order.
func (s *Spec) Apply(opts ...Option) {
	for _, opt := range opts {
		opt(s)
	}
}

// WithQueue names the queue. The default is "default".
func WithQueue(name string) Option { return func(s *Spec) { s.Queue = name } }

// WithPriority sets the priority. The default is Normal.
func WithPriority(p Priority) Option { return func(s *Spec) { s.Priority = p } }

// WithDelay makes the task ready after d. It unsets a WithRunAt before it.
func WithDelay(d time.Duration) Option {
	return func(s *Spec) { s.Delay, s.RunAt = d, time.Time{} }
}

// WithRunAt makes the task ready at t, by the broker's clock; a past time means
// now. It unsets a WithDelay before it.
func WithRunAt(t time.Time) Option {
	return func(s *Spec) { s.RunAt, s.Delay = t, 0 }
}

// WithExpiresAt lets the task end as expired if no worker has started it by t.
func WithExpiresAt(t time.Time) Option { return func(s *Spec) { s.ExpiresAt = t } }

// WithTimeout bounds one run of the handler. The default is DefaultTimeout.
func WithTimeout(d time.Duration) Option { return func(s *Spec) { s.Timeout = d } }

// WithMaxAttempts bounds the attempts. The default is DefaultMaxAttempts.
func WithMaxAttempts(n int) Option { return func(s *Spec) { s.MaxAttempts = n } }

// WithBackoff sets the delays between attempts, of one task or, as an option of
// NewKind, of a kind. A handler that returns RetryAfter says otherwise.
func WithBackoff(b Backoff) Option { return func(s *Spec) { s.Backoff = b } }

// WithRetention keeps the finished task readable for d. The default is
// DefaultRetention; failed tasks are kept for FailedRetention.
func WithRetention(d time.Duration) Option { return func(s *Spec) { s.Retention = d } }

// WithRateKey names what limits per rate key count the task under, such as a
// tenant: at most 256 bytes.
func WithRateKey(key string) Option { return func(s *Spec) { s.RateKey = key } }

// WithConcurrencyKey lets the task run only when it is its turn among the tasks
// with the same key, on all workers together: see Spec.ConcurrencyKey.
func WithConcurrencyKey(key string) Option { return func(s *Spec) { s.ConcurrencyKey = key } }

// WithLabels adds labels, keeping those set before under other names.
func WithLabels(labels map[string]string) Option {
	return func(s *Spec) {
		merged := make(map[string]string, len(s.Labels)+len(labels))
		maps.Copy(merged, s.Labels)
		maps.Copy(merged, labels)
		s.Labels = merged
	}
}

// WithUnique allows at most one task of the kind with u.Key that is not over.
func WithUnique(u Unique) Option { return func(s *Spec) { s.Unique = &u } }

// WithIdempotencyKey makes repeating the same Enqueue safe for 24 hours: it is
// answered with the task of the first one. The key is for one request with all
// its fields; another request with it is refused.
func WithIdempotencyKey(key string) Option { return func(s *Spec) { s.IdempotencyKey = key } }
