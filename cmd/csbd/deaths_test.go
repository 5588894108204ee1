package main_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"github.com/fcarli/codesandbox/images/imagetest"
	"github.com/fcarli/codesandbox/rpc"
	"github.com/fcarli/codesandbox/rpc/server/servertest"
)

const pooled = `version: 1
profiles: {default: {concurrency: 8}}
rules: [{user: 0, profile: default}]
pools: [{image: python, profile: default, ready: 2, max: 2}]
`

// stateOf asks csbd what it is doing.
func stateOf(t testing.TB, d *servertest.Daemon) (s rpc.Status) {
	t.Helper()
	c := d.Dial(t)
	defer c.Close()
	c.Call("status", nil).Decode(t, &s)
	return s
}

// waitFull waits until the pool is full, nothing runs, and every sandbox that
// has been used is gone.
func waitFull(t testing.TB, d *servertest.Daemon) {
	t.Helper()
	d.Eventually(t, "a full pool and nothing else", func() bool {
		s := stateOf(t, d)
		return len(s.Pools) == 1 && s.Pools[0].Ready == 2 && s.Pools[0].Starting == 0 && s.Running == 0 && d.Sandboxes() == 2
	})
}

// halves are snapshots that are half made.
func halves(d *servertest.Daemon) []string {
	left, _ := filepath.Glob(filepath.Join(d.StateDir, "snapshots", ".make-*"))
	return left
}

// A started process, told from a later one with the same number.
func startOf(pid string) string {
	data, _ := os.ReadFile("/proc/" + pid + "/stat")
	_, rest, _ := strings.Cut(string(data), ") ")
	if fields := strings.Fields(rest); len(fields) > 19 && fields[0] != "Z" && fields[0] != "X" {
		return fields[19]
	}
	return ""
}

// TestCrashAtEveryStage kills csbd in each state that it can be in. Whatever it
// leaves, the next one removes, and works.
func TestCrashAtEveryStage(t *testing.T) {
	t.Parallel()
	dir := servertest.Dir(t)
	request := func(code string) string { return execute(code, code) }
	var lastOne *servertest.Daemon
	for _, stage := range []struct {
		name  string
		reach func(t *testing.T, d *servertest.Daemon)
	}{
		{"while its snapshot is made", func(t *testing.T, d *servertest.Daemon) {
			d.WaitLog(t, `"msg":"making snapshot"`)
			d.Eventually(t, "files of the snapshot", func() bool {
				files, _ := filepath.Glob(filepath.Join(d.StateDir, "snapshots", ".make-*", "*"))
				return len(files) > 0
			})
		}},
		{"while its first sandboxes start", func(t *testing.T, d *servertest.Daemon) {
			d.Eventually(t, "a sandbox from a snapshot", func() bool {
				return len(d.Lines(t, "snapshot made")) == 1 && d.Sandboxes() > 0
			})
		}},
		{"while it starts with a snapshot", func(t *testing.T, d *servertest.Daemon) {
			d.Eventually(t, "a sandbox", func() bool { return d.Sandboxes() > 0 })
		}},
		{"idle", func(t *testing.T, d *servertest.Daemon) {
			d.WaitLog(t, `"msg":"serving"`)
			waitFull(t, d)
		}},
		{"while programs run", func(t *testing.T, d *servertest.Daemon) {
			d.WaitLog(t, `"msg":"serving"`)
			d.Dial(t).Send(request(long), request(long+"\n"))
			d.WaitOccupied(t, 2)
		}},
		{"while it cleans up", func(t *testing.T, d *servertest.Daemon) {
			d.WaitLog(t, `"msg":"serving"`)
			waitFull(t, d)
			c := d.Dial(t)
			c.Send(request("print(1)"), request("print(2)"))
			c.Receive().Executed(t)
			c.Receive().Executed(t)
		}},
		{"while it stops", func(t *testing.T, d *servertest.Daemon) {
			d.WaitLog(t, `"msg":"serving"`)
			d.Dial(t).Send(request(long))
			d.WaitOccupied(t, 1)
			d.Signal(t, syscall.SIGTERM)
			d.WaitLog(t, `"msg":"stopping"`)
		}},
	} {
		d := servertest.Start(t, servertest.Options{Policy: pooled, Dir: dir, Unready: true})
		stage.reach(t, d)
		old := map[string]string{}
		for _, process := range d.Processes() {
			pid, _, _ := strings.Cut(process, ":")
			old[pid] = startOf(pid)
		}
		d.Kill(t)
		left := d.Sandboxes() + len(halves(d))
		assert.Check(t, left > 0, "%s: a crash leaves something, or this test shows nothing", stage.name)

		// The next one is the next stage's, too, but for the first two: how
		// they start is what matters.
		next := servertest.Start(t, servertest.Options{Policy: pooled, Dir: dir, Unready: true})
		next.Eventually(t, "what was left to be removed", func() bool {
			return strings.Contains(next.Log(), "removed what an earlier csbd left") || next.Ended()
		})
		for pid, start := range old {
			assert.Check(t, start == "" || startOf(pid) != start, "%s: process %s has survived", stage.name, pid)
		}
		assert.Check(t, !next.Ended(), "%s: %s", stage.name, next.Log())
		next.Kill(t)
		lastOne = next
	}

	// The last one has survived all that.
	d := servertest.Start(t, servertest.Options{Policy: pooled, Dir: lastOne.Dir})
	assert.Equal(t, d.Dial(t).Run("print('works')").Stdout, "works\n")
	waitFull(t, d)
	assert.Equal(t, len(halves(d)), 0)
	assert.Check(t, stateOf(t, d).Ready)
}

