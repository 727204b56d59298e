package cli

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/google/uuid"
)

const (
	lineStateVersion = 1
	// lineStatePause is between writes of the file: a write reaches the disk, and a
	// crash costs no more than sending again what came since.
	lineStatePause = 200 * time.Millisecond
	// lineStateAge is how old a file may be to go on from it: the server knows keys for
	// 24 h, counted from before the file was last written.
	lineStateAge = 23 * time.Hour
)

// lineState is what --resume keeps: how far an input is settled, and under which keys
// its lines are sent. The file is there with its key before the first line is sent, and
// says of a line that it is settled only after it is. So whatever was sent and is not
// in it is sent again under the same key, which enqueues it once.
type lineState struct {
	path    string
	written time.Time

	Version   int       `json:"version"`
	Key       string    `json:"key"`      // a line's key is this and its number
	Line      int       `json:"line"`     // all up to it are settled
	Chain     string    `json:"chain"`    // of the input up to it
	Enqueued  int       `json:"enqueued"` // by all runs
	Refused   int       `json:"refused"`
	Done      bool      `json:"done"`
	UpdatedAt time.Time `json:"updated_at"`

	enqueued, refused int // by the runs before
}

// openLineState reads the file, or begins a new one with key, or one that nobody has.
func openLineState(path, key string) (*lineState, error) {
	s := &lineState{path: path, Version: lineStateVersion, Key: key}
	text, err := os.ReadFile(path) //nolint:gosec // the user names the file
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if key == "" {
			s.Key = "lines-" + uuid.NewString()
		}
		s.Chain = hex.EncodeToString(make([]byte, len(lineChain{})))
		return s, nil
	case err != nil:
		return nil, usagef("--resume: %w", err)
	}
	if err := json.Unmarshal(text, s); err != nil || s.Version != lineStateVersion || s.Key == "" || s.Line < 0 || len(s.Chain) != 2*len(lineChain{}) {
		return nil, usagef("--resume: %s was not written by this command", path)
	}
	if key != "" && key != s.Key {
		return nil, usagef("--resume: %s is about the keys %q, not --idempotency-key %q", path, s.Key, clip(key, 100))
	}
	if age := time.Since(s.UpdatedAt); age > lineStateAge && !s.Done {
		return nil, usagef("--resume: %s was last written at %s, and the server forgets keys after 24h: lines after %d may be there already; "+
			"when it is known which, --from-line goes on", path, s.UpdatedAt.Format(time.RFC3339), s.Line)
	}
	s.enqueued, s.refused = s.Enqueued, s.Refused
	return s, nil
}

func (s *lineState) chain() (c lineChain) {
	_, _ = hex.Decode(c[:], []byte(s.Chain)) // what is no hexadecimal is no chain of any input
	return c
}

// advance notes what this run has done, and writes the file if it is time. s
// may be nil.
func (s *lineState) advance(line int, chain lineChain, enqueued, refused int) error {
	if s == nil {
		return nil
	}
	s.Line, s.Chain = line, hex.EncodeToString(chain[:])
	s.Enqueued, s.Refused = s.enqueued+enqueued, s.refused+refused
	if time.Since(s.written) < lineStatePause {
		return nil
	}
	return s.save()
}

// finish writes what was not written yet, and that the input has ended, if it has.
func (s *lineState) finish(ended bool) error {
	if s == nil {
		return nil
	}
	s.Done = ended
	return s.save()
}

// save replaces the file as a whole.
func (s *lineState) save() error {
	s.UpdatedAt = time.Now().UTC()
	text, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("write %s: %w", s.path, err)
	}
	if err := replaceFile(s.path, append(text, '\n')); err != nil {
		return fmt.Errorf("--resume: %w", err)
	}
	s.written = time.Now()
	return nil
}

// replaceFile writes a file so that it has the old text or the new one, also after a
// loss of power.
func replaceFile(path string, text []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name()) // nobody misses it
		}
	}()
	_, err = f.Write(text)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
