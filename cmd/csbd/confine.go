package main

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// kept are the capabilities that csbd uses, and what for.
var kept = map[uintptr]string{
	unix.CAP_CHOWN:        "give the socket to its group",
	unix.CAP_DAC_OVERRIDE: "directories of others: the socket's, the policy's",
	unix.CAP_FOWNER:       "the same",
	unix.CAP_KILL:         "end sandboxes",
	unix.CAP_SETGID:       "map the groups of sentries",
	unix.CAP_SETUID:       "map the users of sentries",
	unix.CAP_SETFCAP:      "map user 0 into the spawner's namespace (user_namespaces(7))",
	unix.CAP_SYS_PTRACE:   "see in /proc which program a caller is",
	unix.CAP_SYS_RESOURCE: "raise limits: locked memory of sentries, room in pipes, descriptors",
}

// confine gives up, for csbd and everything that it starts, whatever root can
// do that csbd does not. What a program executed by root may do is its bounding
// set: csbd lowers it, on one thread, and executes itself again. An ordinary
// user has no more to give up than set-user-ID programs.
func confine() error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	dropped := false
	if os.Geteuid() != 0 {
		has, err := unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)
		if err != nil || has == 1 {
			return err
		}
		return again()
	}
	for c := uintptr(0); ; c++ {
		has, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, c, 0, 0, 0)
		if errors.Is(err, unix.EINVAL) {
			break // there are no more
		}
		if err != nil {
			return fmt.Errorf("read bounding set: %w", err)
		}
		if _, keep := kept[c]; keep || has == 0 {
			continue
		}
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err != nil {
			return fmt.Errorf("drop capability %d: %w", c, err)
		}
		dropped = true
	}
	if !dropped {
		return nil
	}
	return again()
}

// again executes csbd anew, as what this thread may be.
func again() error {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("set no_new_privs: %w", err)
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	return fmt.Errorf("execute %s again: %w", self, syscall.Exec(self, os.Args, os.Environ()))
}
