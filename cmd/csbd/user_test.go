package main_test

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
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
	"github.com/fcarli/codesandbox/isolation/cgroup/cgrouptest"
	"github.com/fcarli/codesandbox/rpc"
	"github.com/fcarli/codesandbox/rpc/server/servertest"
)

// An ordinary user, in no group of any use and unknown to the user database.
const ordinary = 54321

// homeOf makes a directory that belongs to the user.
func homeOf(t *testing.T, uid int) string {
	t.Helper()
	dir := servertest.Dir(t)
	assert.NilError(t, os.Chown(dir, uid, uid))
	return dir
}

// ofUser is an environment with nothing of the test's own but PATH.
func ofUser(variables ...string) []string {
	return append([]string{"PATH=" + os.Getenv("PATH")}, variables...)
}

// TestUser has an ordinary user run csbd, with nothing said of where its things
// are, in a control group that is the user's.
func TestUser(t *testing.T) {
	servertest.NeedRoot(t)
	home := homeOf(t, ordinary)
	group := cgrouptest.Delegate(t, ordinary)
	// On version 1 csbd itself stays where it is, in a group of root's.
	env := []string{"HOME=" + home, "XDG_RUNTIME_DIR=" + home}
	if !group.V2 {
		env = append(env, "CSBD_CGROUP="+group.Path)
	}
	start := func() *servertest.Daemon {
		unset := []string{"env", "-u", "CSBD_SOCKET", "-u", "CSBD_STATE_DIR", "-u", "CSBD_POLICY"}
		d := servertest.Start(t, servertest.Options{Dir: home, Env: env, Wrapper: append(group.Command(group.V2), unset...)})
		d.Socket, d.StateDir = filepath.Join(home, "csbd/csbd.sock"), filepath.Join(home, ".local/state/csbd")
		return d
	}
	d := start()
	assert.Equal(t, field(t, d.Pid, "Uid"), "54321\t54321\t54321\t54321")
	assert.Equal(t, strings.Trim(field(t, d.Pid, "CapPrm"), "0"), "")
	assert.Equal(t, field(t, d.Pid, "NoNewPrivs"), "1")
	lines := d.Lines(t, "running as an ordinary user, as whom every sandbox runs too")
	assert.Check(t, len(lines) == 1 && lines[0]["policy"] == "built-in policy" && lines[0]["uid"] == float64(ordinary), "%v", lines)
	serving := d.Lines(t, "serving")
	assert.Check(t, len(serving) == 1 && serving[0]["unenforced"] == nil, "%v", serving)
	assertMode(t, d.Socket, 0o600)

	// The policy lets the user in and nobody else, not even root; others cannot
	// connect.
	d.Dial(t).Call("execute", map[string]any{"code": "print(1)"}).Failed(t, "denied")
	stranger := exec.Command("socat", "-", "UNIX-CONNECT:"+d.Socket)
	stranger.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: ordinary + 1, Gid: ordinary + 1}}
	out, err := stranger.CombinedOutput()
	assert.Check(t, err != nil && strings.Contains(string(out), "Permission denied"), "%s", out)

	c := d.As(t, syscall.Credential{Uid: ordinary, Gid: ordinary})
	warm := c.Run("import pandas; print(pandas.DataFrame({'a': [1, 2]}).a.sum())")
	assert.Check(t, warm.Status == "ok" && warm.Stdout == "3\n", "%+v", warm)
	limited := func(code string, limits map[string]any) servertest.Result {
		return c.Execute(map[string]any{"code": code, "limits": limits})
	}
	// Another disk than the pool's: started cold.
	cold := limited("import numpy; print(numpy.arange(3).sum())", map[string]any{"disk": "32MiB"})
	assert.Check(t, cold.Status == "ok" && cold.Stdout == "3\n" && cold.Usage["warm"] == false, "%+v", cold)
	for _, test := range []struct {
		name, code string
		limits     map[string]any
		status     string
		exit       int
	}{
		{"memory of one", "x = bytearray(200 << 20)", map[string]any{"memory": "64MiB"}, "memory_limit", 1},
		{"memory of all", `
import os, time
for _ in range(6):
    if os.fork() == 0:
        x = os.urandom(1 << 20) * 100
        time.sleep(9)
        os._exit(0)
time.sleep(9)`, map[string]any{"memory": "128MiB"}, "memory_limit", 137},
		{"processor time", "while True: pass", map[string]any{"cpu_time": "500ms"}, "cpu_limit", 152},
		{"time", "import time; time.sleep(9)", map[string]any{"timeout": "500ms"}, "timeout", 124},
		{"processes", `
import os
for n in range(20):
    try:
        if os.fork() == 0:
            import time; time.sleep(9)
    except BlockingIOError:
        print(n)
        os._exit(7)`, map[string]any{"processes": 8}, "error", 7},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := limited(test.code, test.limits)
			assert.Check(t, r.Status == test.status && r.ExitCode == test.exit, "%+v", r)
		})
	}
	report := rpc.Doctor{}
	d.As(t, syscall.Credential{Uid: ordinary, Gid: ordinary}).Call("doctor", nil).Decode(t, &report)
	assert.Check(t, report.OK && len(report.Checks) > 10, "%v", report)

	// csbctl finds the socket by itself, unless the machine has a csbd of root's.
	csbctl := exec.Command(servertest.Binary(t, "csbctl"), "--raw", "-c", "import os; print(os.getuid())")
	csbctl.Env = ofUser("XDG_RUNTIME_DIR=" + home)
	csbctl.Dir = "/"
	csbctl.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: ordinary, Gid: ordinary}}
	if _, err := os.Lstat("/run/csbd/csbd.sock"); err == nil {
		csbctl.Env = append(csbctl.Env, "CSBD_SOCKET="+d.Socket)
	}
	out, err = csbctl.CombinedOutput()
	assert.Check(t, err == nil && string(out) == "1000\n", "%v: %s", err, out)

	// A policy file is read when there is one; a bad one changes nothing.
	config := filepath.Join(home, ".config/csbd")
	assert.NilError(t, os.MkdirAll(config, 0o755))
	policy := filepath.Join(config, "policy.yaml")
	assert.NilError(t, os.WriteFile(policy, []byte("version: 2\n"), 0o644))
	d.Signal(t, unix.SIGHUP)
	d.WaitLog(t, "policy not reloaded")
	assert.NilError(t, os.WriteFile(policy, []byte(servertest.Policy), 0o644))
	d.Signal(t, unix.SIGHUP)
	d.WaitLog(t, "policy reloaded")
	assert.Equal(t, d.Dial(t).Run("print('root')").Stdout, "root\n")
	c.Call("execute", map[string]any{"code": "print(1)"}).Failed(t, "denied")

	// What a killed csbd leaves dies with it or is removed by the next one.
	root := d.Dial(t)
	root.Send(execute(1, long), execute(2, long))
	d.WaitOccupied(t, 2)
	before := d.Processes()
	assert.Check(t, len(before) >= 3, "%q", before)
	d.Kill(t)
	next := start()
	assert.Equal(t, next.Sandboxes(), 0)
	for _, process := range before {
		pid, _, _ := strings.Cut(process, ":")
		n, err := strconv.Atoi(pid)
		assert.NilError(t, err)
		assert.Check(t, syscall.Kill(n, 0) == syscall.ESRCH || zombie(pid), "%s is still there", process)
	}
	assert.Equal(t, next.Dial(t).Run("print('new')").Stdout, "new\n")
	next.Stop(t)
}

