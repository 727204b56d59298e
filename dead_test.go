package pelton_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/peltonq/pelton"
)

func TestDeadFilterMatches(t *testing.T) {
	t.Parallel()
	letter := &pelton.Task{Queue: "emails", Kind: "email.send", Error: &pelton.Failure{Message: "smtp: connection refused", Reason: pelton.ReasonTimeout}}
	for _, tc := range []struct {
		filter pelton.DeadFilter
		want   bool
	}{
		{pelton.DeadFilter{}, true},
		{pelton.DeadFilter{Queue: "emails", Kind: "email.send", Error: "refused"}, true},
		{pelton.DeadFilter{Error: "timeout: smtp"}, true},
		{pelton.DeadFilter{Queue: "email"}, false},
		{pelton.DeadFilter{Kind: "email"}, false},
		{pelton.DeadFilter{Error: "SMTP"}, false},
		{pelton.DeadFilter{Queue: "emails", Error: "panic"}, false},
	} {
		if got := tc.filter.Matches(letter); got != tc.want {
			t.Errorf("%+v: %v", tc.filter, got)
		}
	}
	if (pelton.DeadFilter{Error: "x"}).Matches(&pelton.Task{}) {
		t.Error("a letter without a failure matches an error")
	}
}

func TestDeadFilterCheck(t *testing.T) {
	t.Parallel()
	if err := (pelton.DeadFilter{Queue: "emails", Kind: "email.send", Error: "any *text*"}).Check(); err != nil {
		t.Error(err)
	}
	err := pelton.DeadFilter{Queue: "*", Kind: "a b", Error: strings.Repeat("x", 257)}.Check()
	var invalid *pelton.ValidationError
	if !errors.As(err, &invalid) || !errors.Is(err, pelton.ErrInvalid) {
		t.Fatalf("Check = %v", err)
	}
	var fields []string
	for _, f := range invalid.Fields {
		fields = append(fields, f.Field)
	}
	if diff := cmp.Diff([]string{"queue", "kind", "error"}, fields); diff != "" {
		t.Errorf("fields (-want +got):\n%s", diff)
	}
}
