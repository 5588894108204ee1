// Package cgroup keeps one control group for each sandbox, on version 1 and
// version 2 hierarchies: it starts processes inside it, limits them, reads
// what they used, and kills and removes them together.
package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Limits of a policy that a control group enforces, by their policy names.
const (
	Memory    = "memory"
	Processes = "processes"
	CPUs      = "cpus"
	CPUTime   = "cpu_time"
)

// A Root holds the control groups of one csbd.
type Root struct {
	v2      bool
	mount   string            // v2: of the hierarchy
	dirs    map[string]string // controller → directory of the root; "" on v2
	made    []string          // parents that did not exist before
	homes   []string          // v1: our own cgroup in each of these hierarchies
	missing []string
	spawn   chan func()
}

// Open prepares the place for control groups. base is a path below the
// hierarchy's root ("/csbd") or empty for csbd's own cgroup; name tells the
// csbds of one machine apart.
//
// On version 2 a cgroup with processes cannot have limited children, so with
// an empty base csbd must be alone in its cgroup (Delegate=yes does that) and
// is moved into a leaf of it.
func Open(base, name string) (*Root, error) {
	if base != "" && (!filepath.IsAbs(base) || filepath.Clean(base) != base) {
		return nil, fmt.Errorf("cgroup %q: has to be an absolute, clean path below the hierarchy's root", base)
	}
	h, err := readHierarchies()
	if err != nil {
		return nil, err
	}
	r := &Root{dirs: map[string]string{}, spawn: make(chan func())}
	if h.v1["memory"] == nil && h.v1["pids"] == nil && h.v2 != nil {
		r.v2 = true
		err = r.openV2(h.v2, base, name)
	} else {
		err = r.openV1(h.v1, base, name)
	}
	if err != nil {
		return nil, err
	}
	go r.spawner()
	return r, nil
}

// advice is for whoever gave csbd no place for control groups.
const advice = "run csbd as a systemd service with Delegate=yes, or set CSBD_CGROUP to a cgroup that it may write to"

func (r *Root) openV1(all map[string]*hierarchy, base, name string) error {
	var refused error
	for controller, limit := range map[string]string{"memory": Memory, "pids": Processes, "cpu": CPUs, "cpuacct": CPUTime} {
		h := all[controller]
		if h == nil {
			r.missing = append(r.missing, limit)
			continue
		}
		dir := filepath.Join(h.mount, h.own, name)
		if base != "" {
			dir = filepath.Join(h.mount, base, name)
		}
		if err := r.mkdir(dir); err != nil {
			refused = err
			r.missing = append(r.missing, limit)
			continue
		}
		r.dirs[controller] = dir
		home := filepath.Join(h.mount, h.own)
		if unix.Access(filepath.Join(home, "tasks"), unix.W_OK) != nil {
			home = dir // an ordinary user whose cgroup is root's: the thread stays beside the sandboxes
		}
		if !slices.Contains(r.homes, home) {
			r.homes = append(r.homes, home)
		}
	}
	if len(r.dirs) == 0 && refused != nil {
		// Without any, a sandbox that does not start could not be ended either.
		return fmt.Errorf("create cgroup: %w: %s", refused, advice)
	}
	slices.Sort(r.missing)
	return nil
}

func (r *Root) openV2(h *hierarchy, base, name string) error {
	parent := filepath.Join(h.mount, base)
	if base == "" {
		var err error
		if parent, err = vacate(filepath.Join(h.mount, h.own)); err != nil {
			return err
		}
	}
	dir := filepath.Join(parent, name)
	if err := r.mkdir(dir); err != nil {
		return fmt.Errorf("create cgroup: %w: %s", err, advice)
	}
	r.mount, r.dirs[""] = h.mount, dir
	r.handDown()
	for c, limit := range v2Controllers {
		if !handedDown(dir, c) {
			r.missing = append(r.missing, limit)
		}
	}
	slices.Sort(r.missing)
	return nil
}

// v2Controllers are the controllers that are needed on version 2, with their
// limits.
var v2Controllers = map[string]string{"memory": Memory, "pids": Processes, "cpu": CPUs}

// handDown has each ancestor of the root hand the controllers down; those above
// a delegated cgroup have done so already and are not ours to write to.
func (r *Root) handDown() {
	dir := r.dirs[""]
	var steps []string
	for d := dir; len(d) > len(r.mount) || d == r.mount; d = filepath.Dir(d) {
		steps = append([]string{d}, steps...)
	}
	for _, d := range steps {
		for c := range v2Controllers {
			if !handedDown(d, c) {
				_ = os.WriteFile(filepath.Join(d, "cgroup.subtree_control"), []byte("+"+c), 0)
			}
		}
	}
}

