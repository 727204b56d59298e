package pelton_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/peltonq/pelton"
)

func TestTokenNormalized(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 12, 1, 8, 0, 0, 0, time.UTC)
	got, err := pelton.Token{
		Name: "ci/deploy", Scopes: []pelton.Scope{"read", "enqueue", "read"}, Queues: []string{"b", "a", "b"}, ExpiresAt: now.Add(time.Hour),
	}.Normalized(now)
	want := pelton.Token{Name: "ci/deploy", Scopes: []pelton.Scope{"enqueue", "read"}, Queues: []string{"a", "b"}, ExpiresAt: now.Add(time.Hour)}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v %s", err, diff)
	}
	for field, bad := range map[string]pelton.Token{
		"name":       {Name: "a b", Scopes: []pelton.Scope{"read"}},
		"scopes":     {Name: "a"},
		"scopes[1]":  {Name: "a", Scopes: []pelton.Scope{"read", "root"}},
		"queues[0]":  {Name: "a", Scopes: []pelton.Scope{"read"}, Queues: []string{"a.>"}},
		"queues":     {Name: "a", Scopes: []pelton.Scope{"read"}, Queues: slices.Repeat([]string{"q"}, pelton.MaxTokenQueues+1)},
		"expires_at": {Name: "a", Scopes: []pelton.Scope{"read"}, ExpiresAt: now},
	} {
		_, err := bad.Normalized(now)
		var invalid *pelton.ValidationError
		if !errors.As(err, &invalid) || len(invalid.Fields) != 1 || invalid.Fields[0].Field != field {
			t.Errorf("%s: %v", field, err)
		}
	}
	if _, err := (pelton.Token{Name: "a", Scopes: []pelton.Scope{"read"}, ExpiresAt: now.AddDate(11, 0, 0)}).Normalized(now); err == nil || !strings.Contains(err.Error(), "ten years") {
		t.Errorf("eleven years: %v", err)
	}
}

func TestTokenAllows(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for _, tc := range []struct {
		token   pelton.Token
		allows  []pelton.Scope
		queue   bool // emails
		governs bool
	}{
		{pelton.Token{Scopes: []pelton.Scope{"enqueue"}}, []pelton.Scope{"enqueue"}, true, false},
		{pelton.Token{Scopes: []pelton.Scope{"operate", "read"}, Queues: []string{"emails"}}, []pelton.Scope{"read", "operate"}, true, false},
		{pelton.Token{Scopes: []pelton.Scope{"admin"}}, pelton.Scopes(), true, true},
		{pelton.Token{Scopes: []pelton.Scope{"admin"}, Queues: []string{"default"}}, pelton.Scopes(), false, false},
		{pelton.Token{Scopes: []pelton.Scope{"admin"}, ExpiresAt: now}, pelton.Scopes(), true, false},
	} {
		var allows []pelton.Scope
		for _, s := range pelton.Scopes() {
			if tc.token.Allows(s) {
				allows = append(allows, s)
			}
		}
		if diff := cmp.Diff(tc.allows, allows); diff != "" {
			t.Errorf("%+v: %s", tc.token, diff)
		}
		if tc.token.AllowsQueue("emails") != tc.queue || tc.token.Governs(now) != tc.governs {
			t.Errorf("%+v: emails %v, governs %v", tc.token, !tc.queue, !tc.governs)
		}
	}
}
