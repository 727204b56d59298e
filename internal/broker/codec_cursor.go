package broker

import (
	"bytes"
	"encoding/json"
	"math"
	"time"
	"unicode/utf8"

	"github.com/peltonq/pelton"
)

// cursor reads a line of metadata in the form that lineWriter gives it, but for the
// order of its fields. All else sets foreign, for good, and is left to encoding/json:
// unknown or repeated keys, white space, null, escapes, what is not UTF-8, fractions,
// the largest numbers. So what it reads has but one meaning.
//
// What it reads is copied: a kind that somebody keeps does not keep the message.
type cursor struct {
	line    []byte
	at      int
	foreign bool
	seen    uint64 // a bit for each field
}

// once refuses a field that was there before: the second would count, or what both
// have together.
func (c *cursor) once(field uint) {
	c.foreign = c.foreign || c.seen&(1<<field) != 0
	c.seen |= 1 << field
}

// again forgets that fields were there: they are those of another object.
func (c *cursor) again(first, last uint) {
	for field := first; field <= last; field++ {
		c.seen &^= 1 << field
	}
}

// open enters an object or array by its brackets, and reports whether something is in it.
func (c *cursor) open(left, right byte) bool {
	if !c.next(left) {
		c.foreign = true
		return false
	}
	return !c.next(right)
}

// more ends a field or element, and reports whether another follows. It is false once
// the line is foreign, so that every loop ends.
func (c *cursor) more(right byte) bool {
	switch {
	case c.foreign || c.next(right):
		return false
	case c.next(','):
		return true
	default:
		c.foreign = true
		return false
	}
}

// done reports whether the line was read to its end.
func (c *cursor) done() bool { return !c.foreign && c.at == len(c.line) }

func (c *cursor) next(b byte) bool {
	if c.at >= len(c.line) || c.line[c.at] != b {
		return false
	}
	c.at++
	return true
}

// take is the part of the line from where the cursor stands to end, behind which it
// stands then.
func (c *cursor) take(end int) []byte {
	part := c.line[c.at:end:end]
	c.at = end
	return part
}

// key is the name of the field whose value comes next.
func (c *cursor) key() []byte {
	name := c.bytes()
	if !c.next(':') {
		c.foreign = true
	}
	return name
}

// quoted is a string without escapes, in its quotes.
func (c *cursor) quoted() []byte {
	if c.at >= len(c.line) || c.line[c.at] != '"' {
		c.foreign = true
		return nil
	}
	ascii := true
	for i := c.at + 1; i < len(c.line); i++ {
		switch b := c.line[i]; {
		case b == '"':
			s := c.take(i + 1)
			c.foreign = c.foreign || !ascii && !utf8.Valid(s)
			return s
		case b < ' ' || b == '\\':
			c.foreign = true
			return nil
		case b >= utf8.RuneSelf:
			ascii = false
		}
	}
	c.foreign = true
	return nil
}

// bytes is what is between the quotes. It is part of the line.
func (c *cursor) bytes() []byte {
	s := c.quoted()
	if s == nil {
		return nil
	}
	return s[1 : len(s)-1]
}

func (c *cursor) text() string { return string(c.bytes()) }

// queue takes no memory for the name that most tasks have.
func (c *cursor) queue() string {
	name := c.bytes()
	if string(name) == pelton.DefaultQueue {
		return pelton.DefaultQueue
	}
	return string(name)
}

// oneOf is name, without memory of its own if it is one of the known.
func oneOf[T ~string](name []byte, known []T) T {
	for _, k := range known {
		if string(name) == string(k) {
			return k
		}
	}
	return T(name)
}

func (c *cursor) id(id *pelton.ID) {
	if id.UnmarshalText(c.bytes()) != nil {
		c.foreign = true
	}
}

// count is a number without a sign of at most 19 digits, which fit into 64 bits.
func (c *cursor) count() uint64 {
	const most = 19
	var n uint64
	from := c.at
	for c.at < len(c.line) && '0' <= c.line[c.at] && c.line[c.at] <= '9' {
		n = 10*n + uint64(c.line[c.at]-'0')
		c.at++
	}
	if digits := c.at - from; digits == 0 || digits > most || digits > 1 && c.line[from] == '0' {
		c.foreign = true
	}
	return n
}

func (c *cursor) count32() uint32 {
	n := c.count()
	c.foreign = c.foreign || n > math.MaxUint32
	return uint32(n)
}

func (c *cursor) integer64() int64 {
	sign, most := int64(1), uint64(math.MaxInt64)
	if c.next('-') {
		sign, most = -1, most+1
	}
	n := c.count()
	c.foreign = c.foreign || n > most
	return sign * int64(n)
}

func (c *cursor) integer() int {
	n := c.integer64()
	c.foreign = c.foreign || int64(int(n)) != n
	return int(n)
}

// isTrue reads true. What is false is left out.
func (c *cursor) isTrue() bool {
	const word = "true"
	if !bytes.HasPrefix(c.line[c.at:], []byte(word)) {
		c.foreign = true
		return false
	}
	c.at += len(word)
	return true
}

func (c *cursor) time() time.Time {
	var t time.Time
	if t.UnmarshalJSON(c.quoted()) != nil {
		c.foreign = true
	}
	return t
}

func (c *cursor) labels() map[string]string {
	labels := make(map[string]string)
	for more := c.open('{', '}'); more; more = c.more('}') {
		name, value := string(c.key()), c.text()
		if _, twice := labels[name]; twice {
			c.foreign = true
		}
		labels[name] = value
	}
	return labels
}

// rare reads what is not worth code of its own: an object or an array.
func rare[T any](c *cursor) T {
	var value T
	if json.Unmarshal(c.nested(), &value) != nil {
		c.foreign = true
	}
	return value
}

// nested is what follows up to the bracket that closes the first one. What is between
// them, and whether they are of one kind, is yet to be checked.
func (c *cursor) nested() []byte {
	const deepest = 32 // deeper than anything of Pelton's, and far from encoding/json's bound
	depth, text := 0, false
	for i := c.at; i < len(c.line); i++ {
		switch b := c.line[i]; {
		case text && b == '\\':
			i++
		case b == '"':
			text = !text
		case text:
		case b == '{' || b == '[':
			depth++
		case b == '}' || b == ']':
			depth--
		}
		if depth <= 0 && i > c.at {
			return c.take(i + 1)
		}
		if depth <= 0 || depth > deepest {
			break
		}
	}
	c.foreign = true
	return nil
}
