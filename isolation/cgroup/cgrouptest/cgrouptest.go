// Package cgrouptest gives ordinary users control groups, as systemd's
// Delegate= does. Only root can.
package cgrouptest

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"gotest.tools/v3/assert"
)

// A Delegation is a control group that belongs to a user, in each hierarchy that
// csbd uses. It is removed when the test is over.
type Delegation struct {
	// Path below each hierarchy's root, as for CSBD_CGROUP.
	Path string
	// Dirs are the directories, one for each hierarchy.
	Dirs []string
	// V2 says that it is a group of version 2, where a process of the user's can
	// use the group only from inside.
	V2 bool

	uid int
}

// controllers of csbd, by their names in version 1.
var controllers = []string{"memory", "pids", "cpu", "cpuacct"}

// Delegate gives the user a control group.
func Delegate(t testing.TB, uid int) Delegation {
	t.Helper()
	d := Delegation{Path: fmt.Sprintf("/csb-user-%d-%d", uid, os.Getpid()), uid: uid}
	mounts, v2 := hierarchies(t)
	d.V2 = v2
	for _, mount := range mounts {
		dir := filepath.Join(mount, d.Path)
		d.Dirs = append(d.Dirs, dir)
		files := []string{"."}
		if v2 {
			for _, c := range []string{"memory", "pids", "cpu"} {
				_ = os.WriteFile(filepath.Join(mount, "cgroup.subtree_control"), []byte("+"+c), 0)
			}
			// cgroups(7), "Delegation".
			files = append(files, "cgroup.procs", "cgroup.subtree_control", "cgroup.threads")
		}
		assert.NilError(t, os.Mkdir(dir, 0o755))
		t.Cleanup(func() { assert.Check(t, remove(dir)) })
		for _, f := range files {
			assert.NilError(t, os.Chown(filepath.Join(dir, f), uid, uid))
		}
	}
	return d
}

// Command is the beginning of a command that executes what is appended to it as
// the user, who is in no other group than that of the same number; inside the
// control group if enter is set.
func (d Delegation) Command(enter bool) []string {
	script := ""
	if enter {
		for _, dir := range d.Dirs {
			script += fmt.Sprintf("echo $$ > %s/cgroup.procs && ", dir)
		}
	}
	script += fmt.Sprintf(`exec setpriv --reuid %d --regid %[1]d --clear-groups "$@"`, d.uid)
	return []string{"/bin/sh", "-c", script, "sh"}
}

// hierarchies lists the mount points of csbd's controllers, or of version 2
// where version 1 has none of them.
func hierarchies(t testing.TB) (mounts []string, v2 bool) {
	t.Helper()
	data, err := os.ReadFile("/proc/self/mountinfo")
	assert.NilError(t, err)
	unified := ""
	for line := range strings.Lines(string(data)) {
		before, after, _ := strings.Cut(line, " - ")
		left, right := strings.Fields(before), strings.Fields(after)
		switch right[0] {
		case "cgroup2":
			unified = left[4]
		case "cgroup":
			for _, option := range strings.Split(right[2], ",") {
				if slices.Contains(controllers, option) && !slices.Contains(mounts, left[4]) {
					mounts = append(mounts, left[4])
				}
			}
		}
	}
	if len(mounts) == 0 {
		assert.Assert(t, unified != "", "no cgroup filesystem is mounted")
		return []string{unified}, true
	}
	return mounts, false
}

// remove removes a group and those that are left in it, once their processes
// have ended.
func remove(dir string) error {
	var err error
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		var dirs []string
		_ = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
			if err == nil && e.IsDir() {
				dirs = append(dirs, path)
			}
			return nil
		})
		slices.Reverse(dirs)
		err = nil
		for _, d := range dirs {
			err = errors.Join(err, os.Remove(d))
		}
		if err == nil {
			return nil
		}
	}
	return err
}
