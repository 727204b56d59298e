// Package embed runs a NATS server with JetStream inside this process, so that
// one binary is a whole Pelton. It opens no port unless asked, keeps its data
// folder to itself and to its owner, and logs through slog.
//
// It is the only package, next to the helpers for tests, that links nats-server.
package embed
