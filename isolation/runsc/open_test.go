package runsc

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"gotest.tools/v3/assert"
	"gotest.tools/v3/assert/cmp"

	"github.com/fcarli/codesandbox/isolation"
	"github.com/fcarli/codesandbox/isolation/isolationtest"
)

// A test that needs another csbd starts this test binary with the name of a
// part in this variable.
const partVariable = "CSB_TEST_PART"

func TestMain(m *testing.M) {
	switch os.Getenv(partVariable) {
	case "":
		os.Exit(m.Run())
	case "predecessor":
		predecessor()
	}
}

// predecessor starts two sandboxes, one idle and one busy, says so and waits
// for its end.
func predecessor() {
	fail := func(err error) {
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	}
	ctx := context.Background()
	r, err := Open(ctx, Options{Binary: os.Args[1], Direct: os.Args[4] == "true", StateDir: os.Args[2], Log: slog.New(slog.DiscardHandler)})
	fail(err)
	l := r.Launcher(isolation.Class{Image: os.Args[3], Ceiling: isolationtest.Ceiling}, nil)
	_, err = l.Launch(ctx)
	fail(err)
	busy, err := l.Launch(ctx)
	fail(err)
	spec := isolation.Spec{ID: "busy", Limits: isolationtest.Ceiling,
		Code: []byte("import os\nfor _ in range(3): os.fork()\nprint('x', flush=True)\nwhile True: pass\n")}
	_, err = busy.Run(ctx, spec, isolation.Output{Stdout: os.Stdout, Stderr: io.Discard})
	fail(err)
	select {}
}

// A csbd that is killed takes no sandbox with it that the next one would not
// remove.
func TestOpenSweepsWhatAPredecessorLeft(t *testing.T) {
	t.Run("direct", func(t *testing.T) { sweeps(t, options(t, t.TempDir())) })
	t.Run("stock", func(t *testing.T) { sweeps(t, stockOptions(t, t.TempDir())) })
}

func sweeps(t *testing.T, o Options) {
	stateDir := o.StateDir
	cmd := exec.Command("/proc/self/exe", o.Binary, stateDir, class(t).Image, strconv.FormatBool(o.Direct))
	cmd.Env = append(os.Environ(), partVariable+"=predecessor")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	assert.NilError(t, err)
	assert.NilError(t, cmd.Start())
	killed := false
	kill := func() {
		if !killed {
			killed = true
			assert.Check(t, cmd.Process.Kill())
			_ = cmd.Wait()
		}
	}
	t.Cleanup(kill)
	line, err := bufio.NewReader(stdout).ReadString('\n')
	assert.NilError(t, err)
	assert.Equal(t, line, "x\n")

	_, err = Open(t.Context(), o)
	assert.ErrorContains(t, err, "another csbd uses it")
	groups, err := readLines(filepath.Join(stateDir, cgroupList))
	assert.NilError(t, err)
	assert.Assert(t, len(groups) > 0)
	left, err := filepath.Glob(groups[0] + "/*/cgroup.procs")
	assert.NilError(t, err)
	assert.Assert(t, len(left) == 2, "there is nothing to sweep")
	kill()

	var log bytes.Buffer
	o.Log = slog.New(slog.NewTextHandler(&log, nil))
	r, err := Open(t.Context(), o)
	assert.NilError(t, err)
	assert.Check(t, cmp.Contains(log.String(), "removed what an earlier csbd left"))
	directories, cgroups := r.Leftovers()
	assert.Check(t, cmp.Equal(directories, 0))
	assert.Check(t, cmp.Equal(cgroups, 0))
	works(t, r)
	assert.NilError(t, r.Close())
	assert.Check(t, cmp.Len(isolationtest.HostProcesses(stateDir), 0))
	for _, g := range groups {
		_, err := os.Stat(g)
		assert.Check(t, os.IsNotExist(err), "%s is left", g)
	}
}

