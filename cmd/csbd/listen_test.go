package main_test

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/fcarli/codesandbox/rpc/server/servertest"
)

// socketAt makes a Unix socket that nobody listens on any more.
func socketAt(t *testing.T, path string) {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	assert.NilError(t, err)
	l.SetUnlinkOnClose(false)
	assert.NilError(t, l.Close())
}

// TestSocketTaken puts something where the socket is to be. What is not a
// stale socket of csbd's own stays as it is.
func TestSocketTaken(t *testing.T) {
	t.Parallel()
	servertest.NeedRoot(t)
	for _, test := range []struct {
		name, says string
		make       func(t *testing.T, path string)
	}{
		{"by a file", "not a socket", func(t *testing.T, path string) {
			assert.NilError(t, os.WriteFile(path, []byte("precious"), 0o600))
		}},
		{"by a directory", "not a socket", func(t *testing.T, path string) {
			assert.NilError(t, os.Mkdir(path, 0o700))
		}},
		{"by a link to a stale socket", "not a socket", func(t *testing.T, path string) {
			socketAt(t, path+".other")
			assert.NilError(t, os.Symlink(path+".other", path))
		}},
		{"by a listener", "another process listens", func(t *testing.T, path string) {
			l, err := net.Listen("unix", path)
			assert.NilError(t, err)
			t.Cleanup(func() { l.Close() })
		}},
		{"by a listener for datagrams", "", func(t *testing.T, path string) {
			c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
			assert.NilError(t, err)
			t.Cleanup(func() { c.Close() })
		}},
		{"by another user's stale socket", "uid 42001", func(t *testing.T, path string) {
			socketAt(t, path)
			assert.NilError(t, os.Chown(path, 42001, 42001))
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			dir := servertest.Dir(t)
			path := filepath.Join(dir, "csbd.sock")
			test.make(t, path)
			before, err := os.Lstat(path)
			assert.NilError(t, err)
			d := servertest.Start(t, servertest.Options{NoImages: true, Dir: dir, Unready: true, Foreign: true})
			assert.Equal(t, d.Wait(t), 1)
			assert.Check(t, strings.Contains(d.Log(), "listen on "+path) && strings.Contains(d.Log(), test.says), "%s", d.Log())
			after, err := os.Lstat(path)
			assert.NilError(t, err, "csbd removed what is not its own")
			assert.Check(t, os.SameFile(before, after) && before.Mode() == after.Mode() && before.ModTime().Equal(after.ModTime()))
		})
	}
	t.Run("by a stale socket", func(t *testing.T) {
		t.Parallel()
		dir := servertest.Dir(t)
		socketAt(t, filepath.Join(dir, "csbd.sock"))
		d := servertest.Start(t, servertest.Options{NoImages: true, Dir: dir})
		assert.Check(t, d.Dial(t).Call("version", nil).Error == nil)
	})
}

// TestSocketMode looks at the socket all the time from before it exists: it
// never lets anybody in whom it is not meant for.
func TestSocketMode(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		env  []string
		mode fs.FileMode
		gid  uint32
	}{
		{nil, 0o660, 0},
		{[]string{"CSBD_SOCKET_MODE=0600"}, 0o600, 0},
		{[]string{"CSBD_SOCKET_MODE=0666", "CSBD_SOCKET_GROUP=nogroup"}, 0o666, 65534},
		{[]string{"CSBD_SOCKET_GROUP=43000"}, 0o660, 43000},
	} {
		t.Run(fmt.Sprint(test.env), func(t *testing.T) {
			dir := servertest.Dir(t)
			path := filepath.Join(dir, "csbd.sock")
			var stop atomic.Bool
			watched := make(chan error)
			go func() {
				var wrong error
				for looks := 0; !stop.Load() || looks == 0; looks++ {
					info, err := os.Lstat(path)
					if err != nil {
						continue
					}
					// Nobody's yet, or entirely as it has to be.
					gid := info.Sys().(*syscall.Stat_t).Gid
					if mode := info.Mode().Perm(); mode != 0 && (mode != test.mode || gid != test.gid) {
						wrong = fmt.Errorf("mode %v, group %d", mode, gid)
					}
				}
				watched <- wrong
			}()
			d := servertest.Start(t, servertest.Options{NoImages: true, Dir: dir, Env: test.env})
			stop.Store(true)
			assert.NilError(t, <-watched)
			info, err := os.Lstat(d.Socket)
			assert.NilError(t, err)
			assert.Check(t, info.Mode() == test.mode|fs.ModeSocket, "%v", info.Mode())
			assert.Equal(t, info.Sys().(*syscall.Stat_t).Gid, test.gid)
		})
	}
}

