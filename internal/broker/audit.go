package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/peltonq/pelton"
)

// The audit log forgets what is older than auditAge, and the oldest beyond auditMost entries of
// some 300 bytes. An operator may change both on the stream, or bound it by bytes: those the broker
// reserves, and an account with less room would not get the stream.
const (
	auditAge  = 90 * 24 * time.Hour
	auditMost = 500_000
	// auditLook is how many entries a page looks at, at most.
	auditLook = 500
)

func (n names) audit() string         { return n.ns + "_AUDIT" }
func (n names) auditSubjects() string { return n.ns + ".audit.>" }

func (n names) auditStream(replicas int) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name:              n.audit(),
		Description:       "Pelton audit log of the HTTP API",
		Subjects:          []string{n.auditSubjects()},
		Retention:         jetstream.LimitsPolicy,
		Storage:           jetstream.FileStorage,
		Discard:           jetstream.DiscardOld,
		Replicas:          replicas,
		MaxAge:            auditAge,
		MaxMsgs:           auditMost,
		MaxBytes:          -1,
		MaxMsgSize:        -1,
		MaxConsumers:      -1,
		MaxMsgsPerSubject: -1,
		Duplicates:        auditTwice,
		AllowDirect:       true,
		DenyDelete:        true,
	}
}

// auditTwice is within what time an entry that is written again is known to be the same.
const auditTwice = 2 * time.Minute

// auditForm is how an entry is written.
type auditForm struct {
	Version int `json:"v"`
	pelton.AuditEntry
}

// StartAudit writes an entry and calls done with what became of it, as start does. id
// names the entry: writing it again within two minutes writes it once.
func (b *Broker) StartAudit(ctx context.Context, e *pelton.AuditEntry, id string, done func(error)) error {
	data, err := json.Marshal(auditForm{version, *e})
	if err != nil {
		return fmt.Errorf("write audit log: %w", err)
	}
	w := write{
		subject: b.ns + ".audit.entry", data: data, expect: anyRevision,
		header: nats.Header{"Nats-Msg-Id": {id}},
	}
	return b.start(ctx, w, func(_ uint64, err error) { done(err) })
}

// AuditEntries lists entries, newest first. It costs a call for each that it looks at.
func (b *Broker) AuditEntries(ctx context.Context, q pelton.AuditQuery) (*pelton.AuditPage, error) {
	next, err := b.auditCursor(ctx, q.Cursor)
	if err != nil {
		return nil, err
	}
	limit := q.Limit
	if limit == 0 {
		limit = 50
	}
	page := &pelton.AuditPage{}
	for looked := 0; next > 0; next-- {
		if looked == auditLook || len(page.Items) == limit {
			page.NextCursor = strconv.FormatUint(next, 10)
			return page, nil
		}
		looked++
		msg, err := b.get(ctx, b.audit(), getRequest{Seq: next}, false)
		if errors.Is(err, pelton.ErrNotFound) {
			return page, nil // what is older is forgotten
		}
		if err != nil {
			return nil, fmt.Errorf("read audit log: %w", err)
		}
		if msg.time.Before(q.Since) {
			return page, nil
		}
		var form auditForm
		if err := json.Unmarshal(msg.data, &form); err != nil || form.Version > version {
			b.cfg.Logger.Debug("entry of the audit log is unreadable", "sequence", next, "error", err)
			continue
		}
		if q.Matches(&form.AuditEntry) {
			page.Items = append(page.Items, form.AuditEntry)
		}
	}
	return page, nil
}

// auditCursor is the sequence to begin with; 0 when there is nothing.
func (b *Broker) auditCursor(ctx context.Context, cursor string) (uint64, error) {
	if cursor == "" {
		end, err := b.streamEnd(ctx, b.audit())
		return end - 1, err
	}
	next, err := strconv.ParseUint(cursor, 10, 64)
	if err != nil || next == 0 {
		return 0, &pelton.ValidationError{Fields: []pelton.FieldError{{Field: "cursor", Message: "is not one of an answer"}}}
	}
	return next, nil
}
