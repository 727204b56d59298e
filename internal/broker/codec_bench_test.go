package broker

import (
	"testing"
	"time"

	"github.com/peltonq/pelton"
)

// finished is the record of a task of the usual sort when its handler has returned.
func finished() *Record {
	r := aRecord("default", pelton.Normal)
	r.State, r.Result = pelton.Succeeded, []byte(`{"sent": true}`)
	r.StartedAt, r.FinishedAt = r.CreatedAt.Add(1234567), r.CreatedAt.Add(7654321)
	r.Attempt, r.Ended, r.Carrier = 1, 1, 1_234_567
	r.Owner = "0b54b5f6-1c45-4cf0-a63c-1d9e3ad3a9a1"
	return r
}

// laden is finished with what some tasks have in addition.
func laden() *Record {
	r := finished()
	r.ConcurrencyKey, r.RateKey = "acme", "acme"
	r.Labels = map[string]string{"tenant": "acme", "region": "eu-1"}
	r.EnterLine()
	r.Backoff = pelton.Backoff{Initial: time.Second, Factor: 3}
	r.Fail(pelton.Failure{Message: "dial tcp: i/o timeout", Reason: pelton.ReasonError, Attempt: 1, At: r.CreatedAt})
	return r
}

func BenchmarkEncodeEnvelope(b *testing.B) {
	e := aRecord("default", pelton.Normal).Envelope()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := encodeEnvelope(e); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDecodeEnvelope(b *testing.B) {
	data, err := encodeEnvelope(aRecord("default", pelton.Normal).Envelope())
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := decodeEnvelope(data); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkEncodeRecord(b *testing.B) {
	for name, r := range map[string]*Record{"usual": finished(), "laden": laden()} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := encodeRecord(r); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkDecodeRecord(b *testing.B) {
	for name, r := range map[string]*Record{"usual": finished(), "laden": laden()} {
		b.Run(name, func(b *testing.B) {
			data, err := encodeRecord(r)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := decodeRecord(data, 1); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
