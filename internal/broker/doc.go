// Package broker is the only package of Pelton that knows what lives in NATS
// JetStream: streams, subjects, buckets, consumers and headers. Everything above
// it speaks of tasks, records and deliveries.
//
// Two rules shape it. The record of a task decides, by compare-and-swap on its
// revision; broker acknowledgements decide nothing. And the package translates
// JetStream's errors at its boundary into the sentinels of package pelton, with
// a sharp line between "nothing was written" (pelton.ErrUnavailable) and "it may
// have been" (pelton.ErrUnknownOutcome).
package broker
