package check_test

import (
	"github.com/peltonq/pelton"
	"github.com/peltonq/pelton/chaos/history"
)

// acceptWith is accept with more to say of the request.
func (s *script) acceptWith(at int64, id pelton.ID, ref string, with history.Event) {
	s.accept(at, id, ref)
	for _, e := range s.events[len(s.events)-2:] {
		e.Key, e.Unique, e.Terms, e.Idempotency = with.Key, with.Unique, with.Terms, with.Idempotency
	}
}

// answer is that of another request under ref, sent a millisecond before.
func (s *script) answer(at int64, kind history.Kind, id pelton.ID, ref string, with history.Event) *history.Event {
	sent, e := s.add(at-1, "producer", history.EnqueueSent), s.add(at, "producer", kind)
	for _, e := range []*history.Event{sent, e} {
		e.Ref, e.Unique, e.Terms, e.Idempotency = ref, with.Unique, with.Terms, with.Idempotency
	}
	e.Task = id
	if kind == history.EnqueueOK || kind == history.EnqueueExisting {
		e.Retention = day
	}
	return e
}

// whole is a task that runs once from begin to end and succeeds. Its key is that of the
// run.
func (s *script) whole(begin, end int64, actor string, id pelton.ID, ref, key string, fence uint64) {
	s.start(begin, actor, id, ref, 1, fence).Key = key
	s.end(end, actor, id, fence, history.OK)
	r := s.read(end+1, id, pelton.Succeeded, fence+100).Record
	r.ResultFence, r.ResultRun, r.Attempt, r.Worker, r.FinishedAt = fence, name(actor, fence), 1, "id-of-"+actor, wall(end)
}

// pair is two tasks of a concurrency key, accepted one after the other. The second runs
// on w2.
func pair(key string, firstBegin, firstEnd, secondBegin, secondEnd int64, firstFence, secondFence uint64) *script {
	s := &script{}
	s.acceptWith(10, one, "r1", history.Event{Key: key})
	s.acceptWith(15, two, "r2", history.Event{Key: key})
	s.whole(firstBegin, firstEnd, "w1", one, "r1", key, firstFence)
	s.whole(secondBegin, secondEnd, "w2", two, "r2", key, secondFence)
	return s
}

// lostAnd is task one of a key, whose worker has a fault from 100 to 1,900 and goes on until
// 2,000, while w2 takes it over, and task two, which follows at 1,700.
func lostAnd(what string) *script {
	s := &script{}
	s.acceptWith(10, one, "r1", history.Event{Key: "k"})
	s.acceptWith(15, two, "r2", history.Event{Key: "k"})
	s.start(20, "w1", one, "r1", 1, 2).Key = "k"
	s.fault(100, 1900, what, "w1")
	s.end(2000, "w1", one, 2, history.Fenced)
	s.whole(1500, 1600, "w2", one, "r1", "k", 3)
	s.whole(1700, 1800, "w2", two, "r2", "k", 4)
	return s
}

// shared is two tasks with one unique key, of which the first is over at end.
func shared(end, accepted int64) *script {
	s := &script{}
	with := history.Event{Unique: "kind/u"}
	s.acceptWith(10, one, "r1", with)
	s.acceptWith(accepted, two, "r2", with)
	s.whole(20, end, "w1", one, "r1", "", 2)
	s.whole(accepted+5, accepted+10, "w2", two, "r2", "", 5)
	return s
}

// hold is a lock that a run holds from taken, with what it asked for 2 ms before, to
// released; 0 is to the end of the run.
func (s *script) hold(taken, released int64, actor string, id pelton.ID, fence, token uint64, slots int) {
	e := s.add(taken, actor, history.LockTaken)
	e.Began = (taken - 2) * ms
	events := []*history.Event{e}
	if released > 0 {
		events = append(events, s.add(released, actor, history.LockReleased))
	}
	for _, e := range events {
		e.Task, e.Run, e.Lock, e.Token, e.Slots = id, name(actor, fence), "l", token, slots
	}
}

