package history

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// Suffix of the files that a history consists of.
const Suffix = ".jsonl"

// Log appends one actor's events to its file. Every event is one write, so a
// process that is killed loses at most the event it was writing. It is safe for
// concurrent use.
type Log struct {
	actor string
	mu    sync.Mutex
	file  *os.File
}

// Open creates the actor's file in dir. An actor that is started again needs
// another name: a file that exists is an error.
func Open(dir, actor string) (*Log, error) {
	name := filepath.Join(dir, actor+Suffix)
	file, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY|os.O_APPEND, 0o600) //nolint:gosec // of the folder that the caller named
	if err != nil {
		return nil, fmt.Errorf("open history of %s: %w", actor, err)
	}
	return &Log{actor: actor, file: file}, nil
}

// Actor is the name under which events are written.
func (l *Log) Actor() string { return l.actor }

// Write appends an event and stamps it with actor and wall time, and with Now if
// At is zero. The event is in the operating system's hands when Write returns: it
// survives the death of this process.
func (l *Log) Write(e Event) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	e.Actor = l.actor
	e.Wall = time.Now().UTC()
	if e.At == 0 {
		e.At = Now()
	}
	line, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("write history of %s: %w", l.actor, err)
	}
	if _, err := l.file.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("write history of %s: %w", l.actor, err)
	}
	return nil
}

// Close closes the file.
func (l *Log) Close() error { return l.file.Close() }
