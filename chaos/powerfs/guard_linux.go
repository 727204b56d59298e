package powerfs

import (
	"fmt"

	"github.com/peltonq/pelton/chaos/guard"
)

// Guard sees to it that what is mounted at dir goes away with this process, also
// when a panic or a signal ends it before its own cleaning up. release ends that,
// once dir is unmounted.
func Guard(dir string) (release func() error, err error) {
	if release, err = guard.Start(`umount -l "$0"`, dir); err != nil {
		return nil, fmt.Errorf("guard the mount at %s: %w", dir, err)
	}
	return release, nil
}
