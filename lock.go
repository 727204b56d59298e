package pelton

import (
	"fmt"
	"time"
)

// MaxLockSlots is the most permits that a named lock can have.
const MaxLockSlots = 256

// Lock is a named lock and who holds it.
type Lock struct {
	Name string `json:"name"`
	// Slots is how many may hold it at a time; 1 for a plain lock.
	Slots   int          `json:"slots"`
	Holders []LockHolder `json:"holders"` // in the order of their tokens
}

// LockHolder is one run of a task that holds a lock.
type LockHolder struct {
	TaskID ID     `json:"task_id"`
	Kind   string `json:"kind"`
	Worker string `json:"worker"`
	// Fence is the token of the task's start, as worker.Fence gives it.
	Fence uint64 `json:"fence"`
	// Token is the fencing token of the acquisition.
	Token      uint64    `json:"token"`
	AcquiredAt time.Time `json:"acquired_at"` // by the worker's clock
	// ExpiresAt is when the lock is free if its worker is not heard of any more, by
	// the broker's clock. Renewals move it on.
	ExpiresAt time.Time `json:"expires_at"`
}

// LockQuery asks for locks that are held, sorted by name.
type LockQuery struct {
	// Name selects one lock. Empty selects all.
	Name string
	// Cursor goes on where an earlier answer ended. Empty starts with the first.
	Cursor string
	// Limit is the most locks of the page, 500 at most. Zero means 50.
	Limit int
}

// LockPage is one page of locks, sorted by name.
type LockPage struct {
	Items []Lock `json:"items"`
	// NextCursor leads to the next page and is empty after the last one.
	NextCursor string `json:"next_cursor,omitempty"`
}

// ValidateLock checks the name of a lock: 1 to 256 bytes of UTF-8 without control
// characters, and neither "." nor "..", which no URL can carry.
func ValidateLock(name string) error {
	problem := keyProblem(name)
	switch name {
	case "":
		problem = "is empty"
	case ".", "..":
		problem = fmt.Sprintf("must not be %q", name)
	}
	if problem != "" {
		return fmt.Errorf("%w: name of a lock %s", ErrInvalid, problem)
	}
	return nil
}
