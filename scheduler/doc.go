// Package scheduler keeps schedules in the broker and turns their ticks into tasks:
// exactly one for each (schedule, tick), however many servers run it.
//
// There is no leader. Each schedule has one message in the broker, which the broker
// publishes when the next tick is due (internal/broker, ticks.go). Whoever gets it
// reads the schedule, decides (decide.go, a pure function), enqueues under an id that
// schedule and nominal time determine, advances the schedule's state by
// compare-and-swap, leaves the message of the next tick, and acknowledges (fire.go
// has the crash windows). All times are the broker's: clocks of servers decide
// nothing.
package scheduler
