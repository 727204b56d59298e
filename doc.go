// Package pelton is the vocabulary of Pelton, a distributed task queue for Go
// services on NATS JetStream: tasks, their ids, kinds, priorities and states,
// and the errors that every other package of the module returns.
//
// A task is produced by package producer, run by package worker and looked at
// by package admin or over HTTP. This package knows nothing of the broker and
// imports the standard library and google/uuid only, so that code which merely
// names kinds and reads results stays light.
//
//	var SendEmail = pelton.NewKind[Email, Receipt]("email.send",
//		pelton.WithQueue("emails"), pelton.WithTimeout(30*time.Second))
package pelton
