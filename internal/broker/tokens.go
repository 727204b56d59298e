package broker

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/peltonq/pelton"
)

// tokenKept is how long an expired token stays listed.
const tokenKept = 7 * 24 * time.Hour

func (n names) tokens() string { return n.ns + "_TOKENS" }

// accessStreams are opened by those who look after an installation alone (Config.Access):
// a producer or worker needs no right to them.
func (n names) accessStreams(replicas int) []jetstream.StreamConfig {
	return []jetstream.StreamConfig{
		bucket(n.tokens(), "Pelton tokens of the HTTP API", replicas, false),
		n.auditStream(replicas),
	}
}

// whole are all streams that an installation with so many shards can have. Those of access, and of
// further shards, are not at the ends: see lookForReplicas.
func (n names) whole(shards int) []jetstream.StreamConfig {
	return n.withShards(slices.Insert(n.streams(1), 1, n.accessStreams(1)...), shards, 1)
}

// TokenDoc is a token as the broker holds it, under its id.
type TokenDoc struct {
	pelton.Token
	// Hash is the SHA-256 of the secret. That is enough for 256 random bits, which
	// nobody can guess through: slow hashes are for what people think up.
	Hash [sha256.Size]byte
}

// tokenForm is how it is written.
type tokenForm struct {
	Version int `json:"v"`
	pelton.Token
	Hash []byte `json:"sha256"`
}

func (b *Broker) tokenKey(id string) string { return "$KV." + b.tokens() + "." + id }

// CreateToken stores a token of an id that was never used: ErrStale if it was. One that
// expires goes away by itself, some time after that.
func (b *Broker) CreateToken(ctx context.Context, d *TokenDoc) error {
	data, err := json.Marshal(tokenForm{version, d.Token, d.Hash[:]})
	if err != nil {
		return fmt.Errorf("create token %s: %w", d.ID, err)
	}
	w := write{subject: b.tokenKey(d.ID), data: data}
	if !d.ExpiresAt.IsZero() {
		w.ttl = max(0, time.Until(d.ExpiresAt)) + tokenKept
	}
	if _, err := b.do(ctx, w); err != nil {
		return fmt.Errorf("create token %s: %w", d.ID, err)
	}
	return nil
}

// DeleteToken deletes a token; pelton.ErrNotFound if there is none.
func (b *Broker) DeleteToken(ctx context.Context, id string) error {
	subject := b.tokenKey(id)
	msg, err := b.get(ctx, bucketStream(b.tokens()), getRequest{LastFor: subject}, false)
	if err == nil && msg.deleted() {
		err = pelton.ErrNotFound
	}
	if err != nil {
		return fmt.Errorf("delete token %s: %w", id, err)
	}
	if _, err := b.do(ctx, write{subject: subject, expect: anyRevision, ttl: markerTTL, header: deleteMarker()}); err != nil {
		return fmt.Errorf("delete token %s: %w", id, err)
	}
	return nil
}

// TokenMemory is how long NextToken shows that a token was deleted. Whoever follows the
// changes and was away for longer must read all tokens anew.
const TokenMemory = markerTTL

// NextToken reads, from the leader, the change of a token that came next from a sequence
// on, 1 being the first, and says where to go on. doc is nil for a token that was
// deleted, or cannot be read. pelton.ErrNotFound is the end. It is one call of the broker.
func (b *Broker) NextToken(ctx context.Context, from uint64) (id string, doc *TokenDoc, next uint64, err error) {
	prefix := b.tokenKey("")
	msg, err := b.get(ctx, bucketStream(b.tokens()), getRequest{Seq: from, NextFor: prefix + "*"}, false)
	if err != nil {
		return "", nil, from, fmt.Errorf("next token: %w", err)
	}
	id, next = strings.TrimPrefix(msg.subject, prefix), msg.seq+1
	if msg.deleted() {
		return id, nil, next, nil
	}
	if doc, err = decodeToken(id, msg.data); err != nil {
		b.cfg.Logger.Error("token is unreadable and does not count", "token_id", id, "error", err)
	}
	return id, doc, next, nil
}

func decodeToken(id string, data []byte) (*TokenDoc, error) {
	var form tokenForm
	if err := json.Unmarshal(data, &form); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	switch {
	case form.Version > version:
		return nil, newer(form.Version)
	case form.ID != id, len(form.Hash) != sha256.Size, len(form.Scopes) == 0:
		return nil, fmt.Errorf("%w: a field is missing or wrong", ErrMalformed)
	}
	return &TokenDoc{Token: form.Token, Hash: [sha256.Size]byte(form.Hash)}, nil
}

// Tokens lists all tokens, in the order of their making. It costs a call for each.
func (b *Broker) Tokens(ctx context.Context) ([]*TokenDoc, error) {
	var tokens []*TokenDoc
	for next := uint64(1); ; {
		_, doc, after, err := b.NextToken(ctx, next)
		switch {
		case errors.Is(err, pelton.ErrNotFound):
			return tokens, nil
		case err != nil:
			return nil, fmt.Errorf("list tokens: %w", err)
		case doc != nil:
			tokens = append(tokens, doc)
		}
		next = after
	}
}
