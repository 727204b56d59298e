package cli

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"syscall"

	"github.com/peltonq/pelton"
)

// The exit codes. They are promises: scripts rely on them.
const (
	exitOK          = 0
	exitFailure     = 1  // anything that has no code of its own
	exitUsage       = 2  // wrong arguments, flags, environment or input
	exitNotFound    = 3  // no such task or queue
	exitAuth        = 4  // the token is missing, wrong or not enough
	exitConflict    = 5  // the task's state forbids it
	exitWaitTimeout = 6  // the task had not ended in time
	exitUnreachable = 7  // no server there, or it has no broker; nothing was done
	exitRateLimited = 8  // try again later
	exitPartly      = 9  // some of several did not come out as the others
	exitTaskFailed  = 10 // waited for, and failed
	exitTaskGone    = 11 // waited for, and cancelled or expired
)

// codeError gives an error its exit code. A nil err means that the user has been
// told already.
type codeError struct {
	code int
	err  error
}

func (e *codeError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit code %d", e.code)
	}
	return e.err.Error()
}

func (e *codeError) Unwrap() error { return e.err }

// usagef is an error of the caller: exit code 2.
func usagef(format string, args ...any) error {
	return &codeError{exitUsage, fmt.Errorf(format, args...)}
}

// told ends with code and says nothing more; it is nil for exitOK.
func told(code int) error {
	if code == exitOK {
		return nil
	}
	return &codeError{code: code}
}

// alreadyTold reports whether there is nothing to say: the user knows, or the
// reader of our output has gone.
func alreadyTold(err error) bool {
	var coded *codeError
	if errors.As(err, &coded) && coded.err == nil {
		return true
	}
	return errors.Is(err, syscall.EPIPE)
}

// exitCode is the one table from errors to exit codes. The first match wins.
func exitCode(err error) int {
	if err == nil {
		return exitOK
	}
	var coded *codeError
	if errors.As(err, &coded) {
		return coded.code
	}
	var problem *problemError
	if errors.As(err, &problem) {
		return problem.exitCode()
	}
	for _, rule := range []struct {
		err  error
		code int
	}{
		{pelton.ErrUnknownOutcome, exitFailure}, // above unreachable: it may have been done
		{errUnreachable, exitUnreachable},
		{pelton.ErrUnavailable, exitUnreachable},
		{pelton.ErrFailed, exitTaskFailed},
		{pelton.ErrCancelled, exitTaskGone},
		{pelton.ErrExpired, exitTaskGone},
		{pelton.ErrOverloaded, exitRateLimited},
		{pelton.ErrInvalid, exitUsage},
		{pelton.ErrNotSupported, exitUsage},
		{pelton.ErrNotFound, exitNotFound},
		{pelton.ErrConflict, exitConflict},
		{context.Canceled, exitFailure},
	} {
		if errors.Is(err, rule.err) {
			return rule.code
		}
	}
	return exitFailure
}

// exitCode turns the server's refusal into a code: by its type where that says
// more than the status, else by its status.
func (p *problemError) exitCode() int {
	switch p.Type {
	case "unknown-outcome":
		return exitFailure
	case "not-supported":
		return exitUsage
	case "": // not a problem of ours: a 404 then does not speak of a task
		if p.Status == http.StatusNotFound {
			return exitFailure
		}
	}
	switch p.Status {
	case http.StatusBadRequest, http.StatusRequestEntityTooLarge, http.StatusUnprocessableEntity:
		return exitUsage
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusMisdirectedRequest:
		return exitAuth
	case http.StatusNotFound:
		return exitNotFound
	case http.StatusConflict, http.StatusPreconditionFailed:
		return exitConflict
	case http.StatusTooManyRequests:
		return exitRateLimited
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return exitUnreachable
	default:
		return exitFailure
	}
}

// hint is what to do about an error, where that is known.
func hint(err error) string {
	var (
		problem *problemError
		unknown x509.UnknownAuthorityError
	)
	switch {
	case errors.As(err, &unknown):
		return "--tls-ca or PELTON_TLS_CA names a file with the authority of the server's certificate."
	case errors.Is(err, errUnreachable):
		return `Is "pelton serve" running there? --url or PELTON_URL says where the API is.`
	case errors.As(err, &problem) && problem.Status == http.StatusUnauthorized:
		return "Give the server's token by --token or PELTON_TOKEN."
	default:
		return ""
	}
}

// tally collects the exit codes of several things done by one command.
type tally struct {
	codes map[int]int // how many of each
}

func (t *tally) add(code int, n int) {
	if t.codes == nil {
		t.codes = make(map[int]int)
	}
	t.codes[code] += n
}

// code is the common exit code of all, or exitPartly.
func (t *tally) code() int {
	if len(t.codes) > 1 {
		return exitPartly
	}
	for code := range t.codes {
		return code
	}
	return exitOK
}
