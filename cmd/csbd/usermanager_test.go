package main_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"github.com/fcarli/codesandbox/images/imagetest"
	"github.com/fcarli/codesandbox/rpc/server/servertest"
)

// A userManager is systemd as it runs for a user who has logged in, on cgroup
// version 2 alone, in a mount namespace of its own.
type userManager struct {
	t     *testing.T
	pid   int
	home  string
	group string // below the hierarchy's root
}

// managed becomes a user's systemd. Its arguments are the user's number, home
// directory and control group. What logind and user@.service do is done here.
const managed = `
set -eu
mount --make-rprivate /
umount --recursive --lazy /sys/fs/cgroup
mount -t tmpfs none /sys/fs
mkdir /sys/fs/cgroup
mount -t cgroup2 none /sys/fs/cgroup
mount -t tmpfs -o mode=755 none /run
mkdir -p /run/systemd/system /run/user/$1
chown $1:$1 /run/user/$1
chmod 700 /run/user/$1
for c in memory pids cpu; do
	echo +$c > /sys/fs/cgroup/cgroup.subtree_control || true
done 2> /dev/null
cd /sys/fs/cgroup
mkdir $3
chown $1:$1 $3 $3/cgroup.procs $3/cgroup.subtree_control $3/cgroup.threads
echo $$ > $3/cgroup.procs
cd /
exec env -i PATH="$PATH" HOME=$2 XDG_RUNTIME_DIR=/run/user/$1 setpriv --reuid $1 --regid $1 --clear-groups /lib/systemd/systemd --user --log-target=console
`

func startUserManager(t *testing.T) *userManager {
	t.Helper()
	m := &userManager{t: t, home: homeOf(t, ordinary), group: fmt.Sprintf("csb-manager-%d", os.Getpid())}
	units, err := filepath.Glob(filepath.Join(imagetest.Root(), "packaging/systemd/user/*"))
	assert.NilError(t, err)
	assert.Check(t, len(units) == 2)
	to := filepath.Join(m.home, ".config/systemd/user")
	assert.NilError(t, os.MkdirAll(to+"/csbd.service.d", 0o755))
	for _, unit := range units {
		data, err := os.ReadFile(unit)
		assert.NilError(t, err)
		assert.NilError(t, os.WriteFile(filepath.Join(to, filepath.Base(unit)), data, 0o644))
	}
	m.write(".config/systemd/user/csbd.service.d/test.conf", fmt.Sprintf("[Service]\nExecStart=\nExecStart=%s\n"+
		"Environment=CSBD_IMAGE_DIR=%s CSBD_SENTRY=%s\nStandardError=append:%s/log\n",
		servertest.Binary(t, "csbd"), imagetest.Store().Dir, imagetest.Sentry(t), m.home))

	cmd := exec.Command("unshare", "--mount", "sh", "-c", managed, "sh", strconv.Itoa(ordinary), m.home, m.group)
	out, err := os.Create(filepath.Join(m.home, "manager"))
	assert.NilError(t, err)
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	t.Cleanup(m.removeGroup)
	assert.NilError(t, cmd.Start())
	m.pid = cmd.Process.Pid
	t.Cleanup(func() {
		timer := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() })
		defer timer.Stop()
		_ = cmd.Process.Signal(unix.SIGTERM)
		_ = cmd.Wait()
		if t.Failed() {
			for _, name := range []string{"manager", "log"} {
				data, _ := os.ReadFile(filepath.Join(m.home, name))
				t.Logf("%s:\n%s", name, data)
			}
		}
	})
	m.eventually("the user's systemd", func() bool {
		out, _ := m.command("systemctl", "--user", "is-system-running").Output()
		return string(out) == "running\n"
	})
	return m
}

func (m *userManager) write(name, content string) {
	m.t.Helper()
	path := filepath.Join(m.home, name)
	assert.NilError(m.t, os.MkdirAll(filepath.Dir(path), 0o755))
	assert.NilError(m.t, os.WriteFile(path, []byte(content), 0o644))
}

