package main_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"github.com/fcarli/codesandbox/rpc/server/servertest"
)

// A manager is what systemd is for csbd: somebody who is told things.
type manager struct {
	socket string

	mu   sync.Mutex
	told []string // lines, in order
}

func newManager(t *testing.T) *manager {
	t.Helper()
	m := &manager{socket: filepath.Join(servertest.Dir(t), "notify")}
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: m.socket, Net: "unixgram"})
	assert.NilError(t, err)
	t.Cleanup(func() { c.Close() })
	go func() {
		b := make([]byte, 4096)
		for {
			n, err := c.Read(b)
			if err != nil {
				return
			}
			m.mu.Lock()
			m.told = append(m.told, strings.Split(string(b[:n]), "\n")...)
			m.mu.Unlock()
		}
	}()
	return m
}

// lines are what it was told so far.
func (m *manager) lines() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.told)
}

func (m *manager) count(prefix string) int {
	n := 0
	for _, line := range m.lines() {
		if strings.HasPrefix(line, prefix) {
			n++
		}
	}
	return n
}

// status is the last status text.
func (m *manager) status() string {
	text := ""
	for _, line := range m.lines() {
		if s, ok := strings.CutPrefix(line, "STATUS="); ok {
			text = s
		}
	}
	return text
}

const withPool = servertest.Policy + "pools: [{image: python, profile: default, ready: 2}]\n"

// TestSystemdIsTold: ready when the pool can serve, what csbd is doing, what a
// reload has changed or why it has not, and that csbd stops.
func TestSystemdIsTold(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	d := servertest.Start(t, servertest.Options{Policy: withPool, Env: []string{"NOTIFY_SOCKET=" + m.socket, "CSBD_STOP_TIMEOUT=50s"}})
	d.Eventually(t, "READY", func() bool { return m.count("READY=1") == 1 })
	c := d.Dial(t)
	var status struct{ Pools []struct{ Ready int } }
	c.Call("status", nil).Decode(t, &status)
	assert.Check(t, len(status.Pools) == 1 && status.Pools[0].Ready >= 1, "ready without a sandbox: %+v", status)
	assert.Check(t, strings.HasPrefix(m.lines()[0], "STATUS=Starting; pool 0 of 2"), "%q", m.lines())
	d.Eventually(t, "a full pool", func() bool { return m.status() == "Ready; pool 2 of 2; 0 running, 0 queued" })

	c.Send(execute("long", long))
	d.WaitOccupied(t, 1)
	d.Eventually(t, "1 running", func() bool { return strings.Contains(m.status(), "1 running, 0 queued") })
	before := len(m.lines())
	time.Sleep(2500 * time.Millisecond)
	assert.Check(t, len(m.lines()) <= before+3, "told what is known: %q", m.lines()[before:])

	// Reload.
	write := func(text string) {
		t.Helper()
		assert.NilError(t, os.WriteFile(d.PolicyFile, []byte(text), 0o644))
		d.Signal(t, syscall.SIGHUP)
	}
	write(strings.Replace(withPool, "default:", "default:\n    timeout: 5s", 1))
	d.Eventually(t, "the reload", func() bool { return m.count("READY=1") == 2 })
	assert.Check(t, m.count("RELOADING=1") == 1 && m.count("MONOTONIC_USEC=") == 1, "%q", m.lines())
	assert.Check(t, strings.HasSuffix(m.status(), "; policy reloaded: profile default: timeout"), "%q", m.status())
	assert.Equal(t, d.Lines(t, "policy reloaded")[0]["changes"], "profile default: timeout")

	write("version: 1\nprofiles: {default: {tiemout: 5s}}\n")
	d.Eventually(t, "the second reload", func() bool { return m.count("READY=1") == 3 })
	assert.Check(t, strings.Contains(m.status(), "policy not reloaded, the old one stays: "+d.PolicyFile+":2: profiles.default.tiemout: unknown key"), "%q", m.status())
	assert.Check(t, strings.HasSuffix(m.status(), "(and 1 more)"), "%q", m.status())
	var problem struct {
		Problem string `json:"policy_problem"`
	}
	c.Call("status", nil).Decode(t, &problem)
	assert.Check(t, problem.Problem != "" && !strings.Contains(problem.Problem, d.Dir), "%q", problem.Problem)

	write(withPool)
	d.Eventually(t, "the third reload", func() bool { return m.count("READY=1") == 4 })
	assert.Check(t, strings.HasSuffix(m.status(), "; policy reloaded: profile default: timeout"), "%q", m.status())
	write(withPool + "# the same\n")
	d.Eventually(t, "the fourth reload", func() bool { return m.count("READY=1") == 5 })
	assert.Check(t, strings.HasSuffix(m.status(), "; policy reloaded: nothing has changed"), "%q", m.status())
	problem.Problem = ""
	c.Call("status", nil).Decode(t, &problem)
	assert.Equal(t, problem.Problem, "")

	// The unit's patience is at least csbd's.
	d.Signal(t, syscall.SIGTERM)
	d.Eventually(t, "STOPPING", func() bool { return m.count("STOPPING=1") == 1 })
	assert.Check(t, slices.Contains(m.lines(), "EXTEND_TIMEOUT_USEC=90000000"), "%q", m.lines())
	assert.Check(t, strings.HasPrefix(m.status(), "Stopping; pool "), "%q", m.status())
	c.Close() // cancels the program
	assert.Equal(t, d.Wait(t), 0)
	assert.Equal(t, m.count("READY=1"), 5)
}

