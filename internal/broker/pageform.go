package broker

import (
	"bytes"
	"fmt"
	"strconv"

	"github.com/peltonq/pelton"
)

// pageMeta is the first line of a page. The records follow, each as it would be alone.
type pageMeta struct {
	Version int `json:"v"`
	// Tasks are the sequences of its tasks, counted from the segment's first, and Lengths those of their
	// records in bytes.
	Tasks   []uint64 `json:"tasks"`
	Lengths []int    `json:"lengths"`
}

// encodePage writes the records of a segment's tasks.
func encodePage(s segment, outcomes []outcomeWrite) []byte {
	size := 32
	for i := range outcomes {
		size += len(outcomes[i].data) + 8
	}
	out := append(make([]byte, 0, size), `{"v":`...)
	out = append(strconv.AppendInt(out, version, 10), `,"tasks":[`...)
	for i := range outcomes {
		if i > 0 {
			out = append(out, ',')
		}
		out = strconv.AppendUint(out, outcomes[i].r.ID.Sequence()-s.from(), 10)
	}
	out = append(out, `],"lengths":[`...)
	for i := range outcomes {
		if i > 0 {
			out = append(out, ',')
		}
		out = strconv.AppendInt(out, int64(len(outcomes[i].data)), 10)
	}
	out = append(out, ']', '}', '\n')
	for i := range outcomes {
		out = append(out, outcomes[i].data...)
	}
	return out
}

// read reads a line as encodePage writes it, in a tenth of the time that it takes encoding/json, which is for others.
func (m *pageMeta) read(line []byte) bool {
	rest, ok := bytes.CutPrefix(line, []byte(`{"v":1,"tasks":[`))
	tasks, rest, found := bytes.Cut(rest, []byte(`],"lengths":[`))
	lengths, found2 := bytes.CutSuffix(rest, []byte(`]}`))
	if !ok || !found || !found2 {
		return false
	}
	m.Version, m.Tasks, m.Lengths = 1, make([]uint64, 0, segmentSize), make([]int, 0, segmentSize)
	for _, list := range []struct {
		text []byte
		add  func(int)
	}{{tasks, func(n int) { m.Tasks = append(m.Tasks, uint64(n)) }}, {lengths, func(n int) { m.Lengths = append(m.Lengths, n) }}} {
		n, digits := 0, 0
		for i := 0; i <= len(list.text); i++ {
			switch {
			case i == len(list.text) || list.text[i] == ',':
				if digits == 0 || digits > 9 {
					return false
				}
				list.add(n)
				n, digits = 0, 0
			case list.text[i] < '0' || list.text[i] > '9':
				return false
			default:
				n, digits = 10*n+int(list.text[i]-'0'), digits+1
			}
		}
	}
	return true
}

// page is a page that was read.
type page struct {
	pageMeta
	segment segment
	seq     uint64
	parts   [][]byte
}

// decodePage reads a page of the segment.
func decodePage(s segment, msg *stored) (*page, error) {
	line, body, found := bytes.Cut(msg.data, []byte{'\n'})
	if !found {
		return nil, fmt.Errorf("page of segment %d: %w: no metadata line", s.n, ErrMalformed)
	}
	p := &page{segment: s, seq: msg.seq}
	if !p.read(line) {
		if err := unmarshalLine(line, &p.pageMeta); err != nil {
			return nil, fmt.Errorf("page of segment %d: %w", s.n, err)
		}
	}
	if p.Version > version {
		return nil, fmt.Errorf("page of segment %d: %w", s.n, newer(p.Version))
	}
	if len(p.Tasks) != len(p.Lengths) {
		return nil, fmt.Errorf("page of segment %d: %w: %d tasks and %d lengths", s.n, ErrMalformed, len(p.Tasks), len(p.Lengths))
	}
	p.parts = make([][]byte, 0, len(p.Lengths))
	for _, n := range p.Lengths {
		if n < 0 || n > len(body) {
			return nil, fmt.Errorf("page of segment %d: %w: a record of %d bytes in %d", s.n, ErrMalformed, n, len(body))
		}
		p.parts, body = append(p.parts, body[:n:n]), body[n:]
	}
	return p, nil
}

// at is the record of a page's i-th task. It does not keep the page in memory.
func (p *page) at(i int) (*Record, error) {
	r, err := decodeRecord(bytes.Clone(p.parts[i]), p.seq)
	if err != nil {
		return nil, fmt.Errorf("page of segment %d: %w", p.segment.n, err)
	}
	r.Paged, r.Lone = true, false
	return r, nil
}

// id is that of a page's i-th task.
func (p *page) id(i int) (pelton.ID, error) {
	const before, length = `{"v":1,"id":"`, 36 // as lineWriter begins; others take the long way
	if part := p.parts[i]; len(part) > len(before)+length && string(part[:len(before)]) == before {
		var id pelton.ID
		if id.UnmarshalText(part[len(before):len(before)+length]) == nil {
			return id, nil
		}
	}
	r, err := p.at(i)
	if err != nil {
		return pelton.ID{}, err
	}
	return r.ID, nil
}

// has is the record of a task, nil if it is not in the page.
func (p *page) has(id pelton.ID) (*Record, error) {
	for i, task := range p.Tasks {
		if p.segment.from()+task != id.Sequence() {
			continue
		}
		if r, err := p.at(i); err != nil || r.ID == id { // else the stream of tasks was made anew
			return r, err
		}
	}
	return nil, nil //nolint:nilnil // documented
}