// command is a command of the user's.
func (m *userManager) command(args ...string) *exec.Cmd {
	id := strconv.Itoa(ordinary)
	ctx, cancel := context.WithTimeout(m.t.Context(), time.Minute)
	m.t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{"--mount", "--target", strconv.Itoa(m.pid), "setpriv", "--reuid", id, "--regid", id, "--clear-groups"}, args...)...)
	cmd.Env = ofUser("HOME="+m.home, "XDG_RUNTIME_DIR=/run/user/"+id, "SYSTEMD_PAGER=")
	cmd.Dir = "/"
	return cmd
}

func (m *userManager) run(args ...string) string {
	m.t.Helper()
	out, err := m.command(args...).CombinedOutput()
	assert.NilError(m.t, err, "%q: %s", args, out)
	return string(out)
}

func (m *userManager) eventually(what string, ok func() bool) {
	m.t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(20 * time.Millisecond) {
		assert.Assert(m.t, time.Now().Before(deadline), "waited too long for %s", what)
	}
}

func (m *userManager) log() string {
	data, _ := os.ReadFile(filepath.Join(m.home, "log"))
	return string(data)
}

// csbctl executes a program as the user, who names no socket.
func (m *userManager) csbctl(args ...string) (servertest.Result, error) {
	cmd := m.command(append([]string{servertest.Binary(m.t, "csbctl")}, args...)...)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, _ := cmd.Output()
	var r servertest.Result
	if err := json.Unmarshal(out, &r); err != nil {
		return r, fmt.Errorf("%q: %s", out, &errs)
	}
	return r, nil
}

// removeGroup removes what is left of the control group, from the namespace in
// which it can be seen.
func (m *userManager) removeGroup() {
	script := `umount --recursive --lazy /sys/fs/cgroup; mount -t tmpfs none /sys/fs; mkdir /sys/fs/cgroup; mount -t cgroup2 none /sys/fs/cgroup
for i in 1 2 3 4 5 6 7 8 9 10; do find /sys/fs/cgroup/$1 -depth -type d -exec rmdir {} + 2> /dev/null && exit; sleep 0.2; done
find /sys/fs/cgroup/$1 -type d -print -exec cat {}/cgroup.procs \; ; exit 1`
	out, err := exec.Command("unshare", "--mount", "sh", "-c", script, "sh", m.group).CombinedOutput()
	assert.Check(m.t, err == nil, "control groups are left: %s", out)
}