// side is two tasks that run at the same time, the first on w1 from 20 to firstEnd, the
// second on w2 from 25 to secondEnd.
func side(firstEnd, secondEnd int64) *script {
	return pair("", 20, firstEnd, 25, secondEnd, 2, 4)
}

func rejectedExclusion() []example {
	return []example{
		{"key-limits", "two of a key with limit 1", func() *script { return pair("k", 20, 40, 30, 50, 2, 4) }},
		{"key-limits", "three of a key with limit 2", func() *script {
			s := pair("wide", 20, 40, 30, 50, 2, 4)
			s.acceptWith(16, three, "r3", history.Event{Key: "wide"})
			s.whole(35, 38, "w3", three, "r3", "wide", 6)
			return s
		}},
		{"key-limits", "beside one that was only cut off", func() *script { return lostAnd("net-drop") }},
		{"key-limits", "a worker that was stopped, and lost nothing", func() *script {
			s := pair("k", 20, 900, 30, 50, 2, 4)
			s.fault(25, 28, "stop", "w1")
			return s
		}},
		{"key-order", "the second first", func() *script { return pair("k", 40, 50, 20, 30, 4, 2) }},
		{"key-order", "the second first, in another shard", func() *script { return apart(pair("k", 40, 50, 20, 30, 2, 4)) }},
		{"key-order", "sent again after the other was accepted", func() *script {
			s := &script{}
			sent := s.add(8, "producer", history.EnqueueSent)
			sent.Ref, sent.Key = "r0", "k"
			s.acceptWith(5, one, "r1", history.Event{Key: "k"})
			s.acceptWith(15, two, "r0", history.Event{Key: "k"})
			s.whole(40, 50, "w1", one, "r1", "k", 4)
			s.whole(20, 30, "w2", two, "r0", "k", 2)
			return s
		}},
		{"unique", "accepted while the other runs", func() *script { return shared(60, 30) }},
		{"unique", "seen in the store while the other runs", func() *script {
			s := shared(60, 70)
			for _, e := range s.events {
				if e.Task == two && e.Kind == history.EnqueueOK {
					e.Kind, e.Task = history.EnqueueUnknown, pelton.ID{}
				}
			}
			s.stored(40, two, pelton.Queued, 4, 0)
			s.events[len(s.events)-1].Unique = "kind/u"
			return s
		}},
		{"unique", "refused for a task that was over", func() *script {
			s := plain()
			s.answer(50, history.EnqueueRefused, one, "r2", history.Event{Unique: "kind/u"})
			return s
		}},
		{"unique", "answered with a task that was over", func() *script {
			s := plain()
			s.answer(50, history.EnqueueExisting, one, "r2", history.Event{Unique: "kind/u"})
			return s
		}},
		{"idempotent", "two answers", func() *script {
			s := plain()
			with := history.Event{Idempotency: "i"}
			s.answer(40, history.EnqueueOK, one, "r2", with)
			s.answer(50, history.EnqueueOK, two, "r2", with)
			return s
		}},
		{"idempotent", "another one runs", func() *script {
			s := plain()
			with := history.Event{Idempotency: "i"}
			s.answer(40, history.EnqueueExisting, one, "r2", with)
			s.start(50, "w1", two, "r2", 1, 9)
			return s
		}},
		{"locks", "two holders", func() *script {
			s := side(60, 70)
			s.hold(30, 50, "w1", one, 2, 7, 1)
			s.hold(40, 60, "w2", two, 4, 8, 1)
			return s
		}},
		{"locks", "two holders of which one never gave it back", func() *script {
			s := side(60, 70)
			s.hold(30, 0, "w1", one, 2, 7, 1)
			s.hold(40, 60, "w2", two, 4, 8, 1)
			return s
		}},
		{"locks", "two holders while the broker died", func() *script {
			s := side(60, 70)
			s.fault(20, 80, "server-kill", history.Everyone)
			s.hold(30, 50, "w1", one, 2, 7, 1)
			s.hold(40, 60, "w2", two, 4, 8, 1)
			return s
		}},
		{"locks", "a worker that stood still before it had the lock", func() *script {
			s := side(60, 70)
			s.fault(26, 28, "stop", "w1")
			s.hold(30, 50, "w1", one, 2, 7, 1)
			s.hold(40, 60, "w2", two, 4, 8, 1)
			return s
		}},
		{"locks", "three holders of two slots", func() *script {
			s := side(60, 70)
			s.accept(16, three, "r3")
			s.whole(20, 60, "w3", three, "r3", "", 6)
			s.hold(30, 50, "w1", one, 2, 7, 2)
			s.hold(35, 50, "w2", two, 4, 8, 2)
			s.hold(40, 50, "w3", three, 6, 9, 2)
			return s
		}},
		{"locks", "a lower token", func() *script {
			s := side(60, 70)
			s.hold(30, 40, "w1", one, 2, 7, 1)
			s.hold(50, 60, "w2", two, 4, 6, 1)
			return s
		}},
		{"locks", "one token twice", func() *script {
			s := side(60, 70)
			s.hold(30, 40, "w1", one, 2, 7, 1)
			s.hold(50, 60, "w2", two, 4, 7, 1)
			return s
		}},
	}
}

