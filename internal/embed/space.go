package embed

// space is what the file system of the data folder has, in bytes, for a user
// without privileges.
type space struct{ free, total uint64 }

// The reserves of a file system. New tasks are taken while more than both is free;
// what is between them is for the tasks that were accepted, whose states and
// results need room too. The last reserve is the server's own: it writes a block
// of up to 8 MiB again before it removes the old one, and a write that meets a full
// disk would end all writes to its stream.
const (
	minLastReserve, maxLastReserve = 8 << 20, 64 << 20
	minTaskReserve, maxTaskReserve = 16 << 20, 256 << 20
)

// lastReserve is 1/64 of the file system, within bounds.
func (s space) lastReserve() uint64 { return min(max(s.total/64, minLastReserve), maxLastReserve) }

// taskReserve is 1/16 of the file system, within bounds.
func (s space) taskReserve() uint64 { return min(max(s.total/16, minTaskReserve), maxTaskReserve) }

// level is how full a file system is.
type level int

const (
	roomy level = iota
	low         // no new tasks
	full        // nothing but acknowledgements and deletions
)

// next is the level that follows on one. A file system that was fuller needs an
// eighth more to be roomier, so that the level does not flap.
func (s space) next(was level) level {
	last := s.lastReserve()
	both := last + s.taskReserve()
	if was == full {
		last += last / 8
	}
	if was >= low {
		both += both / 8
	}
	switch {
	case s.free < last:
		return full
	case s.free < both:
		return low
	default:
		return roomy
	}
}
