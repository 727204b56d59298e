package api

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"sync"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

const (
	// maxDepth is how deep arrays and objects of a request may nest, the payload
	// included.
	maxDepth = 64
	// maxNames is how many names a request may have in an object and those around it.
	// To find a name that stands twice, all are remembered, which takes ten times the
	// room of their text. A payload of pelton.MaxPayload has no more than 52,000.
	maxNames = 65_536
)

// checkJSON accepts one JSON value in valid UTF-8, without duplicate names, at
// most maxDepth deep and with nothing behind it. Else the error is a problem of
// kind malformed-json that says where and what.
//
// Escapes of half a surrogate pair ("\ud800") pass: JSON.stringify writes them,
// and a payload is the caller's. Fields of our own refuse them.
func checkJSON(body []byte) error {
	if !utf8.Valid(body) {
		return malformed(body, invalidUTF8(body), "is not valid UTF-8")
	}
	if crowded(body) {
		return newProblem(kindTooLarge, "an object of the body, with those around it, has more than %d names", maxNames)
	}
	dec, done := newDecoder(body, false)
	defer done()
	if _, err := dec.ReadValue(); err != nil {
		return syntaxError(body, err)
	}
	end := int(dec.InputOffset())
	if _, err := dec.ReadToken(); !errors.Is(err, io.EOF) {
		end += len(body[end:]) - len(bytes.TrimLeft(body[end:], " \t\r\n"))
		return malformed(body, end, "there is more after the JSON value")
	}
	if offset, deep := tooDeep(body); deep {
		return malformed(body, offset, fmt.Sprintf("nests deeper than %d", maxDepth))
	}
	return nil
}

// newDecoder reads body in place. Values that passed checkJSON are checked, and
// are read with checked set. done gives the decoder back, after which it must not be used.
func newDecoder(body []byte, checked bool) (dec *jsontext.Decoder, done func()) {
	options := []jsontext.Options{jsontext.AllowInvalidUTF8(true), jsontext.AllowDuplicateNames(checked)}
	if len(body) > pooledBody {
		return jsontext.NewDecoder(bytes.NewBuffer(body), options...), func() {}
	}
	r, _ := decoders.Get().(*reader)
	if r == nil {
		r = &reader{text: new(bytes.Buffer)}
		r.dec = jsontext.NewDecoder(r.text)
		r.done = func() { decoders.Put(r) }
	}
	*r.text = *bytes.NewBuffer(body)
	r.dec.Reset(r.text, options...)
	return r.dec, r.done
}

// pooledBody is the largest text whose decoder is kept for the next, together with the text: what
// it remembers grows with the names that it has seen.
const pooledBody = 8 << 10 // bytes

// reader is a decoder with what it reads from.
type reader struct {
	dec  *jsontext.Decoder
	text *bytes.Buffer
	done func()
}

// decoders are those that nobody uses.
var decoders sync.Pool //nolint:gochecknoglobals // memory, no state

func syntaxError(body []byte, err error) error {
	var syntax *jsontext.SyntacticError
	switch {
	case errors.Is(err, io.EOF):
		return newProblem(kindMalformed, "the body is empty")
	case !errors.As(err, &syntax):
		return newProblem(kindMalformed, "%s", err)
	case errors.Is(err, jsontext.ErrDuplicateName):
		what := fmt.Sprintf("the name %q stands twice in one object", clip(syntax.JSONPointer.LastToken(), 64))
		return malformed(body, int(syntax.ByteOffset), what)
	case errors.Is(err, io.ErrUnexpectedEOF):
		return malformed(body, len(body), "the JSON ends too early")
	default:
		return malformed(body, int(syntax.ByteOffset), clip(syntax.Err.Error(), 200))
	}
}

// malformed names a place by line and column, both counted from 1.
func malformed(body []byte, offset int, what string) error {
	before := body[:min(offset, len(body))]
	line := bytes.Count(before, []byte{'\n'}) + 1
	column := utf8.RuneCount(before[bytes.LastIndexByte(before, '\n')+1:]) + 1
	return fieldProblem(kindMalformed, fieldError{
		Location: "body",
		Message:  fmt.Sprintf("line %d, column %d: %s", line, column, what),
	})
}

// invalidUTF8 is the offset of the first byte that is not part of a rune.
func invalidUTF8(body []byte) int {
	offset := 0
	for offset < len(body) {
		r, size := utf8.DecodeRune(body[offset:])
		if r == utf8.RuneError && size == 1 {
			break
		}
		offset += size
	}
	return offset
}

// tooDeep finds where valid JSON first nests deeper than maxDepth.
func tooDeep(body []byte) (offset int, deep bool) {
	depth, inString := 0, false
	for i := 0; i < len(body); i++ {
		switch c := body[i]; {
		case inString:
			switch c {
			case '\\':
				i++ // whatever is escaped, it does not end the string
			case '"':
				inString = false
			}
		case c == '"':
			inString = true
		case c == '{' || c == '[':
			if depth++; depth > maxDepth {
				return i, true
			}
		case c == '}' || c == ']':
			depth--
		}
	}
	return 0, false
}

// crowded reports whether JSON has more than maxNames names in an object and those
// around it. What it says of other text does not matter.
func crowded(body []byte) bool {
	var (
		names    [maxDepth + 2]int // of the open objects; what is too deep counts together
		all      int
		depth    int
		inString bool
	)
	for i := 0; i < len(body); i++ {
		switch c := body[i]; {
		case inString:
			switch c {
			case '\\':
				i++
			case '"':
				inString = false
			}
		case c == '"':
			inString = true
		case c == '{' || c == '[':
			depth++
		case (c == '}' || c == ']') && depth > 0:
			if at := min(depth, maxDepth+1); at == depth {
				all -= names[at]
				names[at] = 0
			}
			depth--
		case c == ':':
			if all++; all > maxNames {
				return true
			}
			names[min(depth, maxDepth+1)]++
		}
	}
	return false
}

// eachMember calls f with every member of an object that checkJSON has passed.
// value is a part of object, not a copy.
func eachMember(object jsontext.Value, f func(name string, value jsontext.Value)) error {
	dec, done := newDecoder(object, true)
	defer done()
	if _, err := dec.ReadToken(); err != nil {
		return fmt.Errorf("read the start of an object: %w", err)
	}
	for dec.PeekKind() != jsontext.KindEndObject {
		token, err := dec.ReadToken()
		if err != nil {
			return fmt.Errorf("read a name: %w", err)
		}
		name := token.String()
		value, err := dec.ReadValue()
		if err != nil {
			return fmt.Errorf("read the value of %q: %w", clip(name, 64), err)
		}
		f(name, value)
	}
	return nil
}

// eachElement calls f with every element of an array that checkJSON has passed,
// until f returns false. value is a part of array, not a copy.
func eachElement(array jsontext.Value, f func(i int, value jsontext.Value) bool) error {
	dec, done := newDecoder(array, true)
	defer done()
	if _, err := dec.ReadToken(); err != nil {
		return fmt.Errorf("read the start of an array: %w", err)
	}
	for i := 0; dec.PeekKind() != jsontext.KindEndArray; i++ {
		value, err := dec.ReadValue()
		if err != nil {
			return fmt.Errorf("read element %d: %w", i, err)
		}
		if !f(i, value) {
			return nil
		}
	}
	return nil
}
