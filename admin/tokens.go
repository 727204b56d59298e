package admin

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/broker"
)

const (
	tokenIDBytes = 10 // 16 letters
	secretBytes  = 32 // 256 bits: 43 letters
)

// tokenLetters are those of ids: a key of the broker may have them.
const tokenLetters = "abcdefghijklmnopqrstuvwxyz234567"

// newTokenText makes an id and a secret.
func newTokenText() (id, secret string) {
	var random [tokenIDBytes + secretBytes]byte
	_, _ = rand.Read(random[:]) // never fails
	form := base32.NewEncoding(tokenLetters).WithPadding(base32.NoPadding)
	return form.EncodeToString(random[:tokenIDBytes]), base64.RawURLEncoding.EncodeToString(random[tokenIDBytes:])
}

// validTokenID reports whether text has the form of an id, and so may become a key.
func validTokenID(text string) bool {
	return len(text) == 8*tokenIDBytes/5 && strings.Trim(text, tokenLetters) == ""
}

// splitToken takes what a caller shows apart. ok is false for what no token looks like.
func splitToken(shown string) (id string, sum [sha256.Size]byte, ok bool) {
	id, secret, _ := strings.Cut(shown, ".")
	raw, err := base64.RawURLEncoding.DecodeString(secret)
	return id, sha256.Sum256([]byte(secret)), err == nil && len(raw) == secretBytes && validTokenID(id)
}

// CreateToken makes a token with the name, scopes, queues, maker and expiry of t, and
// gives it together with the text that its holder shows, "id.secret", which nobody can
// ask for again. Errors: *pelton.ValidationError, also for one token too many;
// pelton.ErrUnavailable; pelton.ErrUnknownOutcome, after which Tokens tells, and a token
// whose secret nobody has is best revoked.
func (c *Client) CreateToken(ctx context.Context, t pelton.Token) (made *pelton.Token, shown string, err error) {
	now := time.Now().UTC()
	if t, err = t.Normalized(now); err != nil {
		return nil, "", err
	}
	known, err := c.b.Tokens(ctx)
	if err != nil {
		return nil, "", fmt.Errorf("create token: %w", err)
	}
	if len(known) >= pelton.MaxTokens {
		return nil, "", &pelton.ValidationError{Fields: []pelton.FieldError{{
			Field: "name", Message: fmt.Sprintf("%q would be token %d, more than the %d that an installation holds", t.Name, len(known)+1, pelton.MaxTokens),
		}}}
	}
	var secret string
	t.ID, secret = newTokenText()
	t.CreatedAt = now.Truncate(time.Millisecond)
	doc := &broker.TokenDoc{Token: t, Hash: sha256.Sum256([]byte(secret))}
	if err := c.b.CreateToken(ctx, doc); err != nil {
		return nil, "", fmt.Errorf("create token: %w", err)
	}
	return &t, t.ID + "." + secret, nil
}

// Tokens lists all tokens, expired ones included for a week, the newest first.
func (c *Client) Tokens(ctx context.Context) ([]pelton.Token, error) {
	docs, err := c.b.Tokens(ctx)
	if err != nil {
		return nil, fmt.Errorf("list tokens: %w", err)
	}
	tokens := make([]pelton.Token, len(docs))
	for i, doc := range docs {
		tokens[i] = doc.Token
	}
	slices.Reverse(tokens)
	return tokens, nil
}

// RevokeToken deletes a token; pelton.ErrNotFound if there is none. Every server refuses
// it within 2 s (Keyring), and ends what it is waiting for.
func (c *Client) RevokeToken(ctx context.Context, id string) error {
	if !validTokenID(id) {
		return fmt.Errorf("revoke token: %w: no token has that id", pelton.ErrNotFound)
	}
	err := c.b.DeleteToken(ctx, id)
	if errors.Is(err, broker.ErrStale) {
		err = fmt.Errorf("%w: it is being changed", pelton.ErrUnavailable)
	}
	if err != nil {
		return fmt.Errorf("revoke: %w", err)
	}
	return nil
}
