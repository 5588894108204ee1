package container_test

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"github.com/fcarli/codesandbox/images/imagetest"
	"github.com/fcarli/codesandbox/rpc/server/servertest"
)

// An engine is a Docker Engine of the test's own: without networks, so that it
// leaves the host's alone.
type engine struct{ socket string }

func startEngine(t *testing.T) engine {
	t.Helper()
	dir := servertest.Dir(t)
	e := engine{"unix://" + filepath.Join(dir, "docker.sock")}
	log, err := os.Create(filepath.Join(dir, "log"))
	assert.NilError(t, err)
	defer log.Close()
	cmd := exec.Command("dockerd", "--host="+e.socket, "--data-root="+filepath.Join(dir, "data"), "--exec-root="+filepath.Join(dir, "exec"),
		"--pidfile="+filepath.Join(dir, "pid"), "--bridge=none", "--iptables=false", "--ip6tables=false",
		"--exec-opt=native.cgroupdriver=cgroupfs", "--cgroup-parent=/"+filepath.Base(dir))
	cmd.Stdout, cmd.Stderr = log, log
	assert.NilError(t, cmd.Start(), "apt-get install docker.io")
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		assert.Check(t, cmd.Process.Signal(syscall.SIGTERM))
		select {
		case <-ended:
		case <-time.After(30 * time.Second):
			assert.Check(t, cmd.Process.Kill())
			t.Error("the Docker Engine does not end")
		}
		// Some of its mounts outlive it.
		mounts, _ := os.ReadFile("/proc/self/mountinfo")
		for line := range strings.Lines(string(mounts)) {
			if fields := strings.Fields(line); strings.HasPrefix(fields[4], dir+"/") {
				assert.Check(t, unix.Unmount(fields[4], unix.MNT_DETACH))
			}
		}
		groups, _ := filepath.Glob("/sys/fs/cgroup/*/" + filepath.Base(dir))
		for _, group := range append(groups, "/sys/fs/cgroup/"+filepath.Base(dir)) {
			if err := os.Remove(group); !os.IsNotExist(err) {
				assert.Check(t, err)
			}
		}
	})
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		if _, err := e.try(t, "version"); err == nil {
			return e
		}
		text, _ := os.ReadFile(log.Name())
		assert.Assert(t, time.Now().Before(deadline), "the Docker Engine does not start:\n%s", text)
	}
}

// try runs the Docker client.
func (e engine) try(t *testing.T, args ...string) (stdout string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "docker", append([]string{"--host", e.socket}, args...)...)
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Logf("docker %q: %v: %s", args, err, &errs)
	}
	return string(out), err
}

func (e engine) docker(t *testing.T, args ...string) string {
	t.Helper()
	out, err := e.try(t, args...)
	assert.NilError(t, err)
	return out
}

// An answer is the part of a result that is looked at.
type answer struct {
	Status   string
	Stdout   string
	ExitCode int `json:"exit_code"`
}

