package cgroup

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"gotest.tools/v3/assert"
	"gotest.tools/v3/assert/cmp"
)

// root opens a Root that is this test's own.
func root(t *testing.T) *Root {
	t.Helper()
	r, err := Open("", fmt.Sprintf("csb-test-%d-%s", os.Getpid(), strings.ToLower(t.Name())))
	assert.NilError(t, err)
	dirs := r.Dirs()
	t.Cleanup(func() {
		// Also what a failed test has left in it.
		_, err := Sweep(dirs)
		assert.Check(t, err)
		assert.Check(t, r.Close())
		for _, d := range dirs {
			_, err := os.Stat(d)
			assert.Check(t, os.IsNotExist(err), "%s is left", d)
		}
	})
	return r
}

// needs skips a test of a limit that this host cannot enforce.
func needs(t *testing.T, r *Root, limits ...string) {
	t.Helper()
	for _, l := range limits {
		for _, missing := range r.Missing() {
			if l == missing {
				t.Skipf("this host has no control group for %s", l)
			}
		}
	}
}

func group(t *testing.T, r *Root, name string) *Group {
	t.Helper()
	g, err := r.New(name)
	assert.NilError(t, err)
	t.Cleanup(func() {
		assert.Check(t, g.Kill())
		assert.Check(t, g.Remove())
	})
	return g
}

// shell starts a shell command in g. It ends with the test at the latest.
func shell(t *testing.T, g *Group, script string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("/bin/sh", "-c", script)
	assert.NilError(t, g.Start(cmd))
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cmd
}

// await waits until a condition holds.
func await(t *testing.T, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if f() {
			return
		}
	}
	t.Fatalf("waited in vain: %s", what)
}

func pids(t *testing.T, g *Group) []int {
	t.Helper()
	list, err := g.Pids()
	assert.NilError(t, err)
	return list
}

func TestStartsInsideTheGroup(t *testing.T) {
	r := root(t)
	g := group(t, r, "one")
	cmd := shell(t, g, "sleep 100 & wait")
	await(t, "both processes to be in the group", func() bool { return len(pids(t, g)) == 2 })
	assert.Equal(t, pids(t, g)[0], cmd.Process.Pid)
	for _, d := range g.dirs {
		list, err := readPids(filepath.Join(d, "cgroup.procs"))
		assert.NilError(t, err)
		assert.Check(t, cmp.Len(list, 2), d)
	}
}

// Neither this process nor any other child gets into a sandbox's group.
func TestStartLeavesEverybodyElseOutside(t *testing.T) {
	r := root(t)
	before, err := os.ReadFile("/proc/thread-self/cgroup")
	assert.NilError(t, err)
	var wg sync.WaitGroup
	for i := range 8 {
		g := group(t, r, fmt.Sprint("g", i))
		wg.Go(func() {
			cmd := exec.Command("/bin/sleep", "100")
			if !assert.Check(t, g.Start(cmd)) {
				return
			}
			defer func() { _ = cmd.Wait() }()
			list, err := g.Pids()
			assert.Check(t, err)
			assert.Check(t, cmp.DeepEqual(list, []int{cmd.Process.Pid}))
			out, err := exec.Command("cat", "/proc/self/cgroup").Output()
			assert.Check(t, err)
			assert.Check(t, !strings.Contains(string(out), "csb-test"), "%s", out)
			assert.Check(t, g.Kill())
		})
	}
	wg.Wait()
	for _, f := range []string{"/proc/self/cgroup", "/proc/thread-self/cgroup"} {
		after, err := os.ReadFile(f)
		assert.NilError(t, err)
		assert.Equal(t, string(after), string(before))
	}
}

func TestStartFails(t *testing.T) {
	r := root(t)
	g := group(t, r, "one")
	assert.ErrorContains(t, g.Start(exec.Command("/nonexistent/program")), "no such file")
	assert.Equal(t, len(pids(t, g)), 0)
	out, err := exec.Command("cat", "/proc/self/cgroup").Output()
	assert.NilError(t, err)
	assert.Assert(t, !strings.Contains(string(out), "csb-test"), "%s", out)
}

// The process dies with the thread that started it, and that is not the one
// of a goroutine that ends.
func TestStartedProcessOutlivesItsGoroutine(t *testing.T) {
	r := root(t)
	g := group(t, r, "one")
	cmds := make(chan *exec.Cmd)
	go func() { cmds <- shell(t, g, "sleep 100") }()
	cmd := <-cmds
	time.Sleep(200 * time.Millisecond)
	assert.NilError(t, cmd.Process.Signal(syscall.Signal(0)))
	assert.Equal(t, cmd.SysProcAttr.Pdeathsig, syscall.SIGKILL)
}