// victims are the processes of csbd's sandboxes that speak with the host, and
// with the stock launcher runsc itself.
func victims(t testing.TB, d *servertest.Daemon) (pids []int) {
	t.Helper()
	for _, process := range d.Processes() {
		pid, command, _ := strings.Cut(process, ": ")
		// The guests' processes have the sentry's command line, and a tracer.
		status, _ := os.ReadFile("/proc/" + pid + "/status")
		if (strings.HasPrefix(command, "runsc") || strings.Contains(command, "/runsc ")) && strings.Contains(string(status), "TracerPid:\t0\n") {
			n, err := strconv.Atoi(pid)
			assert.NilError(t, err)
			pids = append(pids, n)
		}
	}
	return pids
}

// TestDeathsOfSandboxes kills what runs programs while they run: with runsc's
// command line as with the direct start, no answer is called a success that is
// not, none is missing, and the next program runs.
func TestDeathsOfSandboxes(t *testing.T) {
	t.Parallel()
	for launcher, n := range map[string]int{"direct": 16, "stock": 8} {
		t.Run(launcher, func(t *testing.T) {
			t.Parallel()
			d := servertest.Start(t, servertest.Options{Policy: pooled, Env: []string{"CSBD_LAUNCHER=" + launcher}})
			random := rand.New(rand.NewPCG(uint64(n), 4))
			c := d.Dial(t)
			fine, dead := 0, 0
			for i := range n {
				whole := fmt.Sprintf("begin %d\nend %[1]d\n", i)
				start := time.Now()
				c.Send(execute(i, fmt.Sprintf("import time; print('begin', %d, flush=True); time.sleep(0.3); print('end', %[1]d)", i)))
				time.Sleep(time.Duration(random.IntN(400)) * time.Millisecond)
				if all := victims(t, d); len(all) > 0 && i%2 == 0 {
					// A Go program that gets SIGABRT leaves as one that panics does.
					for _, pid := range all {
						_ = syscall.Kill(pid, []syscall.Signal{syscall.SIGKILL, syscall.SIGABRT}[i/2%2])
					}
				}
				a := c.Receive()
				assert.Check(t, time.Since(start) < 60*time.Second)
				if a.Error != nil {
					a.Failed(t, "internal")
					dead++
					continue
				}
				switch r := a.Executed(t); r.Status {
				case "ok":
					assert.Check(t, r.Stdout == whole, "%+v", r)
					fine++
				case "killed":
					assert.Check(t, strings.HasPrefix(whole, r.Stdout), "%+v", r)
					dead++
				default:
					t.Errorf("%+v", r)
				}
			}
			t.Logf("%d fine, %d dead", fine, dead)
			assert.Check(t, fine > 0 && dead > 0, "%d fine, %d dead", fine, dead)
			assert.Equal(t, c.Run("print('works')").Stdout, "works\n")
			waitFull(t, d)
			assert.Check(t, stateOf(t, d).Ready)
		})
	}
}

