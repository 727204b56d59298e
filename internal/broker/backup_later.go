package broker

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/peltonq/pelton"
)

// The broker's snapshot of a stream that is in use is not of one moment: it goes over the
// sequences that there were when it began (nats-server 2.15, streamSnapshotV2). What a
// bucket's key held is gone when the key is written before the snapshot comes to it, and the new
// value is beyond the snapshot's end: the key is in neither. So what such a
// stream got since is written to a file of its own, up to the stream's end.
//
// With this, each key's value is in the backup: when the last read finds nothing more, the newest value of
// a key has some sequence below, which was read after it was written, and so as long as it was the newest.

const (
	laterLook = 20 * time.Millisecond // until a copy that lags behind is asked again
	// maxLater bounds one message in the file: its payload in base64, and its headers.
	maxLater = 96 << 20
	// publishedAtOnce bounds the messages of publishAll that are not answered yet.
	publishedAtOnce = 1000
)

// laterFile is what a stream got while its snapshot was made: a line of JSON for each message, by sequence.
type laterFile struct {
	File     string `json:"file"`
	Size     int64  `json:"size"`
	SHA256   string `json:"sha256"`
	Messages uint64 `json:"messages"`
}

// laterMessage is a line of it.
type laterMessage struct {
	Subject string      `json:"subject"`
	Seq     uint64      `json:"seq"`
	Header  nats.Header `json:"header,omitempty"`
	Data    []byte      `json:"data,omitempty"`
	Time    time.Time   `json:"time"`
}

// lastSequence is what the stream's leader says of it.
func lastSequence(ctx context.Context, nc *nats.Conn, stream string) (last uint64, err error) {
	var answer struct {
		State snapshotState `json:"state"`
	}
	return answer.State.LastSeq, ask(ctx, nc, "STREAM.INFO."+stream, struct{}{}, &answer)
}

// writeLater writes what the stream got after a sequence; nil if there is nothing.
func writeLater(ctx context.Context, nc *nats.Conn, root *os.Root, stream string, after uint64) (*laterFile, error) {
	f := &laterFile{File: stream + ".later"}
	err := writeSynced(root, f.File, func(w io.Writer) error {
		sum, out := sha256.New(), bufio.NewWriter(w)
		to := io.MultiWriter(out, sum)
		err := eachLater(ctx, nc, stream, after, func(msg laterMessage) error {
			line, err := json.Marshal(msg)
			if err != nil {
				return fmt.Errorf("encode message %d: %w", msg.Seq, err)
			}
			n, err := to.Write(append(line, '\n'))
			f.Size += int64(n)
			f.Messages++
			return err
		})
		f.SHA256 = digits(sum)
		return errors.Join(err, out.Flush())
	})
	if err == nil && f.Messages == 0 {
		return nil, root.Remove(f.File)
	}
	return f, err
}

// eachLater gives all messages after a sequence, until there are no more. It reads by a consumer, which
// may be of a copy that lags behind: so the end is where the leader has nothing after it, or beyond where the
// leader's end was.
func eachLater(ctx context.Context, nc *nats.Conn, stream string, after uint64, give func(laterMessage) error) error {
	end, err := lastSequence(ctx, nc, stream)
	if err != nil {
		return err
	}
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(callTimeout))
	if err != nil {
		return fmt.Errorf("open JetStream: %w", err)
	}
	opening, cancel := context.WithTimeout(ctx, callTimeout)
	reading, err := readForwards(opening, nc, js, stream, ">", after+1)
	cancel()
	if err != nil {
		return err
	}
	defer reading.close(ctx)
	for {
		over, err := reading.batch(ctx, func(msg *nats.Msg, meta *nats.MsgMetadata) error {
			after = meta.Sequence.Stream
			return give(laterMessage{Subject: msg.Subject, Seq: after, Header: msg.Header, Data: msg.Data, Time: meta.Timestamp})
		})
		switch {
		case err != nil:
			return err
		case over && after >= end:
			return nil
		case !over:
			continue
		}
		err = ask(ctx, nc, "STREAM.MSG.GET."+stream, getRequest{Seq: after + 1, NextFor: ">"}, nil)
		if errors.Is(err, pelton.ErrNotFound) {
			return nil
		}
		if err = errors.Join(err, waitFor(ctx, laterLook)); err != nil {
			return err
		}
	}
}