// TestSidecar runs csbd and an app as compose.yaml has them, in containers of a
// real Docker Engine.
func TestSidecar(t *testing.T) {
	servertest.NeedRoot(t)
	e := startEngine(t)
	built := filepath.Dir(servertest.Plain(t, "csbd"))
	servertest.Plain(t, "csbctl")
	programs := servertest.Dir(t)
	for name, from := range map[string]string{"csbd": built, "csbctl": built, "csbd-sentry": filepath.Dir(imagetest.Sentry(t))} {
		assert.NilError(t, os.Symlink(filepath.Join(from, name), filepath.Join(programs, name)))
	}
	image := imagetest.Python(t)
	store := servertest.Dir(t)
	out, err := exec.Command("cp", "-a", filepath.Dir(image.Path), store).CombinedOutput()
	assert.NilError(t, err, "%s", out)
	assert.NilError(t, os.Mkdir(filepath.Join(store, "names"), 0o755))
	assert.NilError(t, os.Symlink(filepath.Join("..", filepath.Base(filepath.Dir(image.Path))), filepath.Join(store, "names", "python")))
	tree := filepath.Join(servertest.Dir(t), "tree")
	out, err = exec.Command("./context.sh", programs, store, tree).CombinedOutput()
	assert.NilError(t, err, "%s", out)
	e.docker(t, "build", "--quiet", "--tag", "csbd:latest", tree)

	csbd, app := readCompose(t)
	e.docker(t, append(append([]string{"run", "--detach", "--name", "csbd"}, csbd.flags(t)...), csbd.Image)...)
	t.Cleanup(func() {
		_, _ = e.try(t, "rm", "--force", "csbd")
		for _, name := range []string{"memory", "pids", "cpu", "cpuacct", "unified", "."} {
			_, err := os.Stat(filepath.Join("/sys/fs/cgroup", name, "csbd-sidecar"))
			assert.Check(t, os.IsNotExist(err), "its control group is left in %s", name)
		}
	})
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(200 * time.Millisecond) {
		if _, err := e.try(t, "exec", "csbd", "csbctl", "status"); err == nil {
			break
		}
		logs, _ := exec.Command("docker", "--host", e.socket, "logs", "csbd").CombinedOutput()
		assert.Assert(t, time.Now().Before(deadline), "csbd does not become ready:\n%s", logs)
	}
	// The app has csbd's image here, for csbctl.
	run := func(t *testing.T, flags []string, args ...string) (a answer, err error) {
		t.Helper()
		args = append(append(append([]string{"run", "--rm"}, flags...), "--entrypoint", "csbctl", csbd.Image), args...)
		out, err := e.try(t, args...)
		_ = json.Unmarshal([]byte(out), &a)
		return a, err
	}
	t.Run("privileges", func(t *testing.T) {
		kernel := e.docker(t, "exec", "csbd", "csbctl", "--raw", "-c", "print(open('/proc/version').read())")
		assert.Check(t, strings.Contains(kernel, "-gvisor "), kernel)
		inspected := e.docker(t, "inspect", "--format", "{{.HostConfig.Privileged}} {{.HostConfig.ReadonlyRootfs}} {{.State.Pid}}", "csbd")
		fields := strings.Fields(inspected)
		assert.DeepEqual(t, fields[:2], []string{"false", "true"})
		proc, err := os.ReadFile("/proc/" + fields[2] + "/status")
		assert.NilError(t, err)
		for _, want := range []string{"NoNewPrivs:\t1", "Seccomp:\t2",
			// CHOWN, DAC_OVERRIDE, SETGID, SETUID, SETFCAP
			"CapBnd:\t00000000800000c3", "CapEff:\t00000000800000c3"} {
			assert.Check(t, strings.Contains(string(proc), want+"\n"), "%s is not in\n%s", want, proc)
		}
	})
	t.Run("app", func(t *testing.T) {
		a, err := run(t, app.flags(t), "-c", "import pandas; print(pandas.Series([1, 2]).sum())")
		assert.NilError(t, err)
		assert.Check(t, a == answer{"ok", "3\n", 0}, "%+v", a)
	})
	t.Run("limits", func(t *testing.T) {
		for code, want := range map[string]answer{
			"import time; print('here', flush=True); time.sleep(60)": {"timeout", "here\n", 124},
			// The control group's limit, which address space does not reach.
			"import os, time\nfor _ in range(8):\n if os.fork() == 0: x = b'x' * (48 << 20); time.sleep(60)\ntime.sleep(60)": {"memory_limit", "", 137},
		} {
			a, err := run(t, app.flags(t), "--timeout", "5s", "--memory", "64MiB", "-c", code)
			assert.Check(t, err != nil)
			assert.Check(t, a == want, "%q: %+v", code, a)
		}
	})
	t.Run("stranger", func(t *testing.T) {
		// The volume, but not the group: the kernel refuses.
		app := app
		app.GroupAdd = nil
		_, err := run(t, app.flags(t), "-c", "print(1)")
		assert.Check(t, err != nil)
	})
	t.Run("doctor", func(t *testing.T) {
		report := e.docker(t, "exec", "csbd", "csbctl", "doctor")
		assert.Check(t, strings.Contains(report, "memory kill"), report)
	})
	t.Run("stop", func(t *testing.T) {
		e.docker(t, "stop", "--time", "30", "csbd")
		assert.Equal(t, strings.TrimSpace(e.docker(t, "inspect", "--format", "{{.State.ExitCode}}", "csbd")), "0")
	})
}
