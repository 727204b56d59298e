package pelton

import "time"

// Worker is a process that takes tasks, as it last said of itself. It says so every
// few seconds; one that has not for a while is not there any more.
type Worker struct {
	ID   string `json:"id"`
	Host string `json:"host"`
	PID  int    `json:"pid"`
	// Version of the program that it is part of; empty if that has none.
	Version string `json:"version"`
	// Kinds that it has handlers for, and Queues that it serves.
	Kinds  []string `json:"kinds"`
	Queues []string `json:"queues"`
	// Concurrency is the number of its slots.
	Concurrency int `json:"concurrency"`
	// Running are the tasks that it runs.
	Running []ID `json:"running"`
	// Leaked is how many slots are held by handlers that ignored the end of their ctx.
	Leaked    int       `json:"leaked"`
	StartedAt time.Time `json:"started_at"`
	// SeenAt is when it said this, by its own clock.
	SeenAt time.Time `json:"seen_at"`
}

// WorkerQuery asks for workers, sorted by id.
type WorkerQuery struct {
	// Cursor goes on where an earlier answer ended. Empty starts with the first.
	Cursor string
	// Limit is the most workers of the page, 500 at most. Zero means 50.
	Limit int
}

// WorkerPage is one page of workers, sorted by id.
type WorkerPage struct {
	Items []Worker `json:"items"`
	// NextCursor leads to the next page and is empty after the last one.
	NextCursor string `json:"next_cursor,omitempty"`
}
