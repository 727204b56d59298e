package pelton

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"
)

// Merge is s with a JSON merge patch applied (RFC 7396): what the patch names is
// set, null restores the default, everything else stays. The error is a
// *ValidationError that names every field at fault, unknown ones included.
func (s QueueSettings) Merge(patch []byte) (QueueSettings, error) {
	m := merger{s: s.Clone()}
	var members map[string]json.RawMessage
	// Nobody means null, which would be all defaults.
	if err := json.Unmarshal(patch, &members); err != nil || members == nil {
		return QueueSettings{}, fmt.Errorf("%w: a patch of settings must be an object", ErrInvalid)
	}
	for _, name := range slices.Sorted(maps.Keys(members)) {
		m.setting(name, members[name])
	}
	if len(m.bad) == 0 {
		return m.s, m.s.Check()
	}
	return QueueSettings{}, &ValidationError{Fields: m.bad}
}

// merger applies a patch and collects what is wrong with it.
type merger struct {
	s   QueueSettings
	bad []FieldError
}

func (m *merger) fail(field, format string, args ...any) {
	m.bad = append(m.bad, FieldError{Field: field, Message: fmt.Sprintf(format, args...)})
}

func (m *merger) setting(name string, value json.RawMessage) {
	switch name {
	case "max_running":
		m.maxRunning(name, value)
	case "rate":
		m.rate(name, value)
	case "max_depth":
		m.s.MaxDepth = m.count(name, value)
	case "lease":
		m.s.Lease = m.duration(name, value)
	case "max_attempts":
		m.s.MaxAttempts = m.count(name, value)
	case "max_crashes":
		m.s.MaxCrashes = m.count(name, value)
	case "timeout":
		m.s.Timeout = m.duration(name, value)
	case "retention":
		m.s.Retention = m.duration(name, value)
	default:
		m.fail(clip(name, 100), "is not a known setting")
	}
}

func (m *merger) maxRunning(field string, value json.RawMessage) {
	members, ok := m.object(field, value)
	if !ok {
		m.s.MaxRunning = nil
		return
	}
	for _, name := range slices.Sorted(maps.Keys(members)) {
		p, at := Priority(name), field+"."+clip(name, 64)
		switch {
		case p == "" || p.Rank() < 0:
			m.fail(at, "is none of critical, high, normal, low")
		case string(members[name]) == "0":
			m.fail(at, "0 would stop the priority: pause it instead")
		case isNull(members[name]):
			delete(m.s.MaxRunning, p)
		default:
			if m.s.MaxRunning == nil {
				m.s.MaxRunning = make(map[Priority]int)
			}
			m.s.MaxRunning[p] = m.count(at, members[name])
		}
	}
	if len(m.s.MaxRunning) == 0 {
		m.s.MaxRunning = nil
	}
}

func (m *merger) rate(field string, value json.RawMessage) {
	members, ok := m.object(field, value)
	if !ok {
		m.s.Rate = nil
		return
	}
	if m.s.Rate == nil {
		m.s.Rate = &RateLimit{}
	}
	for _, name := range slices.Sorted(maps.Keys(members)) {
		at, value := field+"."+clip(name, 64), members[name]
		switch name {
		case "limit":
			m.s.Rate.Limit = m.count(at, value)
		case "per":
			m.s.Rate.Per = m.duration(at, value)
		case "burst":
			m.s.Rate.Burst = m.count(at, value)
		case "on_error":
			m.s.Rate.OnError = m.text(at, value)
		default:
			m.fail(at, "is not a known setting")
		}
	}
}

// object is false for null, and for what is none, which fails.
func (m *merger) object(field string, value json.RawMessage) (members map[string]json.RawMessage, ok bool) {
	if isNull(value) {
		return nil, false
	}
	if err := json.Unmarshal(value, &members); err != nil {
		m.fail(field, "must be an object")
		return nil, false
	}
	return members, true
}

// count reads a whole number of at least 1; null is 0.
func (m *merger) count(field string, value json.RawMessage) int {
	if isNull(value) {
		return 0
	}
	n, err := strconv.ParseInt(string(value), 10, 64)
	switch {
	case err != nil:
		m.fail(field, "must be a whole number")
	case n < 1 || n > maxCount:
		m.fail(field, "%s is not between 1 and %d", value, maxCount)
	}
	return int(n)
}

// duration reads a duration of more than zero; null is 0.
func (m *merger) duration(field string, value json.RawMessage) time.Duration {
	if value[0] != '"' && !isNull(value) {
		m.fail(field, "must be a string such as 90s, 1h30m or 7d")
		return 0
	}
	text := m.text(field, value)
	if text == "" {
		return 0
	}
	d, err := ParseDuration(text)
	switch {
	case err != nil:
		m.fail(field, "%q is not a duration such as 90s, 1h30m or 7d", clip(text, 64))
	case d == 0:
		m.fail(field, "must be more than zero")
	}
	return d
}

// text reads a string that is not empty; null is "".
func (m *merger) text(field string, value json.RawMessage) string {
	if isNull(value) {
		return ""
	}
	var text string
	if err := json.Unmarshal(value, &text); err != nil {
		m.fail(field, "must be a string")
	} else if text == "" {
		m.fail(field, "must not be empty: null restores the default")
	}
	return text
}

func isNull(value json.RawMessage) bool { return string(value) == "null" }
