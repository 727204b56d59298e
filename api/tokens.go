package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/peltonq/pelton"
)

const (
	opListTokens  = "listTokens"
	opCreateToken = "createToken"
	opRevokeToken = "revokeToken"

	pathTokens = "/tokens"
	pathToken  = "/tokens/{id}" //nolint:gosec // the path of a token is none
)

// Keyring is what the API needs to know its callers by tokens, and to make and revoke
// those.
type Keyring interface {
	// Identify finds the token that a caller shows, from memory wherever it can. live
	// ends when the token is no longer good. ErrNotFound is a token that is not good,
	// ErrUnavailable one that cannot be checked. With remembered, what was known last
	// will do: the call has nothing to do with the broker.
	Identify(ctx context.Context, shown string, remembered bool) (t *pelton.Token, live context.Context, err error)
	// Any reports, from memory, whether there are tokens.
	Any() bool
	// CreateToken makes a token, and gives the text that its holder shows. What cannot
	// be is a *pelton.ValidationError.
	CreateToken(ctx context.Context, t pelton.Token) (made *pelton.Token, shown string, err error)
	// Tokens lists all tokens, the newest first.
	Tokens(ctx context.Context) ([]pelton.Token, error)
	// RevokeToken deletes a token, or is ErrNotFound.
	RevokeToken(ctx context.Context, id string) error
}

// tokenTimeout bounds calls on tokens, which may read a thousand of them.
const tokenTimeout = 10 * time.Second

// tokenList is the answer of GET /tokens.
type tokenList struct {
	Items []pelton.Token `json:"items"`
}

func (s *server) listTokens(ctx context.Context, _ *struct{}) (*answer, error) {
	ctx, cancel := context.WithTimeout(ctx, tokenTimeout)
	defer cancel()
	tokens, err := s.Keyring.Tokens(ctx)
	if err != nil {
		return nil, err
	}
	if tokens == nil {
		tokens = []pelton.Token{} // [] and not null
	}
	return encodeAnswer(tokenList{tokens})
}

// newToken is the answer of POST /tokens: the only one that has the secret.
type newToken struct {
	*pelton.Token
	Shown string `json:"token"`
}

// createTokenInput is the request of POST /tokens.
type createTokenInput struct {
	body []byte
	err  error
}

// Resolve reads the body.
func (in *createTokenInput) Resolve(ctx huma.Context) []error {
	in.body, in.err = readBody(ctx, maxTaskBody)
	return nil
}

func (s *server) createToken(ctx context.Context, in *createTokenInput) (*answer, error) {
	if in.err != nil {
		return nil, in.err
	}
	t, err := parseToken(in.body, time.Now())
	if err != nil {
		return nil, err
	}
	t.CreatedBy = callerOf(ctx).id
	ctx, cancel := detached(ctx, tokenTimeout)
	defer cancel()
	if s.Token == "" && !t.Governs(time.Now()) {
		if governed, err := s.governed(ctx, ""); err != nil || !governed {
			return nil, orElse(err, newProblem(kindConflict, "the first token must have the scope admin and all queues: nobody could make another one after it"))
		}
	}
	made, shown, err := s.Keyring.CreateToken(ctx, t)
	if err != nil {
		return nil, unlessKnown(err)
	}
	out, err := encodeAnswer(newToken{made, shown})
	if err != nil {
		return nil, err
	}
	out.Status, out.Location = http.StatusCreated, pathTokens+"/"+made.ID
	return out, nil
}

// governed reports whether there is a token that may do everything, besides one.
func (s *server) governed(ctx context.Context, besides string) (bool, error) {
	tokens, err := s.Keyring.Tokens(ctx)
	return slices.ContainsFunc(tokens, func(t pelton.Token) bool { return t.ID != besides && t.Governs(time.Now()) }), err
}

func orElse(err error, otherwise *problem) error {
	if err != nil {
		return err
	}
	return otherwise
}

// tokenInput is the request of DELETE /tokens/{id}.
type tokenInput struct {
	ID string `path:"id" doc:"The token's id, which is what stands before the dot." example:"a2c4e6g7i3k5m7o2"`
}

