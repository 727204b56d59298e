package api

import (
	"context"
	"errors"
	"io"
	"mime"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/peltonq/pelton"
)

const (
	maxTaskBody  = 1 << 20  // bytes; the payload has its own limit
	maxBatchBody = 16 << 20 // bytes
	bodyTimeout  = 30 * time.Second
	reserveFor   = 2 * time.Second
	firstRead    = 16 << 10 // bytes of a body that are claimed at a time, at least
)

// readBody reads a request's body of at most limit bytes and checks that it is
// strict JSON. The error is a problem. huma is not asked to read bodies: it would
// decode and validate payloads, which must stay as they are.
//
// Memory is claimed before it is taken. A body whose length says that there is no
// room is refused unread; what has room is claimed as it arrives, so that somebody
// who announces much and sends slowly keeps nobody out. A batch has the room for
// the length that it announced at once, but only for reserveFor: without it, of
// many that begin together most would be read in part and refused.
func readBody(ctx huma.Context, limit int64) ([]byte, error) {
	r, w := humago.Unwrap(ctx)
	if r.ContentLength == 0 {
		return nil, newProblem(kindMalformed, "the body is empty")
	}
	if err := checkMediaType(r.Header); err != nil {
		return nil, err
	}
	c := claimOf(ctx.Context())
	ceiling := c.s.Memory.most
	if limit > maxTaskBody {
		ceiling = c.s.Memory.forBatch()
	}
	limit = min(limit, ceiling/bodyWeight-1) // what never had room is no matter of trying again
	if r.ContentLength > limit {
		return nil, bodyTooLarge(limit)
	}
	// net/http lifts the deadline at the end of the body, so it does not end a
	// ?wait=. Not every writer can have one; that of a connection can.
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyTimeout))
	in := http.MaxBytesReader(w, r.Body, limit)
	body, err := c.readAll(in, r.ContentLength, limit, ceiling)
	var (
		tooLarge *http.MaxBytesError
		refused  *problem
	)
	switch {
	case errors.As(err, &refused) && body == nil && strings.EqualFold(r.Header.Get("Expect"), "100-continue"):
		return nil, refused.withHeader("Connection", "close") // who asked first need not send it
	case errors.As(err, &refused):
		// Read on, into nothing: a connection that is closed while the caller sends is
		// one that was lost, to most callers, and not an answer.
		if _, err := io.Copy(io.Discard, in); err != nil {
			refused = refused.withHeader("Connection", "close")
		}
		return nil, refused
	case errors.As(err, &tooLarge):
		return nil, bodyTooLarge(limit)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, newProblem(kindTimeout, "the body did not arrive within %s", pelton.FormatDuration(bodyTimeout)).withHeader("Connection", "close")
	case err != nil:
		return nil, newProblem(kindMalformed, "the body ended early").withHeader("Connection", "close")
	}
	// To look for names that stand twice takes memory of its own, for as long as it
	// takes: no more of it at a time than processors can do.
	select {
	case c.s.checks <- struct{}{}:
		defer func() { <-c.s.checks }()
	case <-ctx.Context().Done():
		return nil, context.Cause(ctx.Context())
	}
	return body, checkJSON(body)
}

// readAll reads the body of a request that announced length bytes, -1 if it did not
// say, claiming memory as it goes. With an error it is what was read: nil if nothing.
func (c *claim) readAll(r io.Reader, length, limit, ceiling int64) ([]byte, error) {
	switch {
	case limit > maxTaskBody && length > 0:
		if err := c.reserve(bodyWeight*(length+1), ceiling); err != nil {
			return nil, err
		}
		defer time.AfterFunc(reserveFor, c.unreserve).Stop()
		defer c.unreserve()
	case length > 0 && !c.s.Memory.fits(bodyWeight*length, ceiling):
		return nil, c.full()
	}
	var body []byte
	for {
		if len(body) == cap(body) {
			// One byte more than it can have, to see the end.
			next := min(max(firstRead, 2*int64(cap(body))), limit+1)
			if length >= 0 {
				next = min(next, length+1)
			}
			if err := c.grow(bodyWeight*next, ceiling); err != nil {
				return body, err
			}
			body = append(make([]byte, 0, next), body...)
		}
		n, err := r.Read(body[len(body):cap(body)])
		body = body[:len(body)+n]
		switch {
		case errors.Is(err, io.EOF):
			return body, nil
		case err != nil:
			return body, err
		}
	}
}

func bodyTooLarge(limit int64) error {
	// What is left of the body is not worth reading, so the connection is done.
	return newProblem(kindTooLarge, "the body is larger than %d bytes", limit).withHeader("Connection", "close")
}

func checkMediaType(header http.Header) error {
	if encoding := header.Get("Content-Encoding"); encoding != "" && !strings.EqualFold(encoding, "identity") {
		return newProblem(kindMediaType, "Content-Encoding %q is not supported: send the body as it is", clip(encoding, 64))
	}
	value := header.Get("Content-Type")
	mediaType, params, err := mime.ParseMediaType(value)
	isJSON := mediaType == "application/json" ||
		strings.HasPrefix(mediaType, "application/") && strings.HasSuffix(mediaType, "+json")
	if err != nil || !isJSON {
		return newProblem(kindMediaType, "Content-Type is %q: send application/json", clip(value, 64))
	}
	if charset, ok := params["charset"]; ok && !strings.EqualFold(charset, "utf-8") {
		return newProblem(kindMediaType, "charset %q is not supported: JSON is UTF-8", clip(charset, 64))
	}
	return nil
}

// headerList is a header that may stand on several lines, as one list.
func headerList(ctx huma.Context, name string) string {
	r, _ := humago.Unwrap(ctx)
	return strings.Join(r.Header.Values(name), ",")
}
