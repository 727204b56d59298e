// Package chaos is the fault suite: real processes that are killed, stopped and cut
// off while they work, and a checker that holds what they wrote down against the
// guarantees. It has tests only.
//
// Power is lost on a disk of chaos/powerfs, and a full disk is a small tmpfs: both are
// mounted, which takes root, and skipped aloud where that is not permitted.
//
// go test ./chaos/... is the short form, below a minute. PELTON_CHAOS=long is the
// long one, with 10,000 tasks, and 20,000 with concurrency keys. PELTON_CHAOS_SEED
// replays the choices of a run; the seed of every run is in its log. When a run fails,
// the folder with its history and the logs of its processes stays, and the log says
// where.
package chaos
