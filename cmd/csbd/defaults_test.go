package main

import (
	"os"
	"path/filepath"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/fcarli/codesandbox/policy"
)

func TestDefaultsOfUser(t *testing.T) {
	home := t.TempDir()
	state := filepath.Join(home, ".local/state/csbd")
	system := config{Socket: "S", SocketMode: 0o660, Policy: "P", StateDir: "D"}
	of := func(environment map[string]string) (config, error) {
		c := system
		err := c.ofUser(1000, func(name string) (string, bool) {
			value, ok := environment[name]
			return value, ok
		})
		return c, err
	}

	c, err := of(map[string]string{"HOME": home})
	assert.NilError(t, err)
	assert.Equal(t, c.Socket, "/run/user/1000/csbd/csbd.sock")
	assert.Equal(t, c.SocketMode, fileMode(0o600))
	assert.Equal(t, c.StateDir, state)
	assert.Equal(t, c.Policy, filepath.Join(home, ".config/csbd/policy.yaml"))
	assert.Equal(t, c.ImageDir, systemImages)

	c, err = of(map[string]string{"HOME": home, "XDG_RUNTIME_DIR": "/r", "XDG_STATE_HOME": "/s", "XDG_CONFIG_HOME": "/c"})
	assert.NilError(t, err)
	assert.Equal(t, c.Socket, "/r/csbd/csbd.sock")
	assert.Equal(t, c.StateDir, "/s/csbd")
	assert.Equal(t, c.Policy, "/c/csbd/policy.yaml")

	// Relative paths do not count, says the specification.
	c, err = of(map[string]string{"HOME": home, "XDG_RUNTIME_DIR": "r", "XDG_STATE_HOME": "s", "XDG_CONFIG_HOME": "c"})
	assert.NilError(t, err)
	assert.Equal(t, c.Socket, "/run/user/1000/csbd/csbd.sock")
	assert.Equal(t, c.StateDir, state)
	assert.Equal(t, c.Policy, filepath.Join(home, ".config/csbd/policy.yaml"))

	// What was said stays.
	said := map[string]string{"HOME": home, "CSBD_SOCKET": "", "CSBD_SOCKET_MODE": "", "CSBD_STATE_DIR": "", "CSBD_POLICY": "", "CSBD_IMAGE_DIR": ""}
	c, err = of(said)
	assert.NilError(t, err)
	assert.Assert(t, c == system, "%+v", c)

	// Images of his own come first.
	assert.NilError(t, os.MkdirAll(filepath.Join(state, "images"), 0o755))
	c, err = of(map[string]string{"HOME": home})
	assert.NilError(t, err)
	assert.Equal(t, c.ImageDir, filepath.Join(state, "images"))

	_, err = of(map[string]string{"XDG_CONFIG_HOME": "/c"})
	assert.ErrorContains(t, err, "CSBD_STATE_DIR")
	c, err = of(map[string]string{"CSBD_STATE_DIR": "/s"})
	assert.NilError(t, err)
	assert.Equal(t, c.Policy, "D/policy.yaml") // beside it; there is no other place
}

// The policy of a user who has none lets that user in and nobody else; one that
// was named has to be there.
func TestPolicyOfUser(t *testing.T) {
	file := filepath.Join(t.TempDir(), "policy.yaml")
	c := config{Policy: file, ownPolicy: true}
	assert.Equal(t, c.policyName(), builtIn)
	p, err := c.loadPolicy()
	assert.NilError(t, err)
	profile, _, err := p.Match(policy.Caller{UID: uint32(os.Geteuid())})
	assert.NilError(t, err)
	assert.Equal(t, profile.Name, "default")
	_, _, err = p.Match(policy.Caller{UID: uint32(os.Geteuid()) + 1, Groups: []uint32{uint32(os.Getegid())}})
	assert.ErrorContains(t, err, "no rule")
	assert.Equal(t, len(p.AllowUnenforced), 0)
	assert.Equal(t, len(p.Pools), 1)

	_, err = config{Policy: file}.loadPolicy()
	assert.ErrorIs(t, err, os.ErrNotExist)
	assert.NilError(t, os.Symlink("nowhere", file))
	_, err = c.loadPolicy()
	assert.ErrorIs(t, err, os.ErrNotExist, "a link that leads nowhere is not no policy")
	assert.NilError(t, os.Remove(file))
	assert.NilError(t, os.WriteFile(file, []byte("version: 1\nprofiles: {default: {}}\nrules: []\n"), 0o644))
	p, err = c.loadPolicy()
	assert.NilError(t, err)
	assert.Equal(t, len(p.Pools), 0)
	assert.Equal(t, c.policyName(), file)
}
