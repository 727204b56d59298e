//go:build unix && !linux

package command

import "syscall"

// dieWithParent does nothing: only Linux can tie a program's life to its
// parent's (FreeBSD in another way, which is not worth a file).
func dieWithParent(attr *syscall.SysProcAttr) *syscall.SysProcAttr { return attr }