func TestMemoryLimitKillsAndCounts(t *testing.T) {
	r := root(t)
	needs(t, r, Memory)
	g := group(t, r, "one")
	assert.NilError(t, g.SetMemory(32<<20))
	n, err := g.OOMKills()
	assert.NilError(t, err)
	assert.Equal(t, n, int64(0))
	cmd := shell(t, g, "exec tail /dev/zero")
	err = cmd.Wait()
	assert.ErrorContains(t, err, "killed")
	n, err = g.OOMKills()
	assert.NilError(t, err)
	assert.Assert(t, n >= 1)
	peak := g.MemoryPeak()
	assert.Assert(t, peak > 16<<20 && peak <= 32<<20, "%d", peak)
	use, err := g.MemoryUse()
	assert.NilError(t, err)
	assert.Assert(t, use >= 0 && use < 32<<20, "%d", use)
}

// The limit follows in both directions, swap included.
func TestSetMemoryUpAndDown(t *testing.T) {
	r := root(t)
	needs(t, r, Memory)
	g := group(t, r, "one")
	for _, n := range []int64{64 << 20, 256 << 20, 32 << 20, 1 << 30} {
		assert.NilError(t, g.SetMemory(n))
		files := []string{"memory.limit_in_bytes", "memory.memsw.limit_in_bytes"}
		if r.v2 {
			files = []string{"memory.max"}
		}
		dir := g.dirs["memory"]
		if r.v2 {
			dir = g.dirs[""]
		}
		for _, f := range files {
			got, err := readInt(filepath.Join(dir, f))
			if os.IsNotExist(err) && strings.Contains(f, "memsw") {
				continue // a kernel without swap accounting
			}
			assert.NilError(t, err)
			assert.Equal(t, got, n, f)
		}
	}
}

func TestPidsLimit(t *testing.T) {
	r := root(t)
	needs(t, r, Processes)
	g := group(t, r, "one")
	assert.NilError(t, g.SetPids(8))
	out, err := os.CreateTemp(t.TempDir(), "")
	assert.NilError(t, err)
	defer out.Close()
	cmd := exec.Command("/bin/sh", "-c", "for i in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 100 & done; wait")
	cmd.Stderr = out
	assert.NilError(t, g.Start(cmd))
	defer func() { _ = g.Kill(); _ = cmd.Wait() }()
	await(t, "fork to fail", func() bool {
		text, err := os.ReadFile(out.Name())
		assert.NilError(t, err)
		return strings.Contains(string(text), "ork")
	})
	assert.Assert(t, len(pids(t, g)) <= 8)
}

func TestCPUIsCountedAndBounded(t *testing.T) {
	r := root(t)
	needs(t, r, CPUs, CPUTime)
	g := group(t, r, "one")
	assert.NilError(t, g.SetCPUs(0.25))
	before, err := g.CPU()
	assert.NilError(t, err)
	assert.Equal(t, before, time.Duration(0))
	shell(t, g, "while :; do :; done")
	time.Sleep(1200 * time.Millisecond)
	used, err := g.CPU()
	assert.NilError(t, err)
	assert.Assert(t, used > 100*time.Millisecond && used < 600*time.Millisecond, "used %v in 1.2 s at a quarter", used)
	assert.NilError(t, g.Kill())
	after, err := g.CPU()
	assert.NilError(t, err)
	assert.Assert(t, after >= used)
}

func TestSetCPUsOfLittle(t *testing.T) {
	r := root(t)
	g := group(t, r, "one")
	for _, n := range []float64{0.001, 0.5, 1, 1.5, 64} {
		assert.NilError(t, g.SetCPUs(n))
	}
}

// Whoever forks all the time is killed too.
func TestKillEndsForkers(t *testing.T) {
	r := root(t)
	g := group(t, r, "one")
	assert.NilError(t, g.SetPids(200))
	cmd := shell(t, g, `f() { while :; do sh -c "trap '' TERM INT; sleep 0.01" & done; }; f & f & f 2>/dev/null`)
	await(t, "some processes", func() bool { return len(pids(t, g)) > 30 })
	start := time.Now()
	assert.NilError(t, g.Kill())
	assert.Assert(t, time.Since(start) < 5*time.Second)
	assert.Equal(t, len(pids(t, g)), 0)
	_ = cmd.Wait()
	assert.NilError(t, g.Remove())
}