// revokeToken keeps the last token that may do everything, where the server has no other
// way in: without it the API could not be administered, or, on loopback, would be open.
func (s *server) revokeToken(ctx context.Context, in *tokenInput) (*answer, error) {
	ctx, cancel := detached(ctx, tokenTimeout)
	defer cancel()
	if s.Token == "" {
		if governed, err := s.governed(ctx, in.ID); err != nil || !governed {
			return nil, orElse(err, newProblem(kindConflict, "no other token could make tokens then: create one with the scope admin and all queues before, or start the server with --token"))
		}
	}
	if err := s.Keyring.RevokeToken(ctx, in.ID); err != nil {
		return nil, unlessKnown(err)
	}
	return &answer{Status: http.StatusNoContent}, nil
}

// tokenParser reads the body of POST /tokens, which checkJSON has passed.
type tokenParser struct {
	fieldReader

	token   pelton.Token
	expires time.Duration
}

// parseToken reads {"name","scopes","queues","expires_in","expires_at"}. Names and
// bounds are left to whoever makes it. The error is a problem.
func parseToken(body []byte, now time.Time) (pelton.Token, error) {
	root := jsontext.Value(body)
	if root.Kind() != jsontext.KindBeginObject {
		return pelton.Token{}, fieldProblem(kindInvalid, fieldError{"body", "must be an object, not " + describe(root)})
	}
	p := tokenParser{fieldReader: fieldReader{at: "body"}}
	if err := eachMember(root, p.member); err != nil {
		return pelton.Token{}, fmt.Errorf("parse token: %w", err)
	}
	switch {
	case p.expires > 0 && !p.token.ExpiresAt.IsZero():
		p.fail("expires_in", "excludes expires_at: give one of the two")
	case p.expires > 0:
		p.token.ExpiresAt = now.Add(p.expires)
	}
	return p.token, p.problem()
}

func (p *tokenParser) member(name string, value jsontext.Value) {
	switch name {
	case "name":
		p.token.Name = p.text(name, value)
	case "scopes":
		p.each(name, value, func(at string, value jsontext.Value) {
			p.token.Scopes = append(p.token.Scopes, pelton.Scope(p.text(at, value)))
		})
	case "queues":
		before := len(p.errs)
		p.each(name, value, func(at string, value jsontext.Value) {
			p.token.Queues = append(p.token.Queues, p.text(at, value))
		})
		if len(p.token.Queues) == 0 && len(p.errs) == before { // it would be taken for all of them
			p.fail(name, "must have at least one queue: leave it out instead")
		}
	case "expires_in":
		p.expires = p.positiveDuration(name, value)
	case "expires_at":
		if p.token.ExpiresAt = p.time(name, value); p.token.ExpiresAt.IsZero() && len(p.errs) == 0 {
			p.fail(name, "has passed")
		}
	default:
		p.fail(name, "is not a known field")
	}
}

// each calls f with the first elements of an array, more than may be.
func (p *tokenParser) each(field string, value jsontext.Value, f func(at string, value jsontext.Value)) {
	if value.Kind() != jsontext.KindBeginArray {
		p.fail(field, "must be an array of strings, not %s", describe(value))
		return
	}
	err := eachElement(value, func(i int, value jsontext.Value) bool {
		f(fmt.Sprintf("%s[%d]", field, i), value)
		return i <= pelton.MaxTokenQueues
	})
	if err != nil {
		p.fail(field, "%s", err)
	}
}

// noKeyring stands for Config.Keyring where there is none.
type noKeyring struct{}

func (noKeyring) Any() bool { return false }

func (noKeyring) Identify(context.Context, string, bool) (*pelton.Token, context.Context, error) {
	return nil, nil, pelton.ErrNotFound
}

func (noKeyring) Tokens(context.Context) ([]pelton.Token, error) { return nil, errNoKeyring }

func (noKeyring) CreateToken(context.Context, pelton.Token) (*pelton.Token, string, error) {
	return nil, "", errNoKeyring
}

func (noKeyring) RevokeToken(context.Context, string) error { return errNoKeyring }

var errNoKeyring = fmt.Errorf("%w: this server keeps no tokens", pelton.ErrNotSupported)