// restoreLater writes what a stream got while its snapshot was made into the restored stream,
// in its order.
func restoreLater(ctx context.Context, nc *nats.Conn, root *os.Root, f *laterFile) error {
	file, err := root.Open(f.File)
	if err != nil {
		return fmt.Errorf("%w: %w", pelton.ErrInvalid, err)
	}
	defer func() { _ = file.Close() }()
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, maxLater)
	return publishAll(ctx, nc, func() (*nats.Msg, error) {
		if !lines.Scan() {
			return nil, lines.Err()
		}
		var msg laterMessage
		if err := json.Unmarshal(lines.Bytes(), &msg); err != nil {
			return nil, fmt.Errorf("%w: %s: %w", pelton.ErrInvalid, f.File, err)
		}
		return msg.again(time.Now()), nil
	})
}

// again is the message as it is written anew. What the first writer expected is no matter any
// more; a marker of the broker, which none but the broker may write, becomes one of a
// client, and a time to live goes on from when it began.
func (m *laterMessage) again(now time.Time) *nats.Msg {
	out := nats.NewMsg(m.Subject)
	out.Data = m.Data
	for name, values := range m.Header {
		if name == "Nats-Rollup" || !strings.HasPrefix(name, "Nats-") {
			out.Header[name] = values
		}
	}
	if m.Header.Get("Nats-Marker-Reason") != "" {
		out.Header.Set("KV-Operation", "PURGE")
	}
	if ttl := m.Header.Get(headerTTL); ttl != "" {
		out.Header.Set(headerTTL, leftOf(ttl, now.Sub(m.Time)))
	}
	return out
}

// leftOf is a time to live after some of it is over: a second at least, the shortest that there is.
// The broker reads a number of seconds, a duration of Go, or "never" (ADR-43).
func leftOf(ttl string, over time.Duration) string {
	d, err := time.ParseDuration(ttl)
	if seconds, bad := strconv.Atoi(ttl); bad == nil {
		d, err = time.Duration(seconds)*time.Second, nil
	}
	if err != nil {
		return ttl
	}
	return strconv.Itoa(int(max(d-over, time.Second).Round(time.Second) / time.Second))
}

// publishAll publishes messages in order until next gives none.
func publishAll(ctx context.Context, nc *nats.Conn, next func() (*nats.Msg, error)) error {
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(callTimeout), jetstream.WithPublishAsyncTimeout(callTimeout))
	if err != nil {
		return fmt.Errorf("open JetStream: %w", err)
	}
	for {
		var sent []jetstream.PubAckFuture
		for len(sent) < publishedAtOnce {
			msg, err := next()
			if err != nil {
				return err
			}
			if msg == nil {
				break
			}
			future, err := js.PublishMsgAsync(msg)
			if err != nil {
				return translate("publish "+msg.Subject, err)
			}
			sent = append(sent, future)
		}
		for _, future := range sent {
			select {
			case <-future.Ok():
			case err := <-future.Err():
				return translate("publish "+future.Msg().Subject, err)
			case <-ctx.Done():
				return errors.Join(pelton.ErrUnavailable, context.Cause(ctx))
			}
		}
		if len(sent) < publishedAtOnce {
			return nil
		}
	}
}

// raise lets a stream go on after a sequence. Records tell by sequence which message a task runs from, and
// which places it has; some of a backup may be of messages that came after the snapshot of
// messages. No other message may get their sequences.
func raise(ctx context.Context, nc *nats.Conn, js jetstream.JetStream, stream, probe string, end uint64) error {
	last, err := lastSequence(ctx, nc, stream)
	if err != nil || last >= end {
		return err
	}
	err = publishAll(ctx, nc, func() (*nats.Msg, error) {
		if last >= end {
			return nil, nil //nolint:nilnil // documented
		}
		last++
		return nats.NewMsg(probe), nil
	})
	if err != nil {
		return err
	}
	s, err := js.Stream(ctx, stream)
	if err == nil {
		err = s.Purge(ctx, jetstream.WithPurgeSubject(probe))
	}
	if err != nil {
		return translate("raise the sequences of stream "+stream, err)
	}
	return nil
}
