// Package runsc runs sandboxes with gVisor: one sentry for each, in a control
// group of its own, started directly (docs/decisions/0010-direct-start.md) or by
// runsc's command line, cold or from a snapshot.
package runsc

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fcarli/codesandbox/isolation"
	"github.com/fcarli/codesandbox/isolation/cgroup"
)

// A Runtime is one runsc binary and the directory in which its sandboxes live.
type Runtime struct {
	binary   string
	version  string
	digest   string // of the binary that sandboxes are started with
	platform string
	dir      string // one directory for each sandbox
	cgroups  *cgroup.Root
	lock     *os.File
	log      *slog.Logger
	booter   booter

	snapshots *snapshots
	litter    litter
}

// Options say how a Runtime is set up.
type Options struct {
	// Binary is the path of runsc, or of csbd-sentry.
	Binary string
	// Direct says that Binary is csbd-sentry, and that sandboxes are started
	// without runsc's command line.
	Direct bool
	// Platform is gVisor's: "systrap" (default when empty) or "kvm".
	Platform string
	// StateDir is csbd's own directory. No other process may use it.
	StateDir string
	// Cgroup is the cgroup below which sandboxes live; see cgroup.Open.
	Cgroup string
	// SnapshotAge is how old a snapshot may get: sandboxes that are restored from
	// the same one share hash seed and address layout. 0 is forever.
	SnapshotAge time.Duration
	Log         *slog.Logger
}

// Open takes possession of the state directory, removes what a predecessor
// that was killed left in it, and checks that runsc answers.
func Open(ctx context.Context, o Options) (*Runtime, error) {
	if !o.Direct && os.Geteuid() != 0 {
		return nil, errors.New("runsc's command line cannot restore sandboxes without root: use csbd-sentry (CSBD_LAUNCHER=direct)")
	}
	stateDir, err := filepath.Abs(o.StateDir)
	if err != nil {
		return nil, err
	}
	binary, err := filepath.Abs(o.Binary)
	if err != nil {
		return nil, err
	}
	version, err := BinaryVersion(ctx, binary)
	if err != nil {
		return nil, err
	}
	if own := BuiltFor(); o.Direct && own != "" && version != own {
		return nil, fmt.Errorf("%s has gVisor %s, this csbd was built with %s: install them together", binary, version, own)
	}
	digest, err := isolation.DigestFile(binary)
	if err != nil {
		return nil, err
	}
	r := &Runtime{binary: binary, version: version, digest: digest, platform: o.Platform, dir: filepath.Join(stateDir, "sandboxes"), log: o.Log}
	if r.platform == "" {
		r.platform = "systrap"
	}
	if r.booter = (stock{r}); o.Direct {
		r.booter = &direct{runtime: r, dir: filepath.Join(stateDir, "spawner")}
	}
	r.snapshots = newSnapshots(r, stateDir, o.SnapshotAge)
	if err := os.MkdirAll(r.dir, 0o700); err != nil {
		return nil, fmt.Errorf("create state directory: %w", err)
	}
	if r.lock, err = lockDir(stateDir); err != nil {
		return nil, err
	}
	if err := errors.Join(r.sweep(stateDir), r.snapshots.clean()); err != nil {
		r.lock.Close()
		return nil, fmt.Errorf("remove what an earlier csbd left: %w", err)
	}
	if r.cgroups, err = cgroup.Open(o.Cgroup, cgroupName(stateDir)); err != nil {
		r.lock.Close()
		return nil, err
	}
	list := strings.Join(r.cgroups.Dirs(), "\n") + "\n"
	if err := os.WriteFile(filepath.Join(stateDir, cgroupList), []byte(list), 0o600); err != nil {
		_ = r.Close()
		return nil, err
	}
	if err := r.booter.open(); err != nil {
		_ = r.Close()
		return nil, err
	}
	return r, nil
}

// cgroupList is the file that remembers, for the next csbd, where this one's
// control groups are.
const cgroupList = "cgroups"

// cgroupName is the same for every csbd on this state directory, and another
// for any other.
func cgroupName(stateDir string) string {
	return "csbd-" + shortHash(stateDir)
}

// Version is what runsc says of itself.
func (r *Runtime) Version() string { return r.version }

// Unenforceable names the policy limits that this host cannot enforce.
func (r *Runtime) Unenforceable() []string { return r.cgroups.Missing() }

// CgroupVersion is 1 or 2.
func (r *Runtime) CgroupVersion() int { return r.cgroups.Version() }

// Leftovers counts directories and control groups of sandboxes that exist now.
func (r *Runtime) Leftovers() (directories, cgroups int) {
	entries, _ := os.ReadDir(r.dir)
	for _, d := range r.cgroups.Dirs() {
		children, _ := os.ReadDir(d)
		for _, c := range children {
			if c.IsDir() {
				cgroups++
			}
		}
	}
	return len(entries), cgroups
}

// Close gives the state directory up. Every sandbox has to be closed before.
func (r *Runtime) Close() error {
	return errors.Join(r.booter.close(), r.cgroups.Close(), r.litter.removeAll(), r.lock.Close())
}

// sweep removes what a predecessor left: processes, control groups, mounts,
// directories.
func (r *Runtime) sweep(stateDir string) error {
	dirs, err := readLines(filepath.Join(stateDir, cgroupList))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, d := range dirs {
		if filepath.Base(d) != cgroupName(stateDir) {
			return fmt.Errorf("%s names %q, which is not a cgroup of this state directory: remove the file",
				filepath.Join(stateDir, cgroupList), d)
		}
	}
	found, err := cgroup.Sweep(dirs)
	if err != nil {
		return err
	}
	mounts, err := mountsBelow(r.dir)
	if err != nil {
		return err
	}
	for _, m := range mounts {
		if err := unix.Unmount(m, unix.MNT_DETACH); err != nil {
			return fmt.Errorf("unmount %s: %w", m, err)
		}
	}
	entries, err := os.ReadDir(r.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := os.RemoveAll(filepath.Join(r.dir, e.Name())); err != nil {
			return err
		}
	}
	if found+len(mounts)+len(entries) > 0 {
		r.log.Warn("removed what an earlier csbd left", "cgroups", found, "mounts", len(mounts), "directories", len(entries))
	}
	return nil
}

// mountsBelow lists the mount points below dir, innermost first.
func mountsBelow(dir string) ([]string, error) {
	lines, err := readLines("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	var found []string
	for _, line := range lines {
		if fields := strings.Fields(line); len(fields) > 4 && strings.HasPrefix(fields[4], dir+"/") {
			found = append([]string{fields[4]}, found...)
		}
	}
	return found, nil
}

func readLines(file string) ([]string, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var lines []string
	s := bufio.NewScanner(f)
	for s.Scan() {
		if s.Text() != "" {
			lines = append(lines, s.Text())
		}
	}
	return lines, s.Err()
}

func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock state directory: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock state directory %s: another csbd uses it: %w", dir, err)
	}
	return f, nil
}

func bounded(b []byte, n int) []byte {
	if len(b) > n {
		return b[len(b)-n:]
	}
	return b
}

func newID() string {
	var b [8]byte
	if _, err := rand.Read(b[:]); err != nil {
		panic("no randomness: " + err.Error())
	}
	return "sb-" + hex.EncodeToString(b[:])
}
