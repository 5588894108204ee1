package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// leaks is what csbd has, or has left, that it should not.
type leaks struct {
	Processes   int `json:"processes"`
	Cgroups     int `json:"cgroups"`
	Mounts      int `json:"mounts"`
	Directories int `json:"directories"`
	Descriptors int `json:"descriptors"`
	Goroutines  int `json:"goroutines"`
	// What they are, for people.
	Found []string `json:"found,omitempty"`
}

// none says that nothing has leaked.
func (l leaks) none() bool {
	return l.Processes+l.Cgroups+l.Mounts+l.Directories+l.Descriptors+l.Goroutines == 0
}

func (l *leaks) add(o leaks) {
	l.Processes += o.Processes
	l.Cgroups += o.Cgroups
	l.Mounts += o.Mounts
	l.Directories += o.Directories
	l.Descriptors += o.Descriptors
	l.Goroutines += o.Goroutines
	l.Found = append(l.Found, o.Found...)
}

// A trace is what of csbd can be seen from outside.
type trace struct {
	directories, cgroups, mounts []string
	// snapshots that are half made.
	halves []string
	// strays are processes of csbd's that are in no sandbox's control group.
	strays []string
	// processes are all that csbd has started, as pidStart names them.
	processes   []string
	descriptors int
}

// observe looks at what there is of a csbd, with its process, which may have
// ended, and its state directory.
func observe(pid int, state string) trace {
	var t trace
	t.directories = names(filepath.Join(state, "sandboxes"))
	for _, name := range names(filepath.Join(state, "snapshots")) {
		if strings.HasPrefix(name, ".make-") {
			t.halves = append(t.halves, name)
		}
	}
	grouped := map[int]bool{}
	for _, root := range roots(state) {
		for _, dir := range subdirectories(root) {
			if name := filepath.Base(dir); !slices.Contains(t.cgroups, name) {
				t.cgroups = append(t.cgroups, name)
			}
			for _, p := range pidsOf(dir) {
				grouped[p] = true
			}
		}
	}
	data, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(data)) {
		if fields := strings.Fields(line); len(fields) > 4 && strings.HasPrefix(fields[4], state+"/") {
			t.mounts = append(t.mounts, fields[4])
		}
	}
	all := processes()
	for _, p := range all {
		if p.pid == pid || !(grouped[p.pid] || descends(all, p.pid, pid) || strings.Contains(p.command, state)) {
			continue
		}
		t.processes = append(t.processes, p.String())
		if !grouped[p.pid] {
			t.strays = append(t.strays, p.String())
		}
	}
	t.descriptors = len(names(fmt.Sprintf("/proc/%d/fd", pid)))
	return t
}

// roots are the directories of csbd's control group, one for each hierarchy.
func roots(state string) []string {
	data, _ := os.ReadFile(filepath.Join(state, "cgroups"))
	return strings.Fields(string(data))
}

// atRest compares a csbd at rest that keeps n sandboxes ready with what it
// should have: n sandboxes, its spawner, and the descriptors that it had.
func (t trace) atRest(n, descriptors int) leaks {
	l := leaks{
		Processes:   max(len(t.strays)-1, 0),
		Cgroups:     max(len(t.cgroups)-n, 0),
		Mounts:      len(t.mounts),
		Directories: max(len(t.directories)-n, 0) + len(t.halves),
		Descriptors: max(t.descriptors-descriptors, 0),
	}
	if !l.none() {
		l.Found = []string{fmt.Sprintf("at rest: processes %q, cgroups %q, mounts %q, directories %q %q, %d descriptors (%d before)",
			t.strays, t.cgroups, t.mounts, t.directories, t.halves, t.descriptors, descriptors)}
	}
	return l
}

