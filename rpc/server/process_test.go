package server

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"gotest.tools/v3/assert"

	"github.com/fcarli/codesandbox/rpc/server/servertest"
)

// connect lets another process connect, and returns our end.
func connect(t *testing.T, l *net.UnixListener) (*exec.Cmd, *net.UnixConn, peer, time.Duration) {
	t.Helper()
	cmd := exec.Command("socat", "-t", "60", "-", "UNIX-CONNECT:"+l.Addr().String())
	_, err := cmd.StdinPipe()
	assert.NilError(t, err)
	assert.NilError(t, cmd.Start())
	t.Cleanup(func() { end(cmd) })
	c, err := l.AcceptUnix()
	assert.NilError(t, err)
	t.Cleanup(func() { c.Close() })
	accepted := sinceBoot()
	p, err := identify(c)
	assert.NilError(t, err)
	assert.Equal(t, int(p.pid), cmd.Process.Pid)
	return cmd, c, p, accepted
}

func end(cmd *exec.Cmd) {
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
}

// startAs starts a process that has a number that is free.
func startAs(t *testing.T, pid int) *exec.Cmd {
	t.Helper()
	for range 1000 {
		err := os.WriteFile("/proc/sys/kernel/ns_last_pid", []byte(strconv.Itoa(pid-1)), 0)
		assert.NilError(t, err)
		cmd := exec.Command("sleep", "60")
		assert.NilError(t, cmd.Start())
		if cmd.Process.Pid == pid {
			t.Cleanup(func() { end(cmd) })
			return cmd
		}
		end(cmd) // somebody else was faster: this one's number, or one of its threads'
	}
	t.Fatalf("no process has got the number %d", pid)
	return nil
}

// TestProcessOf: the audit names the process that connected, and not another
// one that has its number by now.
func TestProcessOf(t *testing.T) {
	t.Parallel()
	servertest.NeedRoot(t)
	socat, err := exec.LookPath("socat")
	assert.NilError(t, err)
	socat, err = filepath.EvalSymlinks(socat)
	assert.NilError(t, err)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(servertest.Dir(t), "s"), Net: "unix"})
	assert.NilError(t, err)
	defer l.Close()
	cmd, c, p, accepted := connect(t, l)
	d := eventually(t, func() process { return processOf(c, p, accepted) }, socat)
	assert.Equal(t, processByNumber(p, accepted), d)
	data, err := os.ReadFile("/proc/" + strconv.Itoa(cmd.Process.Pid) + "/cgroup")
	assert.NilError(t, err)
	assert.Check(t, d.unit != "" && strings.Contains(string(data), d.unit), "%+v %s", d, data)

	// What the kernel before 6.5 leaves us with.
	start, err := startOf(p.pid)
	assert.NilError(t, err)
	assert.Check(t, start <= accepted && start > accepted-time.Minute, "%v %v", start, accepted)
	assert.Equal(t, processByNumber(p, start-1), process{}, "started after the connection was accepted")
	other := p
	other.uid = 12345
	assert.Equal(t, processByNumber(other, accepted), process{}, "of another user")

	end(cmd)
	assert.Equal(t, processOf(c, p, accepted), process{}, "dead")
	assert.Equal(t, processByNumber(p, accepted), process{}, "dead")
	time.Sleep(20 * time.Millisecond) // the clock of /proc is no finer than 10 ms
	startAs(t, cmd.Process.Pid)
	assert.Equal(t, processOf(c, p, accepted), process{}, "its number is another's")
	assert.Equal(t, processByNumber(p, accepted), process{}, "its number is another's")
	assert.Check(t, processByNumber(p, sinceBoot()).executable != "", "this test shows nothing")
	p.pid = 0
	assert.Equal(t, processOf(c, p, accepted), process{}, "not to be seen")
}

// eventually waits until a process that was only forked a moment ago is the
// program.
func eventually(t *testing.T, look func() process, executable string) process {
	t.Helper()
	for range 500 {
		if p := look(); p.executable == executable {
			return p
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("%+v is not %s", look(), executable)
	return process{}
}

func TestUnitOf(t *testing.T) {
	t.Parallel()
	for cgroups, want := range map[string]string{
		"0::/system.slice/batch.service\n":                                   "batch.service",
		"0::/user.slice/user-1000.slice/session-4.scope\n":                   "session-4.scope",
		"0::/user.slice/user-1000.slice/user@1000.service/app.slice/a.b\n":   "/user.slice/user-1000.slice/user@1000.service/app.slice/a.b",
		"4:memory:/x\n1:name=systemd:/system.slice/a.service\n0::/elsewhere": "a.service",
		"0::/\n": "/",
		"":       "",
	} {
		assert.Equal(t, unitOf([]byte(cgroups)), want)
	}
}
