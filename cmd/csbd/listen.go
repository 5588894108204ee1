package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/coreos/go-systemd/v22/activation"
	"golang.org/x/sys/unix"
)

// listen returns the socket that systemd passes, or makes one.
func listen(c config) (*net.UnixListener, error) {
	passed, err := activation.Listeners()
	if err != nil {
		return nil, fmt.Errorf("sockets from systemd: %w", err)
	}
	if len(passed) > 1 {
		return nil, fmt.Errorf("sockets from systemd: got %d, want one", len(passed))
	}
	if len(passed) == 1 {
		l, ok := passed[0].(*net.UnixListener)
		if !ok || l.Addr().Network() != "unix" {
			return nil, fmt.Errorf("sockets from systemd: want a Unix stream socket (ListenStream=), got %s", passed[0].Addr().Network())
		}
		l.SetUnlinkOnClose(false)
		return l, nil
	}
	gid, err := lookupGroup("CSBD_SOCKET_GROUP", c.SocketGroup)
	if err != nil {
		return nil, err
	}
	return createSocket(c.Socket, fs.FileMode(c.SocketMode), gid)
}

// createSocket makes a socket in a directory that it makes if need be. A gid of
// -1 leaves it csbd's own group.
func createSocket(path string, mode fs.FileMode, gid int) (*net.UnixListener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	if err := removeStale(path); err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	// Connecting needs write permission: until group and mode are in place,
	// nobody but root has it.
	before := unix.Umask(0o777)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	unix.Umask(before)
	if err != nil {
		return nil, err
	}
	if err = os.Chown(path, -1, gid); err == nil {
		err = os.Chmod(path, mode)
	}
	if err != nil {
		l.Close()
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	return l, nil
}

// lookupGroup is the gid that a variable names, -1 if it is empty.
func lookupGroup(variable, name string) (int, error) {
	if name == "" {
		return -1, nil
	}
	if id, err := strconv.ParseUint(name, 10, 31); err == nil {
		return int(id), nil
	}
	g, err := user.LookupGroup(name)
	if err != nil {
		return 0, fmt.Errorf("environment: %s=%q: %w", variable, name, err)
	}
	return strconv.Atoi(g.Gid)
}

// removeStale removes the socket of a csbd that is gone. It touches nothing
// else: not another kind of file, another user's socket, or one that somebody
// listens on.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().Type() != fs.ModeSocket {
		return errors.New("something that is not a socket is there")
	}
	if owner := info.Sys().(*syscall.Stat_t).Uid; int(owner) != os.Geteuid() {
		return fmt.Errorf("a socket of uid %d is there", owner)
	}
	c, err := net.Dial("unix", path)
	if err == nil {
		c.Close()
		return errors.New("another process listens on it")
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return err
	}
	return os.Remove(path)
}
