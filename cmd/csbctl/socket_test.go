package main

import (
	"net"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"gotest.tools/v3/assert"
)

func TestDefaultSocket(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	listen := func(name string) string {
		l, err := net.Listen("unix", name)
		assert.NilError(t, err)
		t.Cleanup(func() { l.Close() })
		return name
	}
	system, own := listen("system"), listen("own")
	assert.NilError(t, os.WriteFile("file", nil, 0o600))
	assert.NilError(t, os.Symlink(own, "link"))
	assert.NilError(t, os.Symlink("nowhere", "dangling"))
	assert.NilError(t, os.WriteFile("plain", nil, 0o600))
	for _, test := range []struct{ system, own, want string }{
		{system, own, system},
		{"none", own, own},
		{"none", "gone", "none"},      // the error names the system's
		{"none", "file", "none"},      // not a socket
		{"none", "link", "none"},      // nor a way to somebody else's
		{"dangling", own, "dangling"}, // what is there is not passed over
		{"plain/x", own, "plain/x"},   // nor what cannot be looked at
		{"none", filepath.Join(dir, own), filepath.Join(dir, own)},
	} {
		assert.Equal(t, defaultSocket(test.system, test.own), test.want, "%+v", test)
	}
	if os.Geteuid() == 0 {
		assert.NilError(t, os.Chown(own, 54321, -1))
		assert.Equal(t, defaultSocket("none", own), "none", "another user's socket")
	}
}

func TestOwnSocket(t *testing.T) {
	env := func(value string) func(string) string {
		return func(name string) string {
			assert.Equal(t, name, "XDG_RUNTIME_DIR")
			return value
		}
	}
	assert.Equal(t, ownSocket(env("/run/x")), "/run/x/csbd/csbd.sock")
	fallback := "/run/user/" + strconv.Itoa(os.Geteuid()) + "/csbd/csbd.sock"
	assert.Equal(t, ownSocket(env("")), fallback)
	assert.Equal(t, ownSocket(env("relative")), fallback)
}
