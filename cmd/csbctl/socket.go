package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

// systemSocket is the socket of root's csbd.
const systemSocket = "/run/csbd/csbd.sock"

// ownSocket is where a csbd that this user runs has its socket: csbd decides the
// same way.
func ownSocket(getenv func(string) string) string {
	dir := getenv("XDG_RUNTIME_DIR")
	if !filepath.IsAbs(dir) {
		dir = filepath.Join("/run/user", strconv.Itoa(os.Geteuid()))
	}
	return filepath.Join(dir, "csbd", "csbd.sock")
}

// defaultSocket is the socket to connect to when none is named: the system's,
// and only where that does not exist one that the caller owns. So nobody is
// led away from the system's csbd, which isolates better, by a socket that is
// merely there, nor root to another user's csbd by a variable.
func defaultSocket(system, own string) string {
	if _, err := os.Lstat(system); !errors.Is(err, fs.ErrNotExist) {
		return system
	}
	info, err := os.Lstat(own)
	if err != nil || info.Mode().Type() != fs.ModeSocket {
		return system
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); !ok || int(stat.Uid) != os.Geteuid() {
		return system
	}
	return own
}