// small makes the state directory of a csbd that is yet to be started a file
// system of its own. Its log and socket are elsewhere.
func small(t *testing.T, size string) (dir, state string) {
	t.Helper()
	servertest.NeedRoot(t)
	dir, state = servertest.Dir(t), servertest.Dir(t)
	assert.NilError(t, unix.Mount("csbd-test", state, "tmpfs", 0, "mode=700,size="+size))
	t.Cleanup(func() { assert.Check(t, unix.Unmount(state, unix.MNT_DETACH)) })
	assert.NilError(t, os.Symlink(state, filepath.Join(dir, "state")))
	return dir, state
}

// startFails starts csbd, which has to say why it cannot serve, and leaves.
func startFails(t *testing.T, dir string, want ...string) {
	t.Helper()
	d := servertest.Start(t, servertest.Options{Policy: pooled, Dir: dir, Unready: true})
	d.Eventually(t, "its end", d.Ended)
	assert.Check(t, d.Wait(t) == 1)
	lines := strings.Split(strings.TrimSpace(d.Log()), "\n")
	last := lines[len(lines)-1]
	for _, text := range append(want, "csbd: ") {
		assert.Check(t, strings.Contains(last, text), "%q is not in %q", text, last)
	}
	assert.Check(t, !strings.Contains(d.Log(), "panic") && !strings.Contains(d.Log(), "goroutine "), d.Log())
}

// TestFullDisk takes csbd's state directory the space, and gives it back.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	t.Run("start", func(t *testing.T) {
		t.Parallel()
		dir, _ := small(t, "1m")
		startFails(t, dir, "self-test of profile default", "make snapshot", "no space left on device")
		assert.NilError(t, unix.Mount("", filepath.Join(dir, "state"), "", unix.MS_REMOUNT, "size=500m"))
		d := servertest.Start(t, servertest.Options{Policy: pooled, Dir: dir})
		assert.Equal(t, d.Dial(t).Run("print('works')").Stdout, "works\n")
	})
	t.Run("running", func(t *testing.T) {
		t.Parallel()
		dir, state := small(t, "500m,nr_inodes=200")
		d := servertest.Start(t, servertest.Options{Policy: pooled, Dir: dir})
		waitFull(t, d)
		c := d.Dial(t)
		c.Send(execute("running", "import time; time.sleep(3); print('unharmed')"))
		d.Eventually(t, "the program to run", func() bool { return stateOf(t, d).Running == 1 })
		filler, n := filepath.Join(state, "filler"), 0
		assert.NilError(t, os.Mkdir(filler, 0o700))
		// Sandboxes that end give something back, which is taken again.
		fill := func() {
			for ; ; n++ {
				f, err := os.Create(filepath.Join(filler, strconv.Itoa(n)))
				if err != nil {
					assert.ErrorIs(t, err, syscall.ENOSPC)
					return
				}
				f.Close()
			}
		}
		failsThenHeals(t, d, fill, func() { assert.NilError(t, os.RemoveAll(filler)) })
		assert.Equal(t, c.Receive().Executed(t).Stdout, "unharmed\n")
	})
}

// TestReadOnlyStateDirectory: csbd says that it is, and starts when it is not
// any more; while it serves, what runs is not harmed, and it heals by itself.
func TestReadOnlyStateDirectory(t *testing.T) {
	t.Parallel()
	t.Run("running", func(t *testing.T) {
		t.Parallel()
		dir, state := small(t, "500m")
		d := servertest.Start(t, servertest.Options{Policy: pooled, Dir: dir})
		waitFull(t, d)
		c := d.Dial(t)
		c.Send(execute("running", servertest.Occupy+"import time; time.sleep(3); print('unharmed')"))
		d.WaitOccupied(t, 1)
		// csbd has a file open in it for writing, so that the mount itself cannot
		// be made read-only; one on top of it can.
		assert.NilError(t, unix.Mount(state, state, "", unix.MS_BIND, ""))
		assert.NilError(t, unix.Mount("", state, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""))
		assert.ErrorIs(t, os.Mkdir(filepath.Join(dir, "state", "probe"), 0o700), unix.EROFS)
		failsThenHeals(t, d, func() {}, func() { assert.NilError(t, unix.Unmount(state, unix.MNT_DETACH)) })
		assert.Equal(t, c.Receive().Executed(t).Stdout, "unharmed\n")
		assert.Check(t, strings.Contains(d.Log(), "read-only file system"))
	})
	t.Run("start", func(t *testing.T) {
		t.Parallel()
		readOnlyStart(t)
	})
}