// makeAgain makes a directory of the root's that somebody has removed. What it
// cannot hand down is missed when a limit is set.
func (r *Root) makeAgain(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if r.v2 {
		r.handDown()
	}
	return nil
}

func handedDown(dir, controller string) bool {
	data, _ := os.ReadFile(filepath.Join(dir, "cgroup.subtree_control"))
	return slices.Contains(strings.Fields(string(data)), controller)
}

// leafName is the cgroup that csbd itself lives in on version 2.
const leafName = "csbd"

// vacate moves this process out of its version 2 cgroup into a leaf of it, and
// returns the cgroup that is now free to have limited children. With
// DelegateSubgroup=csbd systemd has put it into the leaf already.
func vacate(own string) (string, error) {
	pids, err := readPids(filepath.Join(own, "cgroup.procs"))
	if err != nil {
		return "", fmt.Errorf("read own cgroup: %w", err)
	}
	for _, pid := range pids {
		if pid != os.Getpid() {
			return "", fmt.Errorf("cgroup %s also holds process %d, so that it cannot have limited children: %s", own, pid, advice)
		}
	}
	if filepath.Base(own) == leafName {
		return filepath.Dir(own), nil
	}
	leaf := filepath.Join(own, leafName)
	if err := os.MkdirAll(leaf, 0o755); err != nil {
		return "", fmt.Errorf("create cgroup: %w: %s", err, advice)
	}
	if err := os.WriteFile(filepath.Join(leaf, "cgroup.procs"), []byte("0"), 0); err != nil {
		return "", fmt.Errorf("move csbd into %s: %w", leaf, err)
	}
	return own, nil
}

// Version is 1 or 2.
func (r *Root) Version() int {
	if r.v2 {
		return 2
	}
	return 1
}

// Missing names the limits that cannot be enforced here, sorted.
func (r *Root) Missing() []string { return r.missing }

// Dirs lists the directories of the root, one per hierarchy, for Sweep by a
// later csbd.
func (r *Root) Dirs() []string {
	var dirs []string
	for _, d := range r.dirs {
		if !slices.Contains(dirs, d) {
			dirs = append(dirs, d)
		}
	}
	slices.Sort(dirs)
	return dirs
}

// Sweep kills and removes every control group below the given directories of a
// Root: what a csbd that was killed left behind. It returns how many it found.
func Sweep(dirs []string) (int, error) {
	var errs []error
	found := 0
	for _, dir := range dirs {
		entries, err := os.ReadDir(dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		for _, e := range entries {
			if !e.IsDir() {
				continue
			}
			found++
			child := filepath.Join(dir, e.Name())
			if err := killAll([]string{child}); err != nil {
				errs = append(errs, err)
			}
			if err := removeDir(child); err != nil {
				errs = append(errs, err)
			}
		}
	}
	return found, errors.Join(errs...)
}

// mkdir creates dir and remembers its parent if that is new too.
func (r *Root) mkdir(dir string) error {
	parent := filepath.Dir(dir)
	if _, err := os.Stat(parent); errors.Is(err, fs.ErrNotExist) {
		r.made = append(r.made, parent)
	}
	return os.MkdirAll(dir, 0o755)
}

// Close removes the root's own directories, which have to be empty.
func (r *Root) Close() error {
	close(r.spawn)
	var errs []error
	for _, d := range r.Dirs() {
		errs = append(errs, removeDir(d))
	}
	for _, parent := range r.made {
		_ = unix.Rmdir(parent) // another csbd may be in there
	}
	return errors.Join(errs...)
}

// killAll kills what lives in the given directories of one group.
func killAll(dirs []string) error {
	deadline := time.Now().Add(10 * time.Second)
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		alive := 0
		for _, d := range dirs {
			if err := os.WriteFile(filepath.Join(d, "cgroup.kill"), []byte("1"), 0); err != nil {
				// Version 1, or a kernel before 5.14: one by one, again until
				// nobody is left to fork.
				pids, err := readPids(filepath.Join(d, "cgroup.procs"))
				if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENODEV) {
					return err
				}
				for _, pid := range pids {
					if pid > 1 && pid != os.Getpid() {
						_ = unix.Kill(pid, unix.SIGKILL)
					}
				}
			}
			pids, _ := readPids(filepath.Join(d, "cgroup.procs"))
			alive += len(pids)
		}
		if alive == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("kill cgroup %s: %d processes survive", dirs[0], alive)
		}
		time.Sleep(wait)
	}
}

func removeDir(dir string) error {
	deadline := time.Now().Add(5 * time.Second)
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		err := unix.Rmdir(dir)
		if err == nil || errors.Is(err, unix.ENOENT) {
			return nil
		}
		if !errors.Is(err, unix.EBUSY) || time.Now().After(deadline) {
			return fmt.Errorf("remove cgroup %s: %w", dir, err)
		}
		time.Sleep(wait)
	}
}
