package isolationtest

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sort"
	"strings"
	"testing"
	"time"

	"gotest.tools/v3/assert"
	"gotest.tools/v3/assert/cmp"
)

// noLeaks reports, when the test is over, what has been left behind since now.
// It has to be called before anything registers a clean-up that removes
// sandboxes.
func noLeaks(t *testing.T, h Harness) {
	t.Helper()
	primePoller(t)
	files, goroutines := openFiles(), runtime.NumGoroutine()
	var processes []string // that belong to no sandbox
	if h.StateDir != "" {
		processes = HostProcesses(h.StateDir)
	}
	t.Cleanup(func() {
		if h.Leftovers != nil {
			directories, cgroups := h.Leftovers()
			assert.Check(t, directories == 0, "%d directories of sandboxes are left", directories)
			assert.Check(t, cgroups == 0, "%d control groups of sandboxes are left", cgroups)
		}
		if h.StateDir != "" {
			assert.Check(t, cmp.DeepEqual(HostProcesses(h.StateDir), processes))
			assert.Check(t, len(mountsBelow(h.StateDir)) == 0, "mounts are left: %q", mountsBelow(h.StateDir))
		}
		// The last goroutines may still be on their way out, and files closed
		// by finalisers wait for a collection.
		deadline := time.Now().Add(5 * time.Second)
		for time.Now().Before(deadline) && (runtime.NumGoroutine() > goroutines || len(openFiles()) > len(files)) {
			runtime.GC()
			time.Sleep(20 * time.Millisecond)
		}
		if now := openFiles(); len(now) > len(files) {
			t.Errorf("%d descriptors are left open:\nbefore %s\nafter  %s", len(now)-len(files), files, now)
		}
		if n := runtime.NumGoroutine(); n > goroutines {
			stacks := make([]byte, 1<<20)
			t.Errorf("%d goroutines are left:\n%s", n-goroutines, stacks[:runtime.Stack(stacks, true)])
		}
	})
}

// primePoller makes the Go runtime open the descriptors that it polls with, so
// that they do not count as left open.
func primePoller(t *testing.T) {
	r, w, err := os.Pipe()
	assert.NilError(t, err)
	_ = r.SetReadDeadline(time.Now())
	_, _ = r.Read(make([]byte, 1))
	r.Close()
	w.Close()
}

// openFiles lists what this process has open.
func openFiles() []string {
	entries, _ := os.ReadDir("/proc/self/fd")
	var list []string
	for _, e := range entries {
		if target, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil {
			list = append(list, e.Name()+"="+target)
		}
	}
	sort.Strings(list)
	return list
}

// HostProcesses lists the processes of this machine, this one excepted, that
// have the directory in their command line.
func HostProcesses(dir string) []string {
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	var found []string
	for _, f := range files {
		pid := filepath.Base(filepath.Dir(f))
		line, err := os.ReadFile(f)
		if err == nil && pid != fmt.Sprint(os.Getpid()) && bytes.Contains(line, []byte(dir)) {
			found = append(found, pid+": "+strings.ReplaceAll(string(line), "\x00", " "))
		}
	}
	return found
}

func mountsBelow(dir string) []string {
	data, _ := os.ReadFile("/proc/self/mountinfo")
	var found []string
	for _, line := range strings.Split(string(data), "\n") {
		if fields := strings.Fields(line); len(fields) > 4 && strings.HasPrefix(fields[4], dir+"/") {
			found = append(found, fields[4])
		}
	}
	return found
}
