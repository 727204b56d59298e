package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"mime"
	"net/http"
	"strings"
)

// problemError is an answer of the server that is not success. Type is empty
// when the answer is no RFC 9457 problem: something else answers at that URL.
type problemError struct {
	Type   string       `json:"type"`
	Title  string       `json:"title"`
	Status int          `json:"status"`
	Detail string       `json:"detail,omitempty"`
	Errors []inputError `json:"errors,omitempty"`
}

// inputError is one thing wrong with what was sent.
type inputError struct {
	Location string `json:"location"`
	Message  string `json:"message"`
}

// Error is the detail, and a line for each error of the input when there are
// several. The request's body is made of flags and arguments, so "body." in
// front of a field would tell the user nothing.
func (p *problemError) Error() string {
	if len(p.Errors) > 1 {
		lines := []string{p.Title + ":"}
		for _, e := range p.Errors {
			lines = append(lines, "  "+strings.TrimPrefix(e.Location, "body.")+": "+e.Message)
		}
		return strings.Join(lines, "\n")
	}
	if len(p.Errors) == 1 {
		return fmt.Sprintf("%s: %s: %s", p.Title, strings.TrimPrefix(p.Errors[0].Location, "body."), p.Errors[0].Message)
	}
	if p.Detail == "" {
		return p.Title
	}
	return p.Title + ": " + p.Detail
}

// readProblem is the answer as an error, whoever gave it.
func readProblem(resp *http.Response, body []byte) error {
	mediaType, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if err == nil && mediaType == "application/problem+json" {
		var p problemError
		if err := json.Unmarshal(body, &p); err == nil && p.Type != "" {
			p.Status = resp.StatusCode
			if p.Title == "" {
				p.Title = resp.Status
			}
			return &p
		}
	}
	p := &problemError{Status: resp.StatusCode, Title: resp.Status}
	if location := resp.Header.Get("Location"); location != "" && resp.StatusCode < 400 {
		p.Detail = "the server redirects to " + location + ": give that as --url"
	} else if bytes.Contains(body, []byte("HTTP request to an HTTPS server")) {
		p.Detail = "the server speaks TLS: use https:// in --url"
	} else {
		p.Detail = "this does not look like Pelton's API; check --url (PELTON_URL)"
	}
	return p
}
