// Package powerfs is a disk that can lose its power: a file system in memory that
// keeps, over a Cut, only what was made durable before it. The fault suite mounts
// it under the data folder of a server.
//
// The model is POSIX to the letter, which is harsher than ext4, XFS or Btrfs:
//
//   - What is written to a file, its length included, is durable once fsync or
//     fdatasync of that file has returned, or when the write was made with O_SYNC
//     or O_DSYNC.
//   - A name (create, mkdir, rename, unlink, rmdir) is durable once fsync of the
//     directory it stands in has returned. A file that was synced under a name
//     that was not is gone; one whose name alone was is there and empty. The real
//     ones commit a new file's name together with its content, and earlier names
//     before later ones.
//   - A rename inside a directory happens as a whole or not at all. So does one
//     between two directories: syncing one of them then syncs the names of both.
//   - Everything else is gone. Nothing reaches the disk by itself with time, where
//     a real one would write it back within half a minute.
//
// Modes and times are kept as they are set. Hard links, symbolic links and special
// files cannot be made; locks are the kernel's own.
package powerfs
