//go:build unix

package cli

import "syscall"

// openFiles looks at the bound on open files of this user, which a server that is
// started as this user has too: a connection is one.
func (d *doctor) openFiles() {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return // no bound that is known
	}
	const own = 1024 // the broker's files and connections
	if most := limit.Max; most < defaultConnections+own {
		d.warn("limits.files", "raise it (ulimit -n, LimitNOFILE= of systemd), or lower --max-connections", "%d open files are allowed, less than %d connections need", most, defaultConnections)
		return
	}
	d.ok("limits.files", "%d open files are allowed", limit.Max)
}
