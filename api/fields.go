package api

import (
	"bytes"
	"fmt"
	"strconv"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/peltonq/pelton"
)

// fieldReader reads the values of fields of a body that checkJSON has passed, and
// collects what is wrong with them. Values that whoever carries the request out
// would take for absent (an empty string, 0) are wrong when they are given: an empty
// "queue", of a script whose variable was not set, must not mean all queues.
type fieldReader struct {
	at   string // where the fields are: "body", "body.tasks[3]"
	errs []fieldError
}

func (p *fieldReader) fail(field, format string, args ...any) {
	if len(p.errs) < maxFieldErrors {
		p.errs = append(p.errs, fieldError{p.at + "." + clip(field, 100), fmt.Sprintf(format, args...)})
	}
}

// problem is what is wrong, or nil.
func (p *fieldReader) problem() error {
	if len(p.errs) == 0 {
		return nil
	}
	return fieldProblem(kindInvalid, p.errs...)
}

// eachField calls f with every member of a value that must be an object: at says where it is, what names it.
// The error is a problem, or that of JSON.
func eachField(value jsontext.Value, at, what string, f func(name string, value jsontext.Value)) error {
	if err := mustBeObject(value, at); err != nil {
		return err
	}
	if err := eachMember(value, f); err != nil {
		return fmt.Errorf("parse %s: %w", what, err)
	}
	return nil
}

// mustBeObject is a problem unless a value is an object.
func mustBeObject(value jsontext.Value, at string) error {
	if value.Kind() != jsontext.KindBeginObject {
		return fieldProblem(kindInvalid, fieldError{at, "must be an object, not " + describe(value)})
	}
	return nil
}

// object calls f with every member of an object.
func (p *fieldReader) object(field string, value jsontext.Value, f func(name string, value jsontext.Value)) {
	if value.Kind() != jsontext.KindBeginObject {
		p.fail(field, "must be an object, not %s", describe(value))
		return
	}
	if err := eachMember(value, f); err != nil {
		p.fail(field, "%s", err)
	}
}

// boolean reads true or false.
func (p *fieldReader) boolean(field string, value jsontext.Value) bool {
	switch kind := value.Kind(); kind { //nolint:exhaustive // the others are wrong
	case jsontext.KindTrue, jsontext.KindFalse:
		return kind == jsontext.KindTrue
	default:
		p.fail(field, "must be a boolean, not %s", describe(value))
		return false
	}
}

// text reads a string that must not be empty.
func (p *fieldReader) text(field string, value jsontext.Value) string {
	if value.Kind() != jsontext.KindString {
		p.fail(field, "must be a string, not %s", describe(value))
		return ""
	}
	text, err := unquoted(value)
	switch {
	case err != nil:
		p.fail(field, "has half a surrogate pair, which is no character")
		return ""
	case text == "":
		p.fail(field, "must not be empty: leave it out instead")
	}
	return text
}

// unquoted is what a string of a body says that checkJSON has passed. The error is half a surrogate
// pair.
func unquoted(value jsontext.Value) (string, error) {
	if last := len(value) - 1; bytes.IndexByte(value, '\\') < 0 && last > 0 {
		return string(value[1:last]), nil
	}
	text, err := jsontext.AppendUnquote(nil, value)
	return string(text), err //nolint:wrapcheck // there is but one
}

func (p *fieldReader) duration(field string, value jsontext.Value) time.Duration {
	text := p.text(field, value)
	if text == "" {
		return 0
	}
	d, err := pelton.ParseDuration(text)
	if err != nil {
		p.fail(field, "%s", plain(err.Error()))
	}
	return d
}

// positiveDuration refuses zero, which would be taken for the default.
func (p *fieldReader) positiveDuration(field string, value jsontext.Value) time.Duration {
	before := len(p.errs)
	d := p.duration(field, value)
	if d == 0 && len(p.errs) == before {
		p.fail(field, "must be more than zero")
	}
	return d
}

func (p *fieldReader) time(field string, value jsontext.Value) time.Time {
	text := p.text(field, value)
	if text == "" {
		return time.Time{}
	}
	return p.instant(field, text)
}

// instant reads a time from a text that is not empty.
func (p *fieldReader) instant(field, text string) time.Time {
	var t time.Time
	if err := t.UnmarshalText([]byte(text)); err != nil {
		p.fail(field, "%q is not an RFC 3339 time such as 2026-12-01T08:00:00Z", clip(text, 64))
		return time.Time{}
	}
	return t
}

// count reads a whole number and refuses zero, which would be taken for the default.
func (p *fieldReader) count(field string, value jsontext.Value) int {
	if value.Kind() != jsontext.KindNumber {
		p.fail(field, "must be a number, not %s", describe(value))
		return 0
	}
	n, err := strconv.Atoi(string(value))
	switch {
	case err != nil: // 1.5, 1e3, or out of range
		p.fail(field, "%s is not a whole number in range, such as 20", clip(string(value), 32))
		return 0
	case n < 1:
		p.fail(field, "must be at least 1")
		return 0
	}
	return n
}

// labels reads an object of strings.
func (p *fieldReader) labels(field string, value jsontext.Value) map[string]string {
	if value.Kind() != jsontext.KindBeginObject {
		p.fail(field, "must be an object of strings, not %s", describe(value))
		return nil
	}
	labels := make(map[string]string)
	err := eachMember(value, func(name string, value jsontext.Value) {
		if value.Kind() != jsontext.KindString {
			p.fail(field+"."+name, "must be a string, not %s", describe(value))
			return
		}
		text, err := unquoted(value)
		if err != nil {
			p.fail(field+"."+name, "has half a surrogate pair, which is no character")
			return
		}
		labels[name] = text
	})
	if err != nil {
		p.fail(field, "%s", err)
	}
	return labels
}

// describe names a value's type for a message.
func describe(value jsontext.Value) string {
	switch value.Kind() {
	case jsontext.KindNull:
		return "null"
	case jsontext.KindTrue, jsontext.KindFalse:
		return "a boolean"
	case jsontext.KindString:
		return "a string"
	case jsontext.KindNumber:
		return "a number"
	case jsontext.KindBeginObject:
		return "an object"
	case jsontext.KindBeginArray:
		return "an array"
	case jsontext.KindInvalid, jsontext.KindEndObject, jsontext.KindEndArray:
		return "no value"
	default:
		return "no value"
	}
}
