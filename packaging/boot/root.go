// Package boot boots Debian with a real systemd, as a container and as a
// virtual machine, for whoever wants to see csbd's packages at work there:
// `make test` and `make test-vm`.
package boot

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A Root is a root filesystem: Debian bookworm with systemd.
type Root struct {
	// Packages come on top of apt and systemd.
	Packages []string
	// Before and After are shell commands that run before and after Packages are
	// installed, with the tree's path as $1.
	Before, After string
}

// Make returns the directory of the root below cache. It is made by the first
// who asks for it (root, mmdebstrap and a Debian mirror are needed, and a
// minute) and nobody may change it.
func (r Root) Make(ctx context.Context, cache string) (string, error) {
	args := []string{
		"--variant=minbase", "--format=directory", // not --quiet, which drops what apt says on failure
		"--include=" + strings.Join(append([]string{"systemd", "systemd-sysv", "dbus"}, r.Packages...), ","),
		`--aptopt=APT::Install-Recommends "false"`,
	}
	for _, path := range []string{"doc", "info", "locale"} {
		args = append(args, "--dpkgopt=path-exclude=/usr/share/"+path+"/*")
	}
	// Licences and changelogs of the package that is tested are installed.
	args = append(args, "--dpkgopt=path-include=/usr/share/doc/csbd*")
	if r.Before != "" {
		args = append(args, "--essential-hook="+r.Before)
	}
	if r.After != "" {
		args = append(args, "--customize-hook="+r.After)
	}
	digest := sha256.Sum256([]byte(strings.Join(args, "\x00")))
	tree := filepath.Join(cache, "root-"+hex.EncodeToString(digest[:6]))
	return tree, once(tree, func(unfinished string) error {
		cmd := exec.CommandContext(ctx, "mmdebstrap", append(args, "bookworm", unfinished)...)
		cmd.WaitDelay = 10 * time.Second
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("mmdebstrap: %w: %s", err, lastLines(out))
		}
		return nil
	})
}

// once has make put something at a path and moves it to its place, unless it is
// there. Processes that want the same wait for one another.
func once(path string, make func(unfinished string) error) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	lock, err := os.OpenFile(path+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return fmt.Errorf("lock %s: %w", lock.Name(), err)
	}
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	unfinished := path + ".unfinished"
	if err := os.RemoveAll(unfinished); err != nil {
		return err
	}
	if err := make(unfinished); err != nil {
		return err
	}
	return os.Rename(unfinished, path)
}

// lastLines is the end of what a program said.
func lastLines(out []byte) string {
	lines := bytes.Split(bytes.TrimSpace(out), []byte("\n"))
	return string(bytes.Join(lines[max(0, len(lines)-20):], []byte("\n")))
}