func (s *server) registerTokens(api huma.API) {
	register(s, api, huma.Operation{
		OperationID: opListTokens, Method: http.MethodGet, Path: pathTokens, Tags: []string{"tokens"},
		Summary:     "List the tokens",
		Description: "Newest first, without their secrets. Expired ones stay on the list for a week.",
		Responses: s.responses(
			response{http.StatusOK, "All tokens", "TokenList", tokenList{[]pelton.Token{exampleToken()}}, nil},
			kindInvalid, kindNotSupported, kindUnavailable,
		),
	}, s.listTokens)
	register(s, api, huma.Operation{
		OperationID: opCreateToken, Method: http.MethodPost, Path: pathTokens, Tags: []string{"tokens"},
		Summary:       "Create a token",
		Description:   "The answer has the token, id.secret, which cannot be read again. A server without --token takes as its first one only a token that may do everything (409).",
		DefaultStatus: http.StatusCreated,
		Responses: s.responses(
			response{http.StatusCreated, "The token, with its secret", "NewToken", exampleNewToken(), []string{"Location"}},
			kindInvalid, kindConflict, kindNotSupported, kindMalformed, kindMediaType, kindTooLarge, kindTimeout, kindForbidden, kindUnavailable, kindUnknownOutcome,
		),
	}, s.createToken)
	register(s, api, huma.Operation{
		OperationID: opRevokeToken, Method: http.MethodDelete, Path: pathToken, Tags: []string{"tokens"},
		Summary:       "Revoke a token",
		Description:   "Every server refuses it within 2 s, and ends the answers and event streams that it holds for it. The last token that may do everything stays (409), unless the server was started with --token.",
		DefaultStatus: http.StatusNoContent,
		Responses: s.responses(
			response{http.StatusNoContent, "It is revoked", "", nil, nil},
			kindInvalid, kindNotFound, kindConflict, kindNotSupported, kindForbidden, kindUnavailable, kindUnknownOutcome,
		),
	}, s.revokeToken)
}

// documentTokens adds what huma must not know of while it registers: see
// finishDocument.
func documentTokens(doc *huma.OpenAPI) {
	doc.Paths[pathTokens].Post.RequestBody = &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{
		jsonMediaType: {Schema: ref("TokenRequest"), Example: exampleTokenRequest()},
	}}
	doc.Paths[pathToken].Delete.Responses["204"].Content = nil
}

func tokenProperties() properties {
	return properties{
		"id":         text("Names the token. No secret."),
		"name":       pattern(kindPattern, "For people."),
		"scopes":     array(enum("A scope; admin includes the others.", pelton.Scopes()...), "What it is good for."),
		"queues":     array(pattern(queuePattern, "A queue."), "The only queues that it is for; absent means all."),
		"created_at": timestamp("When it was made."),
		"created_by": text("Who made it: the id of a token, or bootstrap for that of --token; absent where the API was open."),
		"expires_at": timestamp("Until when it is good; absent means for ever."),
	}
}

func tokenSchema() *huma.Schema {
	return object(tokenProperties(), "id", "name", "scopes", "created_at")
}

func newTokenSchema() *huma.Schema {
	p := tokenProperties()
	p["token"] = text("What its holder sends, id.secret. It cannot be read again.")
	return object(p, "id", "name", "scopes", "created_at", "token")
}

func tokenRequestSchema() *huma.Schema {
	all := tokenProperties()
	return object(properties{
		"name": all["name"], "scopes": all["scopes"], "queues": all["queues"],
		"expires_in": duration("For how long it is good; for ever without this and expires_at.", "90d"),
		"expires_at": all["expires_at"],
	}, "name", "scopes")
}

func exampleToken() pelton.Token {
	return pelton.Token{
		ID: "a2c4e6g7i3k5m7o2", Name: "billing-service", Scopes: []pelton.Scope{pelton.ScopeEnqueue, pelton.ScopeRead}, Queues: []string{"invoices"},
		CreatedAt: exampleTime(), CreatedBy: "bootstrap", ExpiresAt: exampleTime().Add(90 * 24 * time.Hour),
	}
}

func exampleNewToken() newToken {
	t := exampleToken()
	return newToken{&t, t.ID + ".…"}
}

func exampleTokenRequest() json.RawMessage {
	return json.RawMessage(`{"name":"billing-service","scopes":["enqueue","read"],"queues":["invoices"],"expires_in":"90d"}`)
}
