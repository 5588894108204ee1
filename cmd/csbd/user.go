package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"github.com/fcarli/codesandbox/policy"
)

// systemImages is where root's csbd has its images, which everybody may read.
const systemImages = "/var/lib/csbd/images"

// ofUser replaces the defaults, which are root's, by those of an ordinary user:
// the directories of the XDG base directory specification. lookup is
// os.LookupEnv; what it has of csbd's own variables stays.
func (c *config) ofUser(uid int, lookup func(string) (string, bool)) error {
	unset := func(name string) bool { _, ok := lookup("CSBD_" + name); return !ok }
	// dir is the directory of csbd's that the variable means, or else fallback
	// below the home directory; "" if there is neither.
	dir := func(variable, fallback string) string {
		if d, _ := lookup(variable); filepath.IsAbs(d) {
			return filepath.Join(d, "csbd")
		}
		if home, _ := lookup("HOME"); filepath.IsAbs(home) {
			return filepath.Join(home, fallback, "csbd")
		}
		return ""
	}
	if unset("SOCKET") {
		// pam_systemd(8) makes the directory when the user logs in.
		runtime, _ := lookup("XDG_RUNTIME_DIR")
		if !filepath.IsAbs(runtime) {
			runtime = filepath.Join("/run/user", strconv.Itoa(uid))
		}
		c.Socket = filepath.Join(runtime, "csbd", "csbd.sock")
	}
	if unset("SOCKET_MODE") {
		c.SocketMode = 0o600
	}
	if unset("STATE_DIR") {
		if c.StateDir = dir("XDG_STATE_HOME", ".local/state"); c.StateDir == "" {
			return errors.New("HOME does not say where to keep state: set CSBD_STATE_DIR")
		}
	}
	if unset("POLICY") {
		c.ownPolicy = true
		if c.Policy = dir("XDG_CONFIG_HOME", ".config"); c.Policy == "" {
			c.Policy = c.StateDir
		}
		c.Policy = filepath.Join(c.Policy, "policy.yaml")
	}
	if unset("IMAGE_DIR") {
		c.ImageDir = filepath.Join(c.StateDir, "images")
		if _, err := os.Stat(c.ImageDir); errors.Is(err, fs.ErrNotExist) {
			c.ImageDir = systemImages
		}
	}
	return nil
}

// userPolicy is the policy of an ordinary user who has written none.
const userPolicy = `version: 1
profiles:
  default: {}
rules:
  - {user: "%d", profile: default}
pools:
  - {image: python, profile: default, ready: 1, max: 4}
`

// loadPolicy reads the policy: the file or, for an ordinary user who has not
// named one and has none, a policy that lets this user run programs within the
// built-in limits, and nobody else.
func (c config) loadPolicy() (*policy.Policy, error) {
	if c.policyName() == builtIn {
		return policy.Parse(policy.Source{Name: builtIn, Data: fmt.Appendf(nil, userPolicy, os.Geteuid())})
	}
	return policy.Load(c.Policy)
}

const builtIn = "built-in policy"

// policyName is the file that is the policy, or builtIn.
func (c config) policyName() string {
	if _, err := os.Lstat(c.Policy); c.ownPolicy && errors.Is(err, fs.ErrNotExist) {
		return builtIn
	}
	return c.Policy
}
