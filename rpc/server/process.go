package server

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A process is what the audit says of a peer's: the executable, and the systemd
// unit or cgroup. What could not be made sure of is empty.
type process struct{ executable, unit string }

// processOf looks the peer's process up. Its number may be another process's by
// now: what is read from /proc counts only if the process that connected is
// still there afterwards. accepted is when the connection was, on the clock of
// sinceBoot.
func processOf(c *net.UnixConn, p peer, accepted time.Duration) process {
	if p.pid <= 0 {
		return process{} // in a PID namespace that is not ours to see
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return process{}
	}
	fd, inner := -1, error(nil)
	err = raw.Control(func(s uintptr) { fd, inner = unix.GetsockoptInt(int(s), unix.SOL_SOCKET, unix.SO_PEERPIDFD) })
	switch err = errors.Join(err, inner); {
	case err == nil:
		defer unix.Close(fd)
		return whileAlive(fd, p.pid)
	case errors.Is(err, unix.ENOPROTOOPT):
		return processByNumber(p, accepted)
	}
	return process{} // it is gone
}

// processByNumber is for kernels before 6.5, which do not give the process of a
// peer away. The one that has the number now is taken for it if it was started
// before the connection was accepted and is of the same user. (One of that user
// that got the number between connecting and accepting is not told apart.)
func processByNumber(p peer, accepted time.Duration) process {
	fd, err := unix.PidfdOpen(int(p.pid), 0)
	if err != nil {
		return process{}
	}
	defer unix.Close(fd)
	start, err := startOf(p.pid)
	if err != nil || start > accepted || !slices.Contains(usersOf(p.pid), p.uid) {
		return process{}
	}
	return whileAlive(fd, p.pid)
}

// whileAlive reads what /proc says of a process that fd is the pidfd of.
func whileAlive(fd int, pid int32) process {
	var found process
	found.executable, _ = os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	cgroups, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	found.unit = unitOf(cgroups)
	// A pidfd can be read from when its process has ended, and the number is
	// nobody else's before.
	poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	if n, err := unix.Poll(poll, 0); err != nil || n != 0 {
		return process{}
	}
	return found
}

// unitOf finds a systemd unit, or else the cgroup, in /proc/PID/cgroup.
func unitOf(cgroups []byte) (unit string) {
	for line := range strings.Lines(string(cgroups)) {
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(fields) == 3 && (fields[1] == "" && unit == "" || fields[1] == "name=systemd") {
			unit = fields[2]
		}
	}
	if base := path.Base(unit); strings.HasSuffix(base, ".service") || strings.HasSuffix(base, ".scope") {
		unit = base
	}
	return unit
}

// clockTicks is how many of /proc's ticks a second has, on every architecture
// that gVisor runs on.
const clockTicks = 100

// startOf is when a process was started, on the clock of sinceBoot.
func startOf(pid int32) (time.Duration, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// The name, in brackets, may have anything in it.
	fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
	if len(fields) < 20 {
		return 0, fmt.Errorf("/proc/%d/stat: %d fields", pid, len(fields))
	}
	ticks, err := strconv.ParseInt(fields[19], 10, 64)
	return time.Duration(ticks) * time.Second / clockTicks, err
}

// usersOf are the four uids of a process.
func usersOf(pid int32) (uids []uint32) {
	data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, "Uid:"); ok {
			for _, word := range strings.Fields(rest) {
				if n, err := strconv.ParseUint(word, 10, 32); err == nil {
					uids = append(uids, uint32(n))
				}
			}
		}
	}
	return uids
}

// sinceBoot is the time of the clock by which /proc says when a process was
// started.
func sinceBoot() time.Duration {
	var t unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &t) != nil {
		return 0 // no process was started before
	}
	return time.Duration(t.Nano())
}
