package worker

import (
	"errors"

	"github.com/peltonq/pelton"
)

// reasonError carries the reason of a failure that is not the handler's own error.
type reasonError struct {
	reason pelton.Reason
	err    error
}

func (e *reasonError) Error() string { return e.err.Error() }
func (e *reasonError) Unwrap() error { return e.err }

// WithReason gives err the reason that the task's record will show for it, for
// handlers that know better than "error": one that decodes its own payload says
// pelton.ReasonPayload. A failure with pelton.ReasonResult is not retried.
func WithReason(reason pelton.Reason, err error) error {
	return &reasonError{reason: reason, err: err}
}

// reasonOf is the reason that WithReason gave to err or to an error in it.
func reasonOf(err error) (pelton.Reason, bool) {
	var withReason *reasonError
	if errors.As(err, &withReason) {
		return withReason.reason, true
	}
	return "", false
}
