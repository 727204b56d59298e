package powerfs

import "errors"

// ErrNoMount is a system on which the disk cannot be mounted: it has no FUSE, or
// this process may not use it. Which of the two, the wrapped error says:
// fs.ErrNotExist or fs.ErrPermission.
var ErrNoMount = errors.New("a FUSE file system cannot be mounted here")