func readOnlyStart(t *testing.T) {
	dir, state := small(t, "500m")
	assert.NilError(t, unix.Mount("", state, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""))
	startFails(t, dir, "state directory", "read-only file system")
	assert.NilError(t, unix.Mount("", state, "", unix.MS_REMOUNT, ""))
	d := servertest.Start(t, servertest.Options{Policy: pooled, Dir: dir})
	assert.Equal(t, d.Dial(t).Run("print('works')").Stdout, "works\n")
}

// failsThenHeals uses up the sandboxes that wait, sees that csbd says so when
// it can start none, and that it recovers by itself. spoil is called before
// each execution.
func failsThenHeals(t *testing.T, d *servertest.Daemon, spoil, heal func()) {
	t.Helper()
	c := d.Dial(t)
	defer c.Close()
	for failed, i := 0, 0; failed < 3; i++ {
		assert.Assert(t, i < 20, "sandboxes are still started")
		spoil()
		a := c.Call("execute", map[string]any{"code": "print('works')"})
		if a.Error != nil {
			a.Failed(t, "internal")
			failed++
			continue
		}
		failed = 0
		assert.Equal(t, a.Executed(t).Stdout, "works\n")
	}
	s := stateOf(t, d)
	assert.Check(t, !s.Ready && s.Problem != "", "%+v", s)
	assert.Check(t, s.Pools[0].Problem != "" && s.Pools[0].Failed > 0, "%+v", s.Pools)
	heal()
	// Nobody has to wait for the pool's own next attempt.
	assert.Equal(t, c.Run("print('works')").Stdout, "works\n")
	waitFull(t, d)
	d.Eventually(t, "readiness", func() bool { return stateOf(t, d).Ready })
	s = stateOf(t, d)
	assert.Check(t, s.Problem == "" && s.Pools[0].Problem == "", "%+v", s)
}

// TestRemovedUnderneath takes away from a csbd that serves what it needs: its
// image, its snapshots, the control group of a sandbox.
func TestRemovedUnderneath(t *testing.T) {
	t.Parallel()
	image := imagetest.Python(t)
	store := servertest.Dir(t)
	digest := filepath.Base(filepath.Dir(image.Path))
	assert.NilError(t, os.MkdirAll(filepath.Join(store, "names"), 0o755))
	assert.NilError(t, os.Mkdir(filepath.Join(store, digest), 0o755))
	for _, name := range []string{filepath.Base(image.Path), "image.json"} {
		from := filepath.Join(filepath.Dir(image.Path), name)
		assert.NilError(t, os.Symlink(from, filepath.Join(store, digest, name)))
	}
	assert.NilError(t, os.Symlink(filepath.Join("..", digest), filepath.Join(store, "names", "python")))
	d := servertest.Start(t, servertest.Options{Policy: pooled, Env: []string{"CSBD_IMAGE_DIR=" + store}})
	waitFull(t, d)

	t.Run("snapshots", func(t *testing.T) {
		c := d.Dial(t)
		assert.NilError(t, os.RemoveAll(filepath.Join(d.StateDir, "snapshots")))
		for i := range 5 {
			assert.Equal(t, c.Run(fmt.Sprintf("print(%d)", i)).Stdout, fmt.Sprintln(i))
		}
		waitFull(t, d)
		made, err := filepath.Glob(filepath.Join(d.StateDir, "snapshots", "*", "manifest.json"))
		assert.NilError(t, err)
		assert.Equal(t, len(made), 1)
		assert.Equal(t, len(halves(d)), 0)
		assert.Equal(t, len(d.Lines(t, "snapshot made")), 2)
	})

	t.Run("image", func(t *testing.T) {
		c, running := d.Dial(t), d.Dial(t)
		running.Send(execute(1, servertest.Occupy+"import time, colorsys; time.sleep(8); import decimal; print(decimal.Decimal(1))"))
		d.WaitOccupied(t, 1)
		assert.NilError(t, os.Rename(filepath.Join(store, digest), filepath.Join(store, "gone")))
		failed := c.Call("execute", map[string]any{"code": "print(1)"}).Failed(t, "unknown_image")
		assert.Check(t, strings.Contains(failed.Message, "python"), "%+v", failed)
		d.Eventually(t, "the pool of the image to go", func() bool { return len(stateOf(t, d).Pools) == 0 })
		assert.Equal(t, running.Receive().Executed(t).Stdout, "1\n")
		assert.NilError(t, os.Rename(filepath.Join(store, "gone"), filepath.Join(store, digest)))
		assert.Equal(t, c.Run("print('works')").Stdout, "works\n")
		d.Eventually(t, "the pool of the image", func() bool { return len(stateOf(t, d).Pools) == 1 })
		waitFull(t, d)
	})

	// Its processes are put elsewhere, as somebody who tidies up would.
	t.Run("control group", func(t *testing.T) {
		c, running := d.Dial(t), d.Dial(t)
		running.Send(execute(1, servertest.Occupy+"import time; time.sleep(50)"))
		d.WaitOccupied(t, 1)
		proofs := len(d.Lines(t, "self-test passed"))
		pids := evict(t, d, occupied(t, d))
		start := time.Now()
		running.Receive().Failed(t, "internal")
		assert.Check(t, time.Since(start) < 30*time.Second)
		assert.Equal(t, c.Run("print('works')").Stdout, "works\n")
		waitGone(t, d, pids)
		// It could have been csbd's fault: one of its own programs shows that it works.
		d.Eventually(t, "a self-test", func() bool { return len(d.Lines(t, "self-test passed")) > proofs })
		waitFull(t, d)
		assert.Check(t, stateOf(t, d).Ready)
	})
}