func assertMode(t *testing.T, path string, want os.FileMode) {
	t.Helper()
	info, err := os.Stat(path)
	assert.NilError(t, err)
	assert.Equal(t, info.Mode().Perm(), want)
	assert.Equal(t, int(info.Sys().(*syscall.Stat_t).Uid), ordinary)
}

// TestUserIsRefused: where a user cannot have what csbd needs, csbd and csbd
// doctor say what that is and how to get it.
func TestUserIsRefused(t *testing.T) {
	servertest.NeedRoot(t)
	imagetest.Python(t)
	csbd := servertest.Binary(t, "csbd")
	group := cgrouptest.Delegate(t, ordinary)
	run := func(env []string, command ...string) (code int, stdout, stderr string) {
		home := homeOf(t, ordinary)
		cmd := exec.Command(command[0], command[1:]...)
		cmd.Dir = home
		cmd.Env = ofUser(append([]string{"HOME=" + home, "TMPDIR=" + home, "CSBD_SOCKET=" + home + "/s",
			"CSBD_IMAGE_DIR=" + imagetest.Store().Dir, "CSBD_SENTRY=" + imagetest.Sentry(t), "CSBD_RUNSC=" + imagetest.Runsc(t)}, env...)...)
		var out, errs bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &errs
		// One that starts although it should not puts its things away.
		timer := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Signal(unix.SIGTERM) })
		defer timer.Stop()
		_ = cmd.Run()
		return cmd.ProcessState.ExitCode(), out.String(), errs.String()
	}
	// In a user namespace in which nobody may make another.
	none := func(command ...string) []string {
		inner := append([]string{"sh", "-c", `echo 0 > /proc/sys/user/max_user_namespaces && exec "$@"`, "sh"}, command...)
		return append(append(group.Command(true), "unshare", "--user", "--map-current-user", "--keep-caps"), inner...)
	}
	sysctl := "user.max_user_namespaces is 0: `sysctl user.max_user_namespaces=10000`"

	code, _, stderr := run(nil, none(csbd)...)
	assert.Check(t, code == 1 && strings.Contains(stderr, sysctl), "%d %s", code, stderr)
	failed := func(name string, code int, stdout string) rpc.DoctorCheck {
		t.Helper()
		var report rpc.Doctor
		assert.NilError(t, json.Unmarshal([]byte(stdout), &report), "%q", stdout)
		assert.Check(t, code == 1 && !report.OK)
		i := slices.IndexFunc(report.Checks, func(c rpc.DoctorCheck) bool { return c.Status == rpc.CheckFailed })
		assert.Equal(t, report.Checks[i].Name, name, "%v", report)
		return report.Checks[i]
	}
	code, stdout, _ := run(nil, none(csbd, "doctor", "--json")...)
	check := failed("namespaces", code, stdout)
	assert.Check(t, strings.Contains(check.Cause, sysctl) && check.Fix != "", "%+v", check)

	// No control group.
	outside := group.Command(false)
	code, _, stderr = run(nil, append(outside, csbd)...)
	assert.Check(t, code == 1 && strings.Contains(stderr, "cgroup") && strings.Contains(stderr, "Delegate=yes"), "%d %s", code, stderr)
	code, stdout, _ = run(nil, append(outside, csbd, "doctor", "--json")...)
	check = failed("runtime", code, stdout)
	assert.Check(t, strings.Contains(check.Cause, "Delegate=yes"), "%+v", check)

	// The rest is as it should be.
	code, stdout, _ = run(nil, append(group.Command(true), csbd, "doctor")...)
	assert.Check(t, code == 0 && strings.Contains(stdout, " 0 failed"), "%d %s", code, stdout)

	code, _, stderr = run([]string{"CSBD_LAUNCHER=stock"}, append(group.Command(true), csbd)...)
	assert.Check(t, code == 1 && strings.Contains(stderr, "without root: use csbd-sentry (CSBD_LAUNCHER=direct)"), "%d %s", code, stderr)

	code, _, stderr = run(nil, append(outside, csbd, "image", "build", filepath.Join(imagetest.Root(), "images/python"))...)
	assert.Check(t, code == 1 && strings.Contains(stderr, "needs root") && strings.Contains(stderr, "/.local/state/csbd/images unshare "), "%d %s", code, stderr)
}
