package worker

import "github.com/peltonq/pelton"

// mostDropped bounds dropped.
const mostDropped = 1024

// dropped are the last tasks whose cancel signals found no run here: their deliveries
// may be on their way. The zero value is empty.
type dropped struct {
	ids  map[pelton.ID]struct{}
	ring []pelton.ID // in the order in which they came, from next on
	next int
}

func (d *dropped) add(id pelton.ID) {
	if d.has(id) {
		return
	}
	if d.ids == nil {
		d.ids = make(map[pelton.ID]struct{})
	}
	d.ids[id] = struct{}{}
	if len(d.ring) < mostDropped {
		d.ring = append(d.ring, id)
		return
	}
	delete(d.ids, d.ring[d.next])
	d.ring[d.next] = id
	d.next = (d.next + 1) % mostDropped
}

func (d *dropped) has(id pelton.ID) bool {
	_, ok := d.ids[id]
	return ok
}