// TestSocketDirectory: csbd makes the directory of its socket.
func TestSocketDirectory(t *testing.T) {
	t.Parallel()
	dir := servertest.Dir(t)
	path := filepath.Join(dir, "a", "b", "csbd.sock")
	servertest.Start(t, servertest.Options{NoImages: true, Dir: dir, Env: []string{"CSBD_SOCKET=" + path}})
	assert.Check(t, servertest.Dial(t, path).Call("version", nil).Error == nil)
}

func TestActivation(t *testing.T) {
	t.Parallel()
	servertest.NeedRoot(t)
	script, err := filepath.Abs("testdata/activate.py")
	assert.NilError(t, err)
	wrapper := func(sockets ...string) []string {
		return append(append([]string{"/usr/bin/python3", script}, sockets...), "--")
	}

	t.Run("one socket", func(t *testing.T) {
		t.Parallel()
		dir := servertest.Dir(t)
		path := filepath.Join(dir, "csbd.sock")
		// CSBD_SOCKET and the other settings of it are systemd's business now.
		unused := filepath.Join(dir, "unused.sock")
		d := servertest.Start(t, servertest.Options{NoImages: true, Dir: dir, Wrapper: wrapper("stream", path), Foreign: true,
			Env: []string{"CSBD_SOCKET_MODE=0666", "CSBD_SOCKET=" + unused}})
		c := d.Dial(t)
		assert.Check(t, c.Call("version", nil).Error == nil)
		info, err := os.Lstat(path)
		assert.NilError(t, err)
		assert.Equal(t, info.Mode().Perm(), fs.FileMode(0o600))
		_, err = os.Lstat(unused)
		assert.Check(t, errors.Is(err, fs.ErrNotExist), "%v", err)
		d.Stop(t)
		_, err = os.Lstat(path)
		assert.NilError(t, err, "csbd removed systemd's socket")
	})
	for name, sockets := range map[string][]string{"datagrams": {"dgram"}, "two sockets": {"stream", "stream"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := servertest.Dir(t)
			var specs []string
			for i, kind := range sockets {
				specs = append(specs, kind, filepath.Join(dir, fmt.Sprintf("%d.sock", i)))
			}
			d := servertest.Start(t, servertest.Options{NoImages: true, Dir: dir, Wrapper: wrapper(specs...), Unready: true})
			assert.Equal(t, d.Wait(t), 1)
			assert.Check(t, strings.Contains(d.Log(), "sockets from systemd"), "%s", d.Log())
		})
	}
	t.Run("systemd-socket-activate", func(t *testing.T) {
		t.Parallel()
		tool, err := exec.LookPath("systemd-socket-activate")
		if err != nil {
			t.Skip("not on this machine: systemd-socket-activate")
		}
		dir := servertest.Dir(t)
		path := filepath.Join(dir, "csbd.sock")
		command := []string{tool, "--listen=" + path}
		// It passes on what it is told to, and waits for a first connection.
		for _, name := range []string{"CSBD_SOCKET", "CSBD_POLICY", "CSBD_STATE_DIR", "CSBD_IMAGE_DIR", "CSBD_RUNSC", "CSBD_SENTRY", "CSBD_LOG_FORMAT", "CSBD_CGROUP"} {
			if name != "CSBD_CGROUP" || os.Getenv(name) != "" {
				command = append(command, "--setenv="+name)
			}
		}
		d := servertest.Start(t, servertest.Options{NoImages: true, Dir: dir, Wrapper: command, Foreign: true, Unready: true})
		d.Eventually(t, "the socket", func() bool { _, err := os.Lstat(path); return err == nil })
		assert.Check(t, d.Dial(t).Call("version", nil).Error == nil)
		d.Signal(t, syscall.SIGTERM)
		assert.Equal(t, d.Wait(t), 0)
	})
}

func TestSecondDaemon(t *testing.T) {
	t.Parallel()
	d := servertest.Start(t, servertest.Options{NoImages: true})
	env := append(d.Environment(t), "CSBD_SOCKET="+d.Socket+"2")
	code, _, stderr := csbd(t, env[1:])
	assert.Check(t, code == 1 && strings.Contains(stderr, d.StateDir) && strings.Contains(stderr, "another csbd uses it"), "%d %s", code, stderr)
	assert.Check(t, d.Dial(t).Call("version", nil).Error == nil)
	assert.Check(t, len(d.Cgroups()) > 0, "the second has removed the first's control groups")
}