// waitGone waits for the end of processes.
func waitGone(t *testing.T, d *servertest.Daemon, pids []string) {
	t.Helper()
	d.Eventually(t, "the end of what was evicted", func() bool {
		return !slices.ContainsFunc(pids, func(pid string) bool { return startOf(pid) != "" })
	})
}

// occupied is the name of the sandbox that occupies memory.
func occupied(t *testing.T, d *servertest.Daemon) string {
	t.Helper()
	name, most := "", int64(0)
	for _, root := range d.Cgroups() {
		for _, file := range []string{"memory.usage_in_bytes", "memory.current"} {
			files, _ := filepath.Glob(filepath.Join(root, "*", file))
			for _, f := range files {
				data, _ := os.ReadFile(f)
				if n, err := strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64); err == nil && n > most {
					name, most = filepath.Base(filepath.Dir(f)), n
				}
			}
		}
	}
	assert.Assert(t, name != "")
	return name
}

// evict moves the processes of a sandbox out of its control group, and removes
// that.
func evict(t *testing.T, d *servertest.Daemon, name string) (pids []string) {
	t.Helper()
	for range 100 {
		more, left := evictOnce(d.Cgroups(), name)
		if pids = append(pids, more...); left == 0 {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	assert.Assert(t, len(pids) > 0)
	return pids
}

// evictOnce is evict for what is there at the moment: left is in how many
// hierarchies the group could not be removed.
func evictOnce(roots []string, name string) (pids []string, left int) {
	for _, root := range roots {
		data, _ := os.ReadFile(filepath.Join(root, name, "cgroup.procs"))
		for _, pid := range strings.Fields(string(data)) {
			if os.WriteFile(filepath.Join(filepath.Dir(root), "cgroup.procs"), []byte(pid), 0) == nil {
				pids = append(pids, pid)
			}
		}
		if err := unix.Rmdir(filepath.Join(root, name)); err != nil && err != unix.ENOENT {
			left++
		}
	}
	return pids, left
}

// TestControlGroupsRemoved takes away all of csbd's control groups at once, the
// one that they live in included: csbd makes it again, and nothing that was in
// them survives.
func TestControlGroupsRemoved(t *testing.T) {
	t.Parallel()
	d := servertest.Start(t, servertest.Options{Policy: pooled})
	waitFull(t, d)
	roots := d.Cgroups()
	var pids []string
	// What csbd starts meanwhile has its group made; a moment comes when there is
	// none.
	for tries, left := 0, len(roots); left > 0; tries++ {
		assert.Assert(t, tries < 1000)
		left = 0
		for _, root := range roots {
			groups, err := filepath.Glob(filepath.Join(root, "*", "cgroup.procs"))
			assert.NilError(t, err)
			for _, group := range groups {
				more, _ := evictOnce(roots, filepath.Base(filepath.Dir(group)))
				pids = append(pids, more...)
			}
			if err := unix.Rmdir(root); err != nil && err != unix.ENOENT {
				left++
			}
		}
	}
	assert.Assert(t, len(pids) > 0)
	c := d.Dial(t)
	start := time.Now()
	worked := 0
	for worked < 3 {
		assert.Assert(t, time.Since(start) < time.Minute)
		a := c.Call("execute", map[string]any{"code": "print('works')"})
		if a.Error != nil {
			a.Failed(t, "internal")
			worked = 0
			continue
		}
		assert.Equal(t, a.Executed(t).Stdout, "works\n")
		worked++
	}
	waitGone(t, d, pids)
	waitFull(t, d)
	d.Eventually(t, "readiness", func() bool { return stateOf(t, d).Ready })
	r := c.Run("print(len(bytearray(10 ** 12)))")
	assert.Check(t, r.Status == "memory_limit", "%+v", r)
	r = c.Run(devour)
	assert.Check(t, r.Status == "memory_limit" && r.ExitCode == 137, "%+v", r)
}

// devour uses memory that only a control group can take away.
const devour = `
import os
fd = os.memfd_create('x')
block = bytes(1 << 20)
for _ in range(2000):
    os.write(fd, block)
print('not limited')`

// TestPolicyRemoved: without its file csbd keeps the policy that it has, and says
// so; with a new one it takes that.
func TestPolicyRemoved(t *testing.T) {
	t.Parallel()
	d := servertest.Start(t, servertest.Options{})
	assert.NilError(t, os.Remove(d.PolicyFile))
	d.Signal(t, syscall.SIGHUP)
	d.WaitLog(t, "policy not reloaded; the old one stays")
	assert.Check(t, strings.Contains(d.Log(), "no such file or directory"))
	c := d.Dial(t)
	assert.Equal(t, c.Run("print('works')").Stdout, "works\n")
	s := stateOf(t, d)
	assert.Check(t, s.Ready && s.PolicyGeneration == 1, "%+v", s)
	c.Call("execute", map[string]any{"code": "", "limits": map[string]any{"memory": "64GiB"}}).Failed(t, "denied")
	assert.NilError(t, os.WriteFile(d.PolicyFile, []byte(servertest.Policy), 0o644))
	d.Signal(t, syscall.SIGHUP)
	d.WaitLog(t, "policy reloaded")
	assert.Equal(t, stateOf(t, d).PolicyGeneration, int64(2))
}

// TestCrashOfStock kills csbd whose sandboxes runsc's command line starts, while
// they start, wait and run: nothing of runsc survives the next start.
func TestCrashOfStock(t *testing.T) {
	t.Parallel()
	o := servertest.Options{Policy: pooled, Env: []string{"CSBD_LAUNCHER=stock"}}
	for _, stage := range []func(*servertest.Daemon){
		func(d *servertest.Daemon) { d.Eventually(t, "a runsc", func() bool { return len(victims(t, d)) > 0 }) },
		func(d *servertest.Daemon) {
			waitFull(t, d)
			d.Dial(t).Send(execute(1, long))
			d.WaitOccupied(t, 1)
		},
	} {
		d := servertest.Start(t, servertest.Options{Policy: o.Policy, Env: o.Env, Dir: o.Dir, Unready: o.Dir == ""})
		o.Dir = d.Dir
		stage(d)
		old := map[string]string{}
		for _, process := range d.Processes() {
			pid, _, _ := strings.Cut(process, ":")
			old[pid] = startOf(pid)
		}
		assert.Check(t, len(old) > 1, "%q", old)
		d.Kill(t)
		next := servertest.Start(t, o)
		for pid, start := range old {
			assert.Check(t, start == "" || startOf(pid) != start, "process %s has survived", pid)
		}
		assert.Equal(t, next.Dial(t).Run("print('works')").Stdout, "works\n")
		next.Stop(t)
	}
}