// TestReadyWithoutImage: there is nothing to wait for.
func TestReadyWithoutImage(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	d := servertest.Start(t, servertest.Options{NoImages: true, Policy: withPool, Env: []string{"NOTIFY_SOCKET=" + m.socket}})
	d.Eventually(t, "READY", func() bool { return m.count("READY=1") == 1 })
	d.Eventually(t, "the problem", func() bool {
		return strings.HasPrefix(m.status(), "Not ready: no sandbox has been started yet")
	})
}

// TestWatchdog: systemd's watchdog is fed while programs run in sandboxes,
// though nobody sends any, and not while they do not, though csbd answers.
func TestWatchdog(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	const every = 4 * time.Second
	d := servertest.Start(t, servertest.Options{Env: []string{"NOTIFY_SOCKET=" + m.socket, fmt.Sprintf("WATCHDOG_USEC=%d", every.Microseconds())}})
	start := time.Now()
	d.Eventually(t, "three meals", func() bool { return m.count("WATCHDOG=1") >= 3 })
	assert.Check(t, time.Since(start) < 3*every, "%v: systemd would have lost patience", time.Since(start))

	// Nobody can start a sandbox any more.
	spawner := 0
	for _, process := range d.Processes() {
		if pid, _, ok := strings.Cut(process, ": csbd-spawner "); ok {
			n, err := strconv.Atoi(pid)
			assert.NilError(t, err)
			spawner = n
		}
	}
	assert.Assert(t, spawner != 0, "%q", d.Processes())
	assert.NilError(t, unix.Kill(spawner, unix.SIGSTOP))
	defer func() { _ = unix.Kill(spawner, unix.SIGCONT) }()
	time.Sleep(every) // what has succeeded before counts for half of that
	fed := m.count("WATCHDOG=1")
	time.Sleep(every + every/2)
	assert.Equal(t, m.count("WATCHDOG=1"), fed)
	assert.Check(t, d.Dial(t).Call("version", nil).Error == nil)
	d.WaitLog(t, "the watchdog is not fed")

	assert.NilError(t, unix.Kill(spawner, unix.SIGCONT))
	d.Eventually(t, "a meal", func() bool { return m.count("WATCHDOG=1") > fed })
}

func TestReloadCommand(t *testing.T) {
	t.Parallel()
	d := servertest.Start(t, servertest.Options{NoImages: true})
	env := d.Environment(t)[1:]
	pid := strconv.Itoa(d.Pid)
	for range 3 {
		code, stdout, stderr := csbd(t, env, "reload", pid)
		assert.Check(t, code == 0 && stdout == "policy reloaded: nothing has changed\n", "%d %q %q", code, stdout, stderr)
	}
	assert.NilError(t, os.WriteFile(d.PolicyFile, []byte(servertest.Policy+"  - {user: 1, profile: default}\n"), 0o644))
	code, stdout, stderr := csbd(t, env, "reload", pid)
	assert.Check(t, code == 0 && stdout == "policy reloaded: rules\n", "%d %q %q", code, stdout, stderr)
	assert.NilError(t, os.WriteFile(d.PolicyFile, []byte("version: 7\n"), 0o644))
	code, stdout, stderr = csbd(t, env, "reload", pid)
	assert.Check(t, code == 1 && stdout == "" && strings.Contains(stderr, "the old one stays: "+d.PolicyFile+":1: version"), "%d %q %q", code, stdout, stderr)
	assert.NilError(t, os.Remove(d.PolicyFile))
	code, _, stderr = csbd(t, env, "reload", pid)
	assert.Check(t, code == 1 && strings.Contains(stderr, "no such file"), "%d %q", code, stderr)

	// Somebody who is not csbd ends of SIGHUP.
	sleep := exec.Command("sleep", "60")
	assert.NilError(t, sleep.Start())
	go func() { _ = sleep.Wait() }()
	code, _, stderr = csbd(t, env, "reload", strconv.Itoa(sleep.Process.Pid))
	assert.Check(t, code == 1 && strings.Contains(stderr, "process already finished"), "%d %q", code, stderr)
	for _, args := range [][]string{{"reload"}, {"reload", "1"}, {"reload", "x"}, {"reload", "2", "3"}} {
		code, _, _ := csbd(t, env, args...)
		assert.Equal(t, code, 2, "%q", args)
	}
}