// apart moves the second task into another shard, whose tokens are its own.
func apart(s *script) *script {
	elsewhere := pelton.NewID(two.Time(), 1)
	for _, e := range s.events {
		if e.Task == two {
			e.Task = elsewhere
		}
	}
	return s
}

func acceptedExclusion() []example {
	return []example{
		{"key-limits", "one after the other", func() *script { return pair("k", 20, 30, 31, 40, 2, 4) }},
		{"key-limits", "two of a key with limit 2", func() *script { return pair("wide", 20, 40, 30, 50, 2, 4) }},
		{"key-limits", "two of two keys", func() *script {
			s := pair("k", 20, 40, 30, 50, 2, 4)
			for _, e := range s.events {
				if e.Ref == "r2" {
					e.Key = "other"
				}
			}
			return s
		}},
		{"key-limits", "beside a zombie", func() *script { return lostAnd("stop") }},
		{"key-limits", "beside one that died", func() *script {
			s := lostAnd("kill")
			for i, e := range s.events {
				if e.Kind == history.RunEnd && e.Actor == "w1" {
					s.events = append(s.events[:i], s.events[i+1:]...)
					break
				}
			}
			return s
		}},
		{"key-limits", "after it was told that it is cut off", func() *script {
			s := lostAnd("net-drop")
			s.ctxEnd(900, "w1", one, 2, history.Fenced)
			return s
		}},
		{"key-limits", "told late by a worker that was stopped", func() *script {
			s := pair("k", 1000, 1100, 1900, 2100, 3, 4)
			s.fault(25, 1950, "stop", "w3")
			s.start(2000, "w3", one, "r1", 1, 2).Key = "k"
			s.end(2001, "w3", one, 2, history.Fenced)
			return s
		}},
		{"key-order", "in order", func() *script { return pair("k", 20, 30, 40, 50, 2, 4) }},
		{"key-order", "in order, with tokens of two shards", func() *script { return apart(pair("k", 20, 30, 40, 50, 4, 2)) }},
		{"key-order", "with a limit of 2", func() *script { return pair("wide", 40, 50, 20, 30, 4, 2) }},
		{"key-order", "accepted side by side", func() *script {
			s := pair("k", 40, 50, 20, 30, 4, 2)
			for _, e := range s.events {
				if e.Kind == history.EnqueueSent {
					e.At = 5 * ms
				}
			}
			return s
		}},
		{"key-order", "the first waited for its time", func() *script {
			s := pair("k", 40, 50, 20, 30, 4, 2)
			s.stored(11, one, pelton.Scheduled, 1, 0)
			return s
		}},
		{"key-order", "started in order, and told late", func() *script {
			s := &script{}
			s.acceptWith(10, one, "r1", history.Event{Key: "k"})
			s.acceptWith(15, two, "r2", history.Event{Key: "k"})
			died := s.stored(20, one, pelton.Running, 2, 1)
			died.Worker, died.StartedAt, died.Attempt = "id-of-w1", wall(20), 1
			s.fault(21, 3000, "stop", "w1")
			s.start(3001, "w1", one, "r1", 1, 2).Key = "k"
			s.end(3002, "w1", one, 2, history.Fenced)
			s.whole(1500, 1600, "w2", one, "r1", "k", 3)
			s.whole(1700, 1800, "w2", two, "r2", "k", 4)
			return s
		}},
		{"unique", "one after the other", func() *script { return shared(60, 70) }},
		{"unique", "seen to be over only later", func() *script {
			s := shared(60, 61)
			s.events[len(s.events)-4].At = 90 * ms
			return s
		}},
		{"unique", "refused for one that ran", func() *script {
			s := plain()
			s.answer(25, history.EnqueueRefused, one, "r2", history.Event{Unique: "kind/u"})
			return s
		}},
		{"unique", "a repeat is answered with one that is over by now", func() *script {
			s := plain()
			with := history.Event{Unique: "kind/u", Idempotency: "i"}
			s.answer(25, history.EnqueueUnknown, pelton.ID{}, "r2", with)
			s.answer(50, history.EnqueueExisting, one, "r2", with)
			return s
		}},
		{"idempotent", "refused, unknown, and then the same each time", func() *script {
			s := &script{}
			with := history.Event{Idempotency: "i"}
			s.answer(4, history.EnqueueRefused, pelton.ID{}, "r1", with)
			s.answer(6, history.EnqueueUnknown, pelton.ID{}, "r1", with)
			s.acceptWith(10, one, "r1", with)
			s.whole(20, 30, "w1", one, "r1", "", 2)
			s.answer(40, history.EnqueueOK, one, "r1", with)
			return s
		}},
		{"locks", "one after the other", func() *script {
			s := side(60, 70)
			s.hold(30, 40, "w1", one, 2, 7, 1)
			s.hold(42, 60, "w2", two, 4, 8, 1)
			return s
		}},
		{"locks", "two holders of two slots, told in another order", func() *script {
			s := side(60, 70)
			s.hold(30, 50, "w1", one, 2, 8, 2)
			s.hold(31, 60, "w2", two, 4, 7, 2)
			return s
		}},
		{"locks", "after the end of a handler that did not give it back", func() *script {
			s := side(35, 70)
			s.hold(30, 0, "w1", one, 2, 7, 1)
			s.hold(40, 60, "w2", two, 4, 8, 1)
			return s
		}},
		{"locks", "after the holder was told that it is lost", func() *script {
			s := side(60, 70)
			s.hold(30, 50, "w1", one, 2, 7, 1)
			s.events[len(s.events)-1].At, s.events[len(s.events)-1].Kind = 39*ms, history.LockLost
			s.hold(40, 60, "w2", two, 4, 8, 1)
			return s
		}},
		{"locks", "a holder that stood still", func() *script {
			s := side(60, 70)
			s.fault(32, 45, "stop", "w1")
			s.hold(30, 50, "w1", one, 2, 7, 1)
			s.hold(40, 60, "w2", two, 4, 8, 1)
			return s
		}},
		{"locks", "a holder that died", func() *script {
			s := lostAnd("kill")
			for i, e := range s.events {
				if e.Kind == history.RunEnd && e.Actor == "w1" {
					s.events = append(s.events[:i], s.events[i+1:]...)
					break
				}
			}
			s.hold(30, 0, "w1", one, 2, 7, 1)
			s.hold(1550, 1590, "w2", one, 3, 8, 1)
			return s
		}},
	}
}
