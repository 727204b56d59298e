package command

import "syscall"

// dieWithParent has the kernel kill the program when the thread that started it
// dies, so that a worker that is killed itself does not leave programs behind
// that work on tasks which other workers take over.
func dieWithParent(attr *syscall.SysProcAttr) *syscall.SysProcAttr {
	attr.Pdeathsig = syscall.SIGKILL
	return attr
}