// works runs a program.
func works(t *testing.T, r *Runtime) {
	t.Helper()
	s, err := r.Launcher(class(t), nil).Launch(t.Context())
	assert.NilError(t, err)
	var out bytes.Buffer
	spec := isolation.Spec{ID: "works", Code: []byte("print('hello')"), Limits: isolationtest.Ceiling}
	res, err := s.Run(t.Context(), spec, isolation.Output{Stdout: &out, Stderr: &out})
	assert.Check(t, err)
	assert.Check(t, cmp.Equal(res.Status, isolation.StatusOK))
	assert.Check(t, cmp.Equal(out.String(), "hello\n"))
	assert.Check(t, s.Close())
}

func TestOpenRefusesADirectoryThatIsInUse(t *testing.T) {
	stateDir := t.TempDir()
	r := open(t, stateDir)
	_, err := Open(t.Context(), options(t, stateDir))
	assert.ErrorContains(t, err, "another csbd uses it")
	assert.ErrorContains(t, err, stateDir)
	works(t, r) // the refused one has swept nothing away
}

func TestOpenAgainAfterClose(t *testing.T) {
	stateDir := t.TempDir()
	r, err := Open(t.Context(), options(t, stateDir))
	assert.NilError(t, err)
	assert.NilError(t, r.Close())
	works(t, open(t, stateDir))
}

func TestOpenRefusesWhatIsNotRunsc(t *testing.T) {
	script := func(text string) string {
		file := filepath.Join(t.TempDir(), "runsc")
		assert.NilError(t, os.WriteFile(file, []byte(text), 0o755))
		return file
	}
	for _, c := range []struct{ name, binary, want string }{
		{"another program", "/bin/echo", "unexpected output"},
		{"a program that fails", "/bin/false", "exit status 1"},
		{"no file", "/nonexistent/runsc", "no such file or directory"},
		{"no program", script(""), "--version"},
		{"a directory", t.TempDir(), "permission denied"},
		{"much output", script("#!/bin/sh\nhead -c 100000 /dev/zero | tr '\\0' x\n"), "unexpected output"},
	} {
		t.Run(c.name, func(t *testing.T) {
			stateDir := t.TempDir()
			o := options(t, stateDir)
			o.Binary = c.binary
			_, err := Open(t.Context(), o)
			assert.ErrorContains(t, err, c.want)
			assert.ErrorContains(t, err, c.binary)
			assert.Assert(t, len(err.Error()) < 2000)
			entries, err := os.ReadDir(stateDir)
			assert.NilError(t, err)
			assert.Equal(t, len(entries), 0)
		})
	}
}

func TestOpenGivesUpOnARunscThatHangs(t *testing.T) {
	file := filepath.Join(t.TempDir(), "runsc")
	assert.NilError(t, os.WriteFile(file, []byte("#!/bin/sh\nexec sleep 100\n"), 0o755))
	o := options(t, t.TempDir())
	o.Binary = file
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	start := time.Now()
	_, err := Open(ctx, o)
	assert.ErrorContains(t, err, "--version")
	assert.Assert(t, time.Since(start) < 5*time.Second)
}

// The list of control groups is a file that somebody could have written.
func TestOpenSweepsNoForeignCgroups(t *testing.T) {
	stateDir := t.TempDir()
	assert.NilError(t, os.WriteFile(filepath.Join(stateDir, cgroupList), []byte("/sys/fs/cgroup/memory\n"), 0o600))
	_, err := Open(t.Context(), options(t, stateDir))
	assert.ErrorContains(t, err, "not a cgroup of this state directory")
}

func TestOpenRefusesABadCgroup(t *testing.T) {
	for _, path := range []string{"relative", "/a/../b", "/a/"} {
		o := options(t, t.TempDir())
		o.Cgroup = path
		_, err := Open(t.Context(), o)
		assert.ErrorContains(t, err, path)
		// The lock has been given back.
		o.Cgroup = ""
		r, err := Open(t.Context(), o)
		assert.NilError(t, err)
		assert.NilError(t, r.Close())
	}
}

func TestVersion(t *testing.T) {
	r := open(t, t.TempDir())
	assert.Assert(t, r.Version() != "" && !strings.ContainsAny(r.Version(), " \n"), "%q", r.Version())
}