// TestRestartUnderLoad: while systemd keeps the socket, csbd is restarted again
// and again, and no csbctl sees anything of it.
func TestRestartUnderLoad(t *testing.T) {
	t.Parallel()
	servertest.NeedRoot(t)
	dir := servertest.Dir(t)
	path := filepath.Join(dir, "csbd.sock")
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	assert.NilError(t, err)
	defer listener.Close()
	file, err := listener.File()
	assert.NilError(t, err)
	defer file.Close()
	// A duplicate that is inherited under its number.
	fd, err := unix.Dup(int(file.Fd()))
	assert.NilError(t, err)
	defer unix.Close(fd)
	m := newManager(t)
	options := servertest.Options{Dir: dir, Foreign: true, Env: []string{"NOTIFY_SOCKET=" + m.socket}, Policy: strings.Replace(withPool, "default:", "default:\n    concurrency: 2", 1),
		Wrapper: []string{"/bin/bash", "-c", `exec 3<&"$1"; shift; LISTEN_PID=$$ LISTEN_FDS=1 exec "$@"`, "bash", strconv.Itoa(fd)}}
	d := servertest.Start(t, options)

	csbctl := servertest.Binary(t, "csbctl")
	var ran atomic.Int64
	var wg sync.WaitGroup
	over := make(chan struct{})
	for client := range 6 {
		wg.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-over:
					return
				default:
				}
				want := fmt.Sprintf("%d of %d\n", n, client)
				cmd := exec.Command(csbctl, "--raw", "-c", "import time; time.sleep(0.2); print(input())")
				cmd.Env = []string{"CSBD_SOCKET=" + path}
				cmd.Stdin = strings.NewReader(want)
				out, err := cmd.CombinedOutput()
				if !assert.Check(t, err == nil && string(out) == want, "%v: %q", err, out) {
					return
				}
				ran.Add(1)
			}
		})
	}
	const restarts = 4
	for n := range restarts {
		// Which is less than what csbd would wait for a pool that clients empty.
		d.Eventually(t, "READY", func() bool { return m.count("READY=1") == n+1 })
		before := ran.Load()
		d.Eventually(t, "executions", func() bool { return ran.Load() >= before+6 || t.Failed() })
		open := d.Dial(t)
		assert.Check(t, open.Call("version", nil).Error == nil)
		d.Stop(t)
		d = servertest.Start(t, options)
	}
	before := ran.Load()
	d.Eventually(t, "executions", func() bool { return ran.Load() >= before+6 || t.Failed() })
	close(over)
	wg.Wait()
	t.Logf("%d executions, %d restarts", ran.Load(), restarts)
}

// TestAcceptedWhileStopping: who has been accepted is answered, even those who
// have not sent anything yet when csbd is told to stop.
func TestAcceptedWhileStopping(t *testing.T) {
	t.Parallel()
	d := servertest.Start(t, servertest.Options{NoImages: true})
	var conns []*servertest.Conn
	for range 50 {
		conns = append(conns, d.Dial(t))
	}
	d.Eventually(t, "all to be accepted", func() bool { return stateOf(t, d).Connections == len(conns)+1 })
	for _, c := range conns {
		c.Send(servertest.Request(1, "version", nil))
	}
	d.Signal(t, syscall.SIGTERM)
	for _, c := range conns {
		a := c.Receive()
		assert.Check(t, a.Error == nil, "%+v", a)
		c.End()
	}
	assert.Equal(t, d.Wait(t), 0)
	_, err := net.Dial("unix", d.Socket)
	assert.Check(t, errors.Is(err, syscall.ENOENT), "%v", err)
}