// TestUserManager has a user's systemd run csbd from the units of the package.
func TestUserManager(t *testing.T) {
	servertest.NeedRoot(t)
	imagetest.Python(t)
	m := startUserManager(t)
	m.run("systemctl", "--user", "start", "csbd.socket")
	assert.Equal(t, strings.TrimSpace(m.run("systemctl", "--user", "is-active", "csbd.socket")), "active")

	// Which limits can be enforced is the kernel's and the administrator's choice.
	// csbd does not start while one is missing that nobody has done without; the
	// client waits meanwhile.
	type answer struct {
		servertest.Result
		err error
	}
	first := make(chan answer, 1)
	go func() {
		r, err := m.csbctl("-c", "print('first')")
		first <- answer{r, err}
	}()
	controllers := strings.Fields(m.run("cat", "/sys/fs/cgroup/"+m.group+"/cgroup.controllers"))
	var missing []string
	for controller, limit := range map[string]string{"memory": "memory", "pids": "processes", "cpu": "cpus"} {
		if !strings.Contains(" "+strings.Join(controllers, " ")+" ", " "+controller+" ") {
			missing = append(missing, limit)
		}
	}
	if len(missing) > 0 {
		m.eventually("a refusal", func() bool {
			return strings.Contains(m.log(), "cannot be enforced: cgroup version 2 has no controller for it here; give csbd a cgroup with it (Delegate=yes, also of user@.service")
		})
		assert.Check(t, !strings.Contains(m.log(), "msg=serving"))
		m.write(".config/csbd/policy.yaml", fmt.Sprintf("version: 1\nprofiles: {default: {}}\nrules: [{user: %d, profile: default}]\nallow_unenforced: [%s]\n"+
			"pools: [{image: python, profile: default, ready: 1, max: 2}]\n", ordinary, strings.Join(missing, ", ")))
	}
	a := <-first
	assert.NilError(t, a.err)
	assert.Check(t, a.Status == "ok" && a.Stdout == "first\n", "%+v", a)

	main := func() int {
		pid, err := strconv.Atoi(strings.TrimSpace(m.run("systemctl", "--user", "show", "--value", "--property=MainPID", "csbd")))
		assert.NilError(t, err)
		return pid
	}
	pid := main()
	assert.Check(t, strings.HasPrefix(field(t, pid, "Uid"), strconv.Itoa(ordinary)+"\t"))
	assert.Equal(t, field(t, pid, "NoNewPrivs"), "1")
	assert.Equal(t, field(t, pid, "Seccomp"), "2")
	groups, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	assert.NilError(t, err)
	unit := "/" + m.group + "/app.slice/csbd.service"
	assert.Check(t, strings.Contains(string(groups), "0::"+unit+"/csbd\n"), "%s", groups)

	for _, test := range []struct {
		args   []string
		status string
		exit   int
		stdout string
	}{
		{[]string{"-c", "import pandas; print(pandas.DataFrame({'a': [1, 2]}).a.sum())"}, "ok", 0, "3\n"},
		{[]string{"--disk", "32MiB", "-c", "print('cold')"}, "ok", 0, "cold\n"},
		{[]string{"--cpu-time", "500ms", "-c", "while True: pass"}, "cpu_limit", 152, ""},
		{[]string{"--timeout", "500ms", "-c", "import time; time.sleep(9)"}, "timeout", 124, ""},
		{[]string{"--memory", "64MiB", "-c", "bytearray(200 << 20)"}, "memory_limit", 1, ""},
	} {
		r, err := m.csbctl(test.args...)
		assert.NilError(t, err)
		assert.Check(t, r.Status == test.status && r.ExitCode == test.exit && r.Stdout == test.stdout, "%q: %+v", test.args, r)
	}

	m.run("systemctl", "--user", "reload", "csbd")
	m.eventually("the reload", func() bool { return strings.Contains(m.log(), "policy reloaded") })

	// systemd starts a csbd that dies again, and no sandbox outlives it.
	busy := make(chan error, 1)
	go func() {
		_, err := m.csbctl("-c", long)
		busy <- err
	}()
	procs := func() int {
		n := 0
		for _, line := range strings.Fields(m.run("sh", "-c", "find /sys/fs/cgroup"+unit+" -name cgroup.procs -exec cat {} + || true")) {
			if _, err := strconv.Atoi(line); err == nil {
				n++
			}
		}
		return n
	}
	// Killed any earlier, csbctl would rightly ask the next one.
	m.eventually("a program", func() bool {
		return strings.Contains(m.run(servertest.Binary(t, "csbctl"), "status", "--json"), `"running":1,`)
	})
	assert.NilError(t, unix.Kill(pid, unix.SIGKILL))
	assert.Check(t, <-busy != nil, "a program that was killed is called a success")
	r, err := m.csbctl("-c", "print('again')")
	assert.NilError(t, err)
	assert.Check(t, r.Stdout == "again\n", "%+v", r)
	assert.Check(t, main() != pid)

	cmd := m.command(servertest.Binary(t, "csbctl"), "doctor")
	report, err := cmd.Output()
	assert.Check(t, err == nil && strings.Contains(string(report), " 0 failed"), "%v: %s", err, report)

	m.run("systemctl", "--user", "stop", "csbd.service", "csbd.socket")
	assert.Equal(t, procs(), 0)
	_, err = m.csbctl("-c", "print(1)")
	assert.ErrorContains(t, err, "there is no socket /run/csbd/csbd.sock")
}

// TestUserUnits: the units are right in systemd's eyes, and csbd has no more
// than its unit gives it.
func TestUserUnits(t *testing.T) {
	dir := servertest.Dir(t)
	for _, name := range []string{"csbd.service", "csbd.socket"} {
		data, err := os.ReadFile(filepath.Join(imagetest.Root(), "packaging/systemd/user", name))
		assert.NilError(t, err)
		text := strings.ReplaceAll(string(data), "/usr/sbin/csbd", servertest.Binary(t, "csbd"))
		assert.NilError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
	}
	cmd := exec.Command("systemd-analyze", "--user", "--man=no", "verify", filepath.Join(dir, "csbd.service"), filepath.Join(dir, "csbd.socket"))
	cmd.Env = ofUser("HOME="+dir, "XDG_RUNTIME_DIR="+dir)
	out, err := cmd.CombinedOutput()
	assert.Check(t, err == nil && len(out) == 0, "%v: %s", err, out)
}
