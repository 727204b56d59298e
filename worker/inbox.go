package worker

import "sync"

// inbox takes what pullers report, from several goroutines, until the dispatcher
// looks: it wakes once for all that has come, and those who report never wait for
// it. It is bounded by what the open requests may bring.
type inbox struct {
	more chan struct{} // of one: something has come since the last look

	mu     sync.Mutex
	events []laneEvent
	closed bool
}

func newInbox() *inbox { return &inbox{more: make(chan struct{}, 1)} }

// put adds an event; false means that nobody will look any more.
func (in *inbox) put(e laneEvent) bool {
	in.mu.Lock()
	if in.closed {
		in.mu.Unlock()
		return false
	}
	in.events = append(in.events, e)
	in.mu.Unlock()
	select {
	case in.more <- struct{}{}:
	default:
	}
	return true
}

// look gives what has come, in order. read is what the last look gave, and is used
// anew.
func (in *inbox) look(read []laneEvent) []laneEvent {
	clear(read)
	in.mu.Lock()
	defer in.mu.Unlock()
	events := in.events
	in.events = read[:0]
	return events
}

// close gives what has come and was not looked at; from here on put says no.
func (in *inbox) close() []laneEvent {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.closed = true
	return in.events
}
