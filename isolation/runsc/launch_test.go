package runsc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"
	"gotest.tools/v3/assert/cmp"

	"github.com/fcarli/codesandbox/isolation"
	"github.com/fcarli/codesandbox/isolation/isolationtest"
)

// Launch fails at each of its steps in turn, and leaves nothing.
func TestLaunchFailureLeavesNothing(t *testing.T) {
	for _, c := range []struct {
		name    string
		break_  func(t *testing.T, r *Runtime, c *isolation.Class)
		modules []string
		want    string
		only    string // launcher, "" is both
	}{
		{"ceiling is invalid", func(_ *testing.T, _ *Runtime, c *isolation.Class) { c.Ceiling.Disk = 0 }, nil, "limit disk", ""},
		{"sandbox directory cannot be made", func(t *testing.T, r *Runtime, _ *isolation.Class) {
			assert.NilError(t, os.Remove(r.dir))
			t.Cleanup(func() { assert.Check(t, os.Mkdir(r.dir, 0o700)) })
		}, nil, "no such file or directory", ""},
		{"state directory is read-only", func(t *testing.T, r *Runtime, _ *isolation.Class) { readOnly(t, r.dir) }, nil, "read-only file system", ""},
		{"seccomp profile makes no sense", func(_ *testing.T, _ *Runtime, c *isolation.Class) { c.Seccomp = "{" }, nil, "seccomp profile", ""},
		{"seccomp profile names an unknown call", func(_ *testing.T, _ *Runtime, c *isolation.Class) {
			c.Seccomp = `{"defaultAction": "SCMP_ACT_NONSENSE", "syscalls": []}`
		}, nil, "it said", ""},
		{"cgroup cannot be made", func(t *testing.T, r *Runtime, _ *isolation.Class) { readOnly(t, r.cgroups.Dirs()[0]) }, nil, "create cgroup", ""},
		{"limit cannot be set", func(_ *testing.T, _ *Runtime, c *isolation.Class) { c.Ceiling.Processes = 1 << 40 }, nil, "pids.max", ""},
		{"runsc cannot be started", func(_ *testing.T, r *Runtime, _ *isolation.Class) { r.binary = "/nonexistent/runsc" }, nil, "start runsc", "stock"},
		{"runsc does nothing", func(_ *testing.T, r *Runtime, _ *isolation.Class) { r.binary = "/bin/true" }, nil, "wait for the runner: EOF", "stock"},
		{"runsc fails", func(t *testing.T, r *Runtime, _ *isolation.Class) {
			r.binary = script(t, "echo last words >&2; exit 1")
		}, nil, "last words", "stock"},
		{"runsc says something else", func(t *testing.T, r *Runtime, _ *isolation.Class) {
			r.binary = script(t, "echo Hello, who is there?; sleep 100")
		}, nil, `got "Hello, who`, "stock"},
		{"image is not there", func(_ *testing.T, _ *Runtime, c *isolation.Class) { c.Image = "/nonexistent/rootfs.erofs" }, nil, "no such file", ""},
		{"image is no file system", func(t *testing.T, _ *Runtime, c *isolation.Class) {
			c.Image = filepath.Join(t.TempDir(), "rootfs.erofs")
			assert.NilError(t, os.WriteFile(c.Image, make([]byte, 1<<20), 0o644))
		}, nil, "it said", ""},
		{"module is not there", func(*testing.T, *Runtime, *isolation.Class) {}, []string{"no_such_module"}, "no_such_module", ""},
	} {
		for launcher, options := range map[string]func(testing.TB, string) Options{"direct": options, "stock": stockOptions} {
			if c.only != "" && c.only != launcher {
				continue
			}
			t.Run(c.name+"/"+launcher, func(t *testing.T) {
				stateDir := t.TempDir()
				r := openWith(t, options(t, stateDir))
				t.Cleanup(func() { clean(t, r, stateDir) })
				files := countFiles(t)
				class := class(t)
				c.break_(t, r, &class)
				start := time.Now()
				_, err := r.Launcher(class, c.modules).Launch(t.Context())
				assert.ErrorContains(t, err, c.want)
				assert.Check(t, time.Since(start) < 20*time.Second)
				assert.Check(t, cmp.Equal(countFiles(t), files))
			})
		}
	}
}

