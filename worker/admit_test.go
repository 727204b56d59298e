package worker

import (
	"testing"
	"time"

	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/internal/broker"
)

func TestAdmit(t *testing.T) {
	t.Parallel()
	now := time.Now()
	const self, carrier, epoch = "me", uint64(7), uint32(2)
	record := func(state pelton.State, opts ...func(*broker.Record)) *broker.Record {
		r := &broker.Record{State: state}
		r.Epoch = epoch
		if state == pelton.Running {
			r.Owner, r.Carrier = "other", carrier
		}
		for _, opt := range opts {
			opt(r)
		}
		return r
	}
	at := func(e uint32) func(*broker.Record) { return func(r *broker.Record) { r.Epoch = e } }
	expires := func(d time.Duration) func(*broker.Record) {
		return func(r *broker.Record) { r.ExpiresAt = now.Add(d) }
	}
	owner := func(id string) func(*broker.Record) { return func(r *broker.Record) { r.Owner = id } }
	carried := func(seq uint64) func(*broker.Record) { return func(r *broker.Record) { r.Carrier = seq } }
	deferred := func(n int, since time.Duration) func(*broker.Record) {
		return func(r *broker.Record) { r.Deferrals, r.DeferredAt = n, now.Add(-since) }
	}
	const known, unknown, here, away = true, false, true, false
	for name, tc := range map[string]struct {
		record      *broker.Record
		here, known bool
		want        admission
	}{
		"queued":           {record(pelton.Queued), away, known, admitStart},
		"scheduled":        {record(pelton.Scheduled), away, known, admitStart},
		"retrying":         {record(pelton.Retrying), away, known, admitStart},
		"released":         {record(pelton.Queued, carried(carrier), owner("other")), away, known, admitStart},
		"not expired yet":  {record(pelton.Queued, expires(time.Second)), away, known, admitStart},
		"lost record step": {record(pelton.Queued, at(epoch-1)), away, known, admitStart},

		"succeeded":               {record(pelton.Succeeded), away, known, admitDrop},
		"cancelled":               {record(pelton.Cancelled), away, known, admitDrop},
		"expired before":          {record(pelton.Expired), away, known, admitDrop},
		"failed":                  {record(pelton.Failed), away, known, admitBury},
		"over, of an older epoch": {record(pelton.Succeeded, at(epoch+1)), away, known, admitDrop},
		"failed in a later epoch": {record(pelton.Failed, at(epoch+1)), away, known, admitBury},
		"over, kind unknown":      {record(pelton.Succeeded), away, unknown, admitDrop},

		"put back as retrying":  {record(pelton.Retrying, at(epoch+1)), away, known, admitRepublish},
		"put back as scheduled": {record(pelton.Scheduled, at(epoch+1)), away, known, admitRepublish},
		"put back as queued":    {record(pelton.Queued, at(epoch+1)), away, unknown, admitRepublish},
		"successor runs":        {record(pelton.Running, at(epoch+1)), away, known, admitDrop},

		"runs from another message":            {record(pelton.Running, carried(carrier+1)), away, known, admitDrop},
		"runs here from another message":       {record(pelton.Running, carried(carrier+1), owner(self)), here, known, admitDrop},
		"runs here":                            {record(pelton.Running, owner(self)), here, known, admitAdopt},
		"ran here":                             {record(pelton.Running, owner(self)), away, known, admitTakeover},
		"other's, and something runs here":     {record(pelton.Running), here, known, admitTakeover},
		"owner silent":                         {record(pelton.Running), away, known, admitTakeover},
		"owner silent, expired meanwhile":      {record(pelton.Running, expires(-time.Second)), away, known, admitTakeover},
		"owner silent, kind unknown":           {record(pelton.Running), away, unknown, admitDefer},
		"owner silent, kind unknown for a day": {record(pelton.Running, deferred(3, 25*time.Hour)), away, unknown, admitDefer},

		"expired":                       {record(pelton.Queued, expires(-time.Second)), away, known, admitExpire},
		"expires now":                   {record(pelton.Scheduled, expires(0)), away, known, admitExpire},
		"expired, kind unknown":         {record(pelton.Retrying, expires(-time.Second)), away, unknown, admitExpire},
		"kind unknown":                  {record(pelton.Queued), away, unknown, admitDefer},
		"kind unknown for long":         {record(pelton.Scheduled, deferred(9, unknownKindFor-time.Second)), away, unknown, admitDefer},
		"kind unknown for too long":     {record(pelton.Scheduled, deferred(9, unknownKindFor)), away, unknown, admitUnknown},
		"kind known after a long while": {record(pelton.Scheduled, deferred(9, unknownKindFor)), away, known, admitStart},
	} {
		if got := admit(tc.record, epoch, carrier, self, tc.here, tc.known, now); got != tc.want {
			t.Errorf("%s: admit = %d, want %d", name, got, tc.want)
		}
	}
}

func TestDeferral(t *testing.T) {
	t.Parallel()
	for n, want := range map[int]time.Duration{
		-1: time.Second, 0: time.Second, 1: 2 * time.Second, 2: 4 * time.Second, 5: 32 * time.Second,
		6: time.Minute, 7: time.Minute, 1 << 30: time.Minute,
	} {
		if got := deferral(n); got != want {
			t.Errorf("deferral(%d) = %s, want %s", n, got, want)
		}
	}
}
