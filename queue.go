package pelton

import (
	"encoding/json"
	"time"
)

// Queue is what a queue holds at one moment.
type Queue struct {
	Name string `json:"name"`
	// Paused means that all priorities are.
	Paused     bool               `json:"paused"`
	Settings   QueueSettings      `json:"settings"` // what was set; the rest are defaults
	Priorities map[Priority]Depth `json:"priorities"`
	Ready      uint64             `json:"ready"`
	Running    uint64             `json:"running"`
	Scheduled  uint64             `json:"scheduled"` // delayed and retrying
	Waiting    uint64             `json:"waiting"`   // for their turn in the line of a key or kind
	Dead       uint64             `json:"dead"`
}

// Depth is what one priority of a queue holds.
type Depth struct {
	Ready   uint64
	Running uint64
	// OldestReady is how long the oldest ready task has been ready; zero when
	// none is.
	OldestReady time.Duration
	Paused      bool // no task is handed out
	// Deliveries counts hand-overs to workers since the priority was first used: with
	// Ready it grows by each task that becomes ready, and without Running by each that
	// ends, so that differences over time are rates. It may begin anew when the broker
	// loses its state.
	Deliveries uint64
}

// Purged says how far a purge of a queue came.
type Purged struct {
	Purged     int    `json:"purged"`                // tasks that it cancelled
	NextCursor string `json:"next_cursor,omitempty"` // where to go on; empty when nothing is left
}

type depthJSON struct {
	Ready       uint64 `json:"ready"`
	Running     uint64 `json:"running"`
	OldestReady string `json:"oldest_ready,omitempty"`
	Paused      bool   `json:"paused"`
	Deliveries  uint64 `json:"deliveries,omitempty"`
}

// MarshalJSON writes OldestReady as a duration string, to the millisecond.
func (d Depth) MarshalJSON() ([]byte, error) {
	form := depthJSON{Ready: d.Ready, Running: d.Running, Paused: d.Paused, Deliveries: d.Deliveries}
	if d.OldestReady > 0 {
		form.OldestReady = FormatDuration(d.OldestReady.Round(time.Millisecond))
	}
	return json.Marshal(form)
}

// UnmarshalJSON reads what MarshalJSON writes.
func (d *Depth) UnmarshalJSON(data []byte) error {
	var form depthJSON
	if err := json.Unmarshal(data, &form); err != nil {
		return err
	}
	*d = Depth{Ready: form.Ready, Running: form.Running, Paused: form.Paused, Deliveries: form.Deliveries}
	if form.OldestReady == "" {
		return nil
	}
	var err error
	d.OldestReady, err = ParseDuration(form.OldestReady)
	return err
}
