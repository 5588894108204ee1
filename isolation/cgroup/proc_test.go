package cgroup

import (
	"os"
	"path/filepath"
	"testing"

	"gotest.tools/v3/assert"
)

func file(t *testing.T, content string) string {
	t.Helper()
	f := filepath.Join(t.TempDir(), "file")
	assert.NilError(t, os.WriteFile(f, []byte(content), 0o644))
	return f
}

func TestReadOwn(t *testing.T) {
	own, err := readOwn(file(t, "12:cpu,cpuacct:/a\n3:name=systemd:/s:with:colons\n1:memory:/\n0::/system.slice/csbd.service\n"))
	assert.NilError(t, err)
	assert.DeepEqual(t, own, map[string]string{
		"cpu": "/a", "cpuacct": "/a", "name=systemd": "/s:with:colons", "memory": "/", "": "/system.slice/csbd.service"})

	own, err = readOwn(file(t, "0::/\n")) // version 2 alone
	assert.NilError(t, err)
	assert.DeepEqual(t, own, map[string]string{"": "/"})

	_, err = readOwn(file(t, "nonsense\n"))
	assert.ErrorContains(t, err, `unexpected line "nonsense"`)
	_, err = readOwn("/nonexistent")
	assert.ErrorContains(t, err, "no such file")
}

func TestBelow(t *testing.T) {
	for _, c := range []struct{ path, root, want string }{
		{"/", "/", "/"},
		{"/a/b", "/", "/a/b"},
		{"/a", "/a", "/"},
		{"/a/b", "/a", "/b"},
		{"/docker/x", "/docker/x", "/"},
		{"/other", "/a", "/other"},
		{"/ab", "/a", "/ab"},
	} {
		assert.Equal(t, below(c.path, c.root), c.want, "%s below %s", c.path, c.root)
	}
}

func TestReadKey(t *testing.T) {
	// memory.events of version 2, memory.oom_control of version 1, cpu.stat.
	f := file(t, "low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 1\n")
	n, err := readKey(f, "oom_kill")
	assert.NilError(t, err)
	assert.Equal(t, n, int64(2))
	n, err = readKey(file(t, "oom_kill_disable 0\nunder_oom 0\noom_kill 7\n"), "oom_kill")
	assert.NilError(t, err)
	assert.Equal(t, n, int64(7))
	n, err = readKey(file(t, "usage_usec 123456789012\nuser_usec 1\n"), "usage_usec")
	assert.NilError(t, err)
	assert.Equal(t, n, int64(123456789012))

	_, err = readKey(f, "oom_")
	assert.ErrorContains(t, err, "no oom_")
	_, err = readKey(file(t, "oom_kill x\n"), "oom_kill")
	assert.ErrorContains(t, err, "invalid syntax")
	_, err = readKey("/nonexistent", "x")
	assert.ErrorContains(t, err, "no such file")
}

func TestReadInt(t *testing.T) {
	n, err := readInt(file(t, "9223372036854771712\n"))
	assert.NilError(t, err)
	assert.Equal(t, n, int64(9223372036854771712))
	_, err = readInt(file(t, "max\n"))
	assert.ErrorContains(t, err, "invalid syntax")
}

func TestReadPids(t *testing.T) {
	pids, err := readPids(file(t, "1\n22\n333\n"))
	assert.NilError(t, err)
	assert.DeepEqual(t, pids, []int{1, 22, 333})
	pids, err = readPids(file(t, ""))
	assert.NilError(t, err)
	assert.Equal(t, len(pids), 0)
	_, err = readPids(file(t, "1\nx\n"))
	assert.ErrorContains(t, err, "invalid syntax")
}

func TestReadHierarchies(t *testing.T) {
	h, err := readHierarchies()
	assert.NilError(t, err)
	for controller, place := range h.v1 {
		_, err := os.Stat(filepath.Join(place.mount, place.own, "cgroup.procs"))
		assert.NilError(t, err, controller)
	}
	if h.v2 != nil {
		_, err := os.Stat(filepath.Join(h.v2.mount, h.v2.own, "cgroup.procs"))
		assert.NilError(t, err)
	}
}

// handedDown reads a list of words, not a text to search in.
func TestHandedDown(t *testing.T) {
	dir := t.TempDir()
	assert.NilError(t, os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("cpuset memory pids\n"), 0o644))
	assert.Assert(t, handedDown(dir, "memory"))
	assert.Assert(t, handedDown(dir, "pids"))
	assert.Assert(t, !handedDown(dir, "cpu"))
	assert.Assert(t, !handedDown(filepath.Join(dir, "none"), "cpu"))
}

// Groups of a version 2 root read and write the files of version 2. The kernel
// is played by a directory.
func TestVersion2Files(t *testing.T) {
	dir := t.TempDir()
	put := func(name, content string) {
		assert.NilError(t, os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644))
	}
	get := func(name string) string {
		data, err := os.ReadFile(filepath.Join(dir, name))
		assert.NilError(t, err)
		return string(data)
	}
	for _, f := range []string{"memory.max", "pids.max", "cpu.max"} {
		put(f, "max\n")
	}
	put("memory.current", "4096\n")
	put("memory.peak", "8192\n")
	put("memory.events", "oom 1\noom_kill 5\n")
	put("cpu.stat", "usage_usec 1500000\nuser_usec 0\n")
	put("cgroup.procs", "")
	g := &Group{root: &Root{v2: true}, dirs: map[string]string{"": dir}}

	assert.NilError(t, g.SetMemory(1<<20))
	assert.Equal(t, get("memory.max")[:7], "1048576")
	assert.NilError(t, g.SetPids(33))
	assert.Equal(t, get("pids.max")[:2], "33")
	assert.NilError(t, g.SetCPUs(1.5))
	assert.Equal(t, get("cpu.max"), "150000 100000")
	assert.NilError(t, g.SetCPUs(0.0001))
	assert.Equal(t, get("cpu.max")[:11], "1000 100000")
	cpu, err := g.CPU()
	assert.NilError(t, err)
	assert.Equal(t, cpu.String(), "1.5s")
	use, err := g.MemoryUse()
	assert.NilError(t, err)
	assert.Equal(t, use, int64(4096))
	assert.Equal(t, g.MemoryPeak(), int64(8192))
	assert.NilError(t, os.Remove(filepath.Join(dir, "memory.peak")))
	assert.Equal(t, g.MemoryPeak(), int64(-1)) // a kernel before 5.19
	kills, err := g.OOMKills()
	assert.NilError(t, err)
	assert.Equal(t, kills, int64(5))
	assert.NilError(t, g.Kill())
	assert.Equal(t, get("cgroup.kill"), "1")
}

// Limits without a control group are not enforced and not an error: the
// policy decides whether that will do.
func TestMissingLimits(t *testing.T) {
	g := &Group{root: &Root{missing: []string{Memory, Processes, CPUs, CPUTime}}, dirs: map[string]string{}}
	assert.NilError(t, g.SetMemory(1))
	assert.NilError(t, g.SetPids(1))
	assert.NilError(t, g.SetCPUs(1))
	assert.Equal(t, g.MemoryPeak(), int64(-1))
	n, err := g.OOMKills()
	assert.NilError(t, err)
	assert.Equal(t, n, int64(0))
}