// A launch that hangs ends with its context, and one that is cancelled at any
// time leaves nothing.
func TestLaunchEndsWithItsContext(t *testing.T) {
	stateDir := t.TempDir()
	r := openWith(t, stockOptions(t, stateDir))
	r.binary = script(t, "trap '' TERM; sleep 100 & sleep 100")
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	start := time.Now()
	_, err := r.Launcher(class(t), nil).Launch(ctx)
	assert.ErrorIs(t, err, context.DeadlineExceeded)
	assert.Check(t, time.Since(start) < 5*time.Second)
	clean(t, r, stateDir)

	for name, options := range map[string]func(testing.TB, string) Options{"direct": options, "stock": stockOptions} {
		t.Run(name, func(t *testing.T) { cancelAtAnyTime(t, options(t, t.TempDir())) })
	}
}

func cancelAtAnyTime(t *testing.T, o Options) {
	r := openWith(t, o)
	goroutines := runtime.NumGoroutine()
	for after := time.Duration(0); after < 500*time.Millisecond; after += 20 * time.Millisecond {
		ctx, cancel := context.WithTimeout(t.Context(), after)
		s, err := r.Launcher(class(t), nil).Launch(ctx)
		cancel()
		if err == nil {
			assert.NilError(t, s.Close())
		}
		clean(t, r, o.StateDir)
	}
	for range 100 {
		if runtime.NumGoroutine() <= goroutines {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Errorf("%d goroutines, %d before", runtime.NumGoroutine(), goroutines)
}

// A sandbox that dies by itself, before and during a program.
func TestSandboxThatIsKilledFromOutside(t *testing.T) {
	stateDir := t.TempDir()
	r := open(t, stateDir)
	spec := isolation.Spec{ID: "killed", Code: []byte("import time; time.sleep(60)"), Limits: isolationtest.Ceiling}

	launched, err := r.Launcher(class(t), nil).Launch(t.Context())
	assert.NilError(t, err)
	assert.NilError(t, launched.(*sandbox).kill())
	start := time.Now()
	res, err := launched.Run(t.Context(), spec, isolation.Output{Stdout: discard{}, Stderr: discard{}})
	assert.Check(t, errors.Is(err, isolation.ErrNotTaken), "a dead sandbox ran a program: %v, %+v", err, res)
	assert.Check(t, time.Since(start) < 5*time.Second)
	assert.NilError(t, launched.Close())

	launched, err = r.Launcher(class(t), nil).Launch(t.Context())
	assert.NilError(t, err)
	time.AfterFunc(300*time.Millisecond, func() { assert.Check(t, launched.(*sandbox).kill()) })
	res, err = launched.Run(t.Context(), spec, isolation.Output{Stdout: discard{}, Stderr: discard{}})
	assert.Check(t, err != nil || res.Status == isolation.StatusKilled, "%v %+v", err, res)
	assert.Check(t, time.Since(start) < 10*time.Second)
	assert.NilError(t, launched.Close())

	// A sentry that panics, as here because it gets no more threads, ends with a
	// status, which is not the program's.
	launched, err = r.Launcher(class(t), nil).Launch(t.Context())
	assert.NilError(t, err)
	time.AfterFunc(300*time.Millisecond, func() { assert.Check(t, launched.(*sandbox).group.SetPids(1)) })
	spec.Code = []byte("import os, time\ntime.sleep(1)\nfor _ in range(5):\n    if os.fork() == 0:\n        while True: pass\ntime.sleep(10)")
	res, err = launched.Run(t.Context(), spec, isolation.Output{Stdout: discard{}, Stderr: discard{}})
	assert.Check(t, launched.Close())
	assert.ErrorContains(t, err, "sandbox died: runsc failed with status 2", "the program's end: %+v", res)
	clean(t, r, stateDir)
}

// A sandbox that hangs is not given the program, and says so in time.
func TestSandboxThatHangs(t *testing.T) {
	stateDir := t.TempDir()
	r := open(t, stateDir)
	spec := isolation.Spec{ID: "hangs", Code: []byte("print(1)"), Limits: isolationtest.Ceiling}
	for _, cancelled := range []bool{false, true} {
		s, err := r.Launcher(class(t), nil).Launch(t.Context())
		assert.NilError(t, err)
		stop(t, sentryOf(t, s))
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		if cancelled {
			time.AfterFunc(200*time.Millisecond, cancel)
		}
		start := time.Now()
		res, err := s.Run(ctx, spec, isolation.Output{Stdout: discard{}, Stderr: discard{}})
		if cancelled {
			assert.Check(t, err)
			assert.Check(t, cmp.Equal(res.Status, isolation.StatusCancelled))
		} else {
			assert.Check(t, errors.Is(err, isolation.ErrNotTaken), "%v %+v", err, res)
		}
		assert.Check(t, time.Since(start) < takeTimeout+2*time.Second)
		assert.NilError(t, s.Close())
		clean(t, r, stateDir)
	}
}

// stop stops a process and waits until no thread of it runs any more.
func stop(t *testing.T, pid int) {
	t.Helper()
	assert.NilError(t, unix.Kill(pid, unix.SIGSTOP))
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
		assert.NilError(t, err)
		running := 0
		for _, thread := range threads {
			data, err := os.ReadFile(thread)
			if err == nil && !strings.Contains(string(data), ") T ") {
				running++
			}
		}
		if len(threads) > 0 && running == 0 {
			return
		}
		assert.Assert(t, time.Now().Before(deadline), "%d threads do not stop", running)
	}
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }

// clean fails the test if a sandbox has left anything.
func clean(t *testing.T, r *Runtime, stateDir string) {
	t.Helper()
	directories, cgroups := r.Leftovers()
	assert.Check(t, cmp.Equal(directories, 0))
	assert.Check(t, cmp.Equal(cgroups, 0))
	for _, p := range isolationtest.HostProcesses(stateDir) {
		// The spawner lives as long as the Runtime.
		assert.Check(t, cmp.Contains(p, "csbd-spawner"))
	}
	mounts, err := mountsBelow(stateDir)
	assert.Check(t, err)
	assert.Check(t, cmp.Len(mounts, 0))
}

func script(t *testing.T, body string) string {
	file := filepath.Join(t.TempDir(), "script")
	assert.NilError(t, os.WriteFile(file, []byte("#!/bin/sh\n"+body+"\n"), 0o755))
	return file
}

// readOnly makes a directory refuse changes, even from root.
func readOnly(t *testing.T, dir string) {
	assert.NilError(t, unix.Mount(dir, dir, "", unix.MS_BIND, ""))
	t.Cleanup(func() { assert.Check(t, unix.Unmount(dir, 0)) })
	assert.NilError(t, unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""))
}

func countFiles(t *testing.T) int {
	entries, err := os.ReadDir("/proc/self/fd")
	assert.NilError(t, err)
	n := 0
	for _, e := range entries {
		if target, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil && !strings.Contains(target, "anon_inode") {
			n++
		}
	}
	return n
}

// A limit that cannot be watched any more ends the execution with an error: it
// is never taken for one that holds.
func TestUnwatchableLimitIsAnError(t *testing.T) {
	r := open(t, t.TempDir())
	group, err := r.cgroups.New("vanished")
	assert.NilError(t, err)
	assert.NilError(t, group.Remove())
	s := &sandbox{group: group, exited: make(chan struct{})}
	limits := isolationtest.Ceiling
	limits.Timeout = 5 * time.Second
	reason, err := s.watch(t.Context(), limits, time.Now(), 0, nil, nil)
	assert.Equal(t, reason, isolation.Status(""))
	assert.ErrorContains(t, err, "watch memory")
}
