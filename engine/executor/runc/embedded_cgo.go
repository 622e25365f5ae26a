//go:build linux && cgo && !gccgo

package runc

import (
	"fmt"
	"runtime"
	"syscall"
	"unsafe"

	_ "github.com/opencontainers/runc/libcontainer/nsenter" // enters the namespaces before the Go runtime starts
)

/*
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef SECCOMP_FILTER_FLAG_SPEC_ALLOW
#define SECCOMP_FILTER_FLAG_SPEC_ALLOW (1UL << 2)
#endif

static int control;
static struct sock_fprog program;

static long load(unsigned long flags)
{
	return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program);
}

// One byte on control asks to load the program; the answer is an int: 0, an
// errno, or -1 when a thread could not follow.
static void *filter_thread(void *unused)
{
	char go;
	ssize_t n;
	do
		n = read(control, &go, 1);
	while (n < 0 && errno == EINTR);
	if (n != 1)
		return NULL;
	long rc = load(SECCOMP_FILTER_FLAG_TSYNC | SECCOMP_FILTER_FLAG_SPEC_ALLOW);
	if (rc < 0 && errno == EINVAL) // before Linux 4.17
		rc = load(SECCOMP_FILTER_FLAG_TSYNC);
	int answer = rc == 0 ? 0 : rc < 0 ? errno : -1;
	n = write(control, &answer, sizeof(answer));
	return (void *)n;
}

// The thread is not one of Go's: with one processor, as in a container's init,
// a blocked goroutine would hold up the others.
static int start_filter_thread(int fd, struct sock_filter *insns, unsigned short len)
{
	control = fd;
	program.len = len;
	program.filter = insns;

	pthread_attr_t attr;
	pthread_t thread;
	sigset_t all, old;
	int err = pthread_attr_init(&attr);
	if (err)
		return err;
	pthread_attr_setstacksize(&attr, 128 * 1024);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old); // signals are for Go's threads
	err = pthread_create(&thread, &attr, filter_thread, NULL);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	pthread_attr_destroy(&attr);
	return err;
}
*/
import "C"

// embedded says that libcontainer can start containers in this binary.
const embedded = true

// startFilterThread starts the thread that loads insns, struct sock_filter
// values that stay mapped, when control says so.
func startFilterThread(control int, insns []byte) error {
	first := (*C.struct_sock_filter)(unsafe.Pointer(unsafe.SliceData(insns)))
	n := len(insns) / C.sizeof_struct_sock_filter
	if errno := C.start_filter_thread(C.int(control), first, C.ushort(n)); errno != 0 {
		return fmt.Errorf("start the thread of the syscall filter: %w", syscall.Errno(errno))
	}
	runtime.KeepAlive(insns)
	return nil
}
