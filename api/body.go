package api

import (
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
)

// readBody reads a request's body of at most limit bytes and checks that it is
// strict JSON. The error is a problem. huma is not asked to read bodies: it would
// decode and validate payloads, which must stay as they are.
func readBody(ctx huma.Context, limit int64) ([]byte, error) {
	r, w := humago.Unwrap(ctx)
	if r.ContentLength == 0 {
		return nil, newProblem(kindMalformed, "the body is empty")
	}
	if err := checkMediaType(r.Header); err != nil {
		return nil, err
	}
	if r.ContentLength > limit {
		return nil, bodyTooLarge(limit)
	}
	// net/http lifts the deadline at the end of the body, so it does not end a
	// ?wait=. Not every writer can have one; that of a connection can.
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyTimeout))
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return nil, bodyTooLarge(limit)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, newProblem(kindTimeout, "the body did not arrive within %s", pelton.FormatDuration(bodyTimeout)).withHeader("Connection", "close")
	case err != nil:
		return nil, newProblem(kindMalformed, "the body ended early").withHeader("Connection", "close")
	}
	return body, checkJSON(body)
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
