package admin_test

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/brokertest"
)

func TestLimits(t *testing.T) {
	t.Parallel()
	client, _ := open(t, brokertest.Start(t))
	want := pelton.Limit{Name: "mail", Kind: "email.send", Cost: 1, Rate: pelton.RateLimit{Limit: 5, Per: time.Second, Burst: 5, OnError: pelton.OnErrorLocal}}
	got, err := client.SetLimit(t.Context(), pelton.Limit{Name: "mail", Kind: "email.send", Rate: pelton.RateLimit{Limit: 5}})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(&want, got); diff != "" {
		t.Errorf("set (-want +got):\n%s", diff)
	}
	limits, err := client.Limits(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]pelton.Limit{want}, limits); diff != "" {
		t.Errorf("listed (-want +got):\n%s", diff)
	}
	var invalid *pelton.ValidationError
	if _, err := client.SetLimit(t.Context(), pelton.Limit{Name: "mail", Kind: " "}); !errors.As(err, &invalid) || len(invalid.Fields) != 2 {
		t.Errorf("a limit of no kind and no rate: %v", err)
	}
	if err := client.DeleteLimit(t.Context(), "Mail"); !errors.Is(err, pelton.ErrInvalid) {
		t.Errorf("a bad name: %v", err)
	}
	if err := client.DeleteLimit(t.Context(), "mail"); err != nil {
		t.Errorf("delete: %v", err)
	}
	if err := client.DeleteLimit(t.Context(), "mail"); !errors.Is(err, pelton.ErrNotFound) {
		t.Errorf("delete again: %v", err)
	}
}
