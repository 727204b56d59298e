package broker

import (
	"errors"
	"fmt"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/peltonq/pelton"
)

// A cluster whose brokers have not all met yet is waited for; one that could never do what it is
// asked for is not. The descriptions are those of nats-server 2.15.2.
func TestTooFewPeers(t *testing.T) {
	t.Parallel()
	for description, want := range map[string]error{
		"no suitable peers for placement, peer offline":                              pelton.ErrUnavailable,
		"no suitable peers for placement, peer offline, tags not matched ['disk:a']": pelton.ErrUnavailable,
		"no suitable peers for placement, tags not matched ['disk:a']":               pelton.ErrConflict,
		"no suitable peers for placement":                                            pelton.ErrConflict,
	} {
		err := &jetstream.APIError{Code: 400, ErrorCode: errNoPeers, Description: description}
		unavailable := errors.Is(want, pelton.ErrUnavailable)
		if got := translate("open", err); errors.Is(got, pelton.ErrUnavailable) != unavailable {
			t.Errorf("%s: opening = %v", description, got)
		}
		answer := fmt.Appendf(nil, `{"error":{"code":400,"err_code":%d,"description":%q}}`, errNoPeers, description)
		if got := isPeerOffline(readAnswer(answer, nil)); got != unavailable {
			t.Errorf("%s: an answer to a restore: %t", description, got)
		}
		if got := arrangeError(jetstream.StreamConfig{}, err); !errors.Is(got, want) {
			t.Errorf("%s: arranging = %v, want %v", description, got, want)
		}
	}
}