func TestKillOfNobody(t *testing.T) {
	r := root(t)
	g := group(t, r, "one")
	assert.NilError(t, g.Kill())
	assert.NilError(t, g.Kill())
	assert.NilError(t, g.Remove())
	assert.NilError(t, g.Remove())
	assert.NilError(t, g.Kill(), "a group that has been removed has nobody in it")
}

func TestRemoveRefusesTheLiving(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for five seconds")
	}
	r := root(t)
	g := group(t, r, "one")
	shell(t, g, "exec sleep 100")
	// One hierarchy is enough: each waits for its own five seconds.
	some := &Group{root: r, dirs: map[string]string{}}
	for controller, dir := range g.dirs {
		some.dirs[controller] = dir
		break
	}
	assert.ErrorContains(t, some.Remove(), "busy")
	assert.Equal(t, len(pids(t, g)), 1)
}

func TestNewRefusesANameTwice(t *testing.T) {
	r := root(t)
	g := group(t, r, "one")
	shell(t, g, "exec sleep 100")
	_, err := r.New("one")
	assert.ErrorContains(t, err, "file exists")
	assert.Equal(t, len(pids(t, g)), 1) // the first one is as it was
	for _, d := range g.dirs {
		_, err := os.Stat(d)
		assert.NilError(t, err)
	}
}

// A root that was removed underneath is made again, and its groups limit as
// before.
func TestRootIsMadeAgain(t *testing.T) {
	t.Parallel()
	r := root(t)
	needs(t, r, Memory, Processes)
	for _, d := range r.Dirs() {
		assert.NilError(t, os.Remove(d))
	}
	g := group(t, r, "after")
	assert.NilError(t, g.SetMemory(64<<20))
	assert.NilError(t, g.SetPids(10))
	for _, d := range r.Dirs() {
		_, err := os.Stat(filepath.Join(d, "after"))
		assert.NilError(t, err)
	}
}

func TestSweep(t *testing.T) {
	r := root(t)
	var cmds []*exec.Cmd
	for _, name := range []string{"a", "b"} {
		g, err := r.New(name)
		assert.NilError(t, err)
		cmds = append(cmds, shell(t, g, "trap '' TERM; sleep 100 & sleep 100"))
	}
	_, err := r.New("empty")
	assert.NilError(t, err)
	found, err := Sweep(r.Dirs())
	assert.NilError(t, err)
	assert.Equal(t, found, 3*len(r.Dirs()))
	for _, c := range cmds {
		assert.ErrorContains(t, c.Wait(), "killed")
	}
	for _, d := range r.Dirs() {
		entries, err := os.ReadDir(d)
		assert.NilError(t, err)
		for _, e := range entries {
			assert.Check(t, !e.IsDir(), "%s/%s is left", d, e.Name())
		}
	}
	found, err = Sweep(append(r.Dirs(), "/sys/fs/cgroup/no/such/group"))
	assert.NilError(t, err)
	assert.Equal(t, found, 0)
}

func TestOpenRefusesBadPaths(t *testing.T) {
	for _, base := range []string{"a", "../a", "/a/..", "/a/", "//a"} {
		_, err := Open(base, "name")
		assert.ErrorContains(t, err, "absolute, clean path", base)
	}
}

func TestOpenBelowAGivenGroup(t *testing.T) {
	base := fmt.Sprintf("/csb-test-base-%d", os.Getpid())
	r, err := Open(base, "name")
	assert.NilError(t, err)
	g, err := r.New("one")
	assert.Check(t, err)
	assert.Check(t, g.Remove())
	for _, d := range r.Dirs() {
		assert.Check(t, strings.HasSuffix(d, base+"/name"), d)
	}
	dirs := r.Dirs()
	assert.Check(t, r.Close())
	for _, d := range dirs {
		assert.Check(t, removeDir(filepath.Dir(d)))
	}
}

func TestOpenTwiceIsTheSamePlace(t *testing.T) {
	r := root(t)
	again, err := Open("", filepath.Base(r.Dirs()[0]))
	assert.NilError(t, err)
	assert.DeepEqual(t, again.Dirs(), r.Dirs())
	close(again.spawn)
}

func TestCommandContextEndsTheProcess(t *testing.T) {
	r := root(t)
	g := group(t, r, "one")
	ctx, cancel := context.WithCancel(t.Context())
	cmd := exec.CommandContext(ctx, "/bin/sleep", "100")
	assert.NilError(t, g.Start(cmd))
	cancel()
	assert.ErrorContains(t, cmd.Wait(), "killed")
}