// ended looks for what is left of an ended csbd that had left this trace.
func (t trace) ended(pid int, state string) leaks {
	now := observe(pid, state)
	var groups []string
	for _, dir := range roots(state) {
		if _, err := os.Lstat(dir); err == nil {
			groups = append(groups, dir)
		}
	}
	left := append(t.survivors(), now.processes...)
	slices.Sort(left)
	left = slices.Compact(left)
	l := leaks{Processes: len(left), Cgroups: len(groups), Mounts: len(now.mounts), Directories: len(now.directories) + len(now.halves)}
	if !l.none() {
		l.Found = []string{fmt.Sprintf("after the end: processes %q, cgroups %q, mounts %q, directories %q %q", left, groups, now.mounts, now.directories, now.halves)}
	}
	return l
}

// survivors are the processes of the trace that are still there.
func (t trace) survivors() []string {
	var left []string
	for _, p := range processes() {
		if slices.Contains(t.processes, p.String()) {
			left = append(left, p.String())
		}
	}
	return left
}

// A process of the host, zombies excepted.
type process struct {
	pid, parent int
	start       string // tells it from another one with the same pid
	command     string
}

func (p process) String() string { return fmt.Sprintf("%d@%s", p.pid, p.start) }

func processes() map[int]process {
	all := map[int]process{}
	for _, name := range names("/proc") {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		stat, err := os.ReadFile("/proc/" + name + "/stat")
		if err != nil {
			continue
		}
		// proc(5): what follows the name, which may hold anything, is plain.
		fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
		if len(fields) < 20 || fields[0] == "Z" || fields[0] == "X" {
			continue
		}
		parent, _ := strconv.Atoi(fields[1])
		line, _ := os.ReadFile("/proc/" + name + "/cmdline")
		all[pid] = process{pid, parent, fields[19], string(bytes.ReplaceAll(line, []byte{0}, []byte{' '}))}
	}
	return all
}

// descends says whether a process is a descendant of another.
func descends(all map[int]process, pid, ancestor int) bool {
	for range 100 {
		p, ok := all[pid]
		if !ok {
			return false
		}
		if p.parent == ancestor {
			return true
		}
		pid = p.parent
	}
	return false
}

func names(dir string) []string {
	f, err := os.Open(dir)
	if err != nil {
		return nil
	}
	defer f.Close()
	list, _ := f.Readdirnames(-1)
	return list
}

func subdirectories(dir string) []string {
	entries, _ := os.ReadDir(dir)
	var list []string
	for _, e := range entries {
		if e.IsDir() {
			list = append(list, filepath.Join(dir, e.Name()))
		}
	}
	return list
}

func pidsOf(cgroup string) []int {
	data, _ := os.ReadFile(filepath.Join(cgroup, "cgroup.procs"))
	var pids []int
	for _, field := range strings.Fields(string(data)) {
		if pid, err := strconv.Atoi(field); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// sentries are the processes of the sandboxes that speak with the host.
func sentries(state string) []int {
	var found []int
	all := processes()
	for _, root := range roots(state) {
		for _, dir := range subdirectories(root) {
			for _, pid := range pidsOf(dir) {
				// Its guests' processes have the same command line, and a tracer.
				status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
				if strings.HasPrefix(all[pid].command, "runsc-sandbox ") && bytes.Contains(status, []byte("TracerPid:\t0\n")) {
					found = append(found, pid)
				}
			}
		}
	}
	slices.Sort(found)
	return slices.Compact(found)
}

// spawner is the process that forks sentries, 0 if there is none.
func spawner(csbd int) int {
	all := processes()
	for pid, p := range all {
		if p.parent == csbd && strings.HasPrefix(p.command, "csbd-spawner ") {
			return pid
		}
	}
	return 0
}

// figure reads a number from /proc/PID/status, where memory is in KiB.
func figure(pid int, name string) int64 {
	data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	for line := range strings.Lines(string(data)) {
		if value, ok := strings.CutPrefix(line, name+":"); ok {
			n, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
			return n
		}
	}
	return 0
}
