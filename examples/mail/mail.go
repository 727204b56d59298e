// Package mail is what the producer and the worker share: the kinds of their
// tasks, and the types of payloads and results.
package mail

import (
	"time"

	"github.com/peltonq/pelton"
)

// Email is the payload of a Send task.
type Email struct {
	To      string `json:"to"`
	Subject string `json:"subject"`
}

// Receipt is its result.
type Receipt struct {
	MessageID string    `json:"message_id"`
	SentAt    time.Time `json:"sent_at"`
}

// Send sends one email.
var Send = pelton.NewKind[Email, Receipt]("email.send",
	pelton.WithQueue("emails"), pelton.WithTimeout(30*time.Second), pelton.WithMaxAttempts(5))
