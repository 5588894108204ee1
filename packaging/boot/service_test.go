package boot_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"
)

// TestService goes through the life of the service on one machine, in order.
func TestService(t *testing.T) {
	m := start(t, withImage(t, map[string]string{"/csbd.deb": built(t)}))
	m.install("/csbd.deb")
	m.sh("echo CSBD_STOP_TIMEOUT=6s >>/etc/default/csbd")
	for _, step := range []struct {
		name string
		run  func(*machine)
	}{
		{"installed", installed},
		{"the first client starts csbd", firstClient},
		{"who may call", callers},
		{"limits", limits},
		{"status text", statusText},
		{"reload", reload},
		{"journal", journal},
		{"restart under load", restartUnderLoad},
		{"watchdog", watchdog},
		{"stop drains", stopDrains},
	} {
		if !t.Run(step.name, func(t *testing.T) { step.run(&machine{m.Container, t}) }) {
			return // the others would fail for the same reason
		}
	}
}

// installed: what the package says is enabled and waits for clients, and only
// that.
func installed(m *machine) {
	assert.Equal(m.t, m.sh("systemctl is-enabled csbd.socket"), "enabled")
	assert.Equal(m.t, m.show("csbd.socket", "ActiveState"), "active")
	assert.Equal(m.t, m.show("csbd.service", "ActiveState"), "inactive")
	assert.Equal(m.t, m.sh("stat -c '%a %U %G %F' /run/csbd/csbd.sock"), "660 root csb socket")
	assert.Equal(m.t, m.sh("systemctl --failed --quiet --plain"), "")
	assert.Equal(m.t, m.sh("dpkg --verify csbd | grep -v /etc/default/csbd || true"), "", "a file of the package is not as it was packed")
	assert.Equal(m.t, m.sh("dpkg --audit"), "")
}

func firstClient(m *machine) {
	before := time.Now()
	a := m.as("ann", "csbctl", "-c", "import pandas; print(6*7)")
	assert.Equal(m.t, a.code, 0, "%+v", a)
	r := executed(m.t, a)
	assert.Equal(m.t, r.Stdout, "42\n")
	assert.Check(m.t, is.Len(r.Unenforced, 0))
	m.t.Logf("the first client had its answer after %v", time.Since(before).Round(time.Millisecond))
	// It is served as soon as it can be, and csbd is ready when the pool is.
	m.eventually("ready", func() bool { return m.show("csbd.service", "ActiveState") == "active" })
	assert.Equal(m.t, m.show("csbd.service", "SubState"), "running")
	assert.Equal(m.t, m.show("csbd.service", "NRestarts"), "0")
}

func callers(m *machine) {
	for user, may := range map[string]bool{"root": true, "ann": true, "bob": false} {
		a := m.as(user, "csbctl", "--raw", "-c", "print('hello')")
		if may {
			assert.Equal(m.t, a, answer{stdout: "hello"})
			continue
		}
		assert.Equal(m.t, a.code, 125)
		assert.Check(m.t, is.Contains(a.stderr, "connect: permission denied"))
	}
	// It was the kernel, not csbd, that refused.
	log := m.messages("_SYSTEMD_UNIT=csbd.service")
	assert.Check(m.t, !strings.Contains(log, "uid="+m.sh("id -u bob")+" "), "%s", log)
}

// limits: a program that meets one is answered, and the unit does not notice.
func limits(m *machine) {
	pid := m.show("csbd.service", "MainPID")
	hogs := `import os, time
for i in range(4):
    if os.fork() == 0: b = bytearray(60 << 20)
time.sleep(9)`
	for _, c := range []struct {
		option, code, status string
		exit                 int
	}{
		{"--memory=64MiB", hogs, "memory_limit", 137},
		{"--cpu-time=1s", "while True: pass", "cpu_limit", 152},
		{"--timeout=1s", "import time; time.sleep(9)", "timeout", 124},
		{"--processes=8", "import os\nfor i in range(20):\n    if os.fork() == 0: os.pause()", "error", 1},
	} {
		a := m.as("ann", "csbctl", c.option, "-c", c.code)
		assert.Equal(m.t, a.code, c.exit, "%s: %+v", c.option, a)
		assert.Equal(m.t, executed(m.t, a).Status, c.status)
	}
	assert.Equal(m.t, m.show("csbd.service", "ActiveState"), "active")
	assert.Equal(m.t, m.show("csbd.service", "MainPID"), pid)
	assert.Equal(m.t, m.show("csbd.service", "NRestarts"), "0")
	assert.Equal(m.t, m.show("csbd.service", "Result"), "success")
}

func statusText(m *machine) {
	m.eventually("an idle csbd's status text", func() bool {
		return strings.Contains(m.show("csbd.service", "StatusText"), "0 running")
	})
	m.t.Logf("idle: %s", m.show("csbd.service", "StatusText"))
	done := m.inBackground("ann", "csbctl", "-c", "import time; time.sleep(8)")
	m.eventually("the status text of a csbd that runs something", func() bool {
		return strings.Contains(m.show("csbd.service", "StatusText"), "1 running")
	})
	m.t.Logf("busy: %s", m.show("csbd.service", "StatusText"))
	assert.Equal(m.t, (<-done).code, 0)
}

// inBackground is as, for a command that goes on meanwhile.
func (m *machine) inBackground(user string, args ...string) <-chan answer {
	done := make(chan answer, 1)
	cmd := m.As(m.t.Context(), user, args...)
	go func() {
		a, err := run(cmd)
		if err != nil {
			a = answer{stderr: err.Error(), code: -1}
		}
		done <- a
	}()
	return done
}

func reload(m *machine) {
	pid := m.show("csbd.service", "MainPID")
	const long = "csbctl --timeout 50s -c 'print(1)'"
	assert.Equal(m.t, m.try(long).code, 0)
	m.sh("cp /etc/csbd/policy.yaml /run/policy.yaml")

	m.sh("sed -i 's/^    timeout: .*/    timeout: {default: 10s, max: 20s}/' /etc/csbd/policy.yaml && systemctl reload csbd")
	a := m.try(long)
	assert.Check(m.t, a.code == 125 && strings.Contains(a.stderr, "20s"), "the new policy's maximum: %+v", a)
	assert.Check(m.t, is.Contains(m.messages("_SYSTEMD_UNIT=csbd.service"), "policy reloaded"))
	m.t.Logf("good: %s", m.show("csbd.service", "StatusText"))

	m.sh("sed -i 's/^    timeout: .*/    timeuot: 1s/' /etc/csbd/policy.yaml")
	a = m.try("systemctl reload csbd")
	m.t.Logf("bad: `systemctl reload` leaves with %d: %s", a.code, a.stderr)
	assert.Equal(m.t, m.show("csbd.service", "ActiveState"), "active")
	m.eventually("a status text that says why", func() bool {
		return strings.Contains(m.show("csbd.service", "StatusText"), "timeuot")
	})
	m.t.Logf("bad: %s", m.show("csbd.service", "StatusText"))
	assert.Check(m.t, is.Contains(m.try("systemctl status csbd").stdout, "timeuot"))
	assert.Check(m.t, is.Contains(m.try(long).stderr, "20s"), "the old policy stays")
	assert.Equal(m.t, m.try("csbctl -c 'print(1)'").code, 0)

	m.sh("cp /run/policy.yaml /etc/csbd/policy.yaml && systemctl reload csbd")
	assert.Equal(m.t, m.try(long).code, 0)
	m.eventually("the complaint to go", func() bool {
		return !strings.Contains(m.show("csbd.service", "StatusText"), "timeuot")
	})
	assert.Equal(m.t, m.show("csbd.service", "MainPID"), pid)
}

func journal(m *machine) {
	r := executed(m.t, m.as("ann", "csbctl", "--timeout=1s", "-c", "while True: pass"))
	uid := m.sh("id -u ann")
	for _, match := range []string{"CSBD_ID=" + r.ID, "CSBD_ID=" + r.ID + " CSBD_UID=" + uid + " CSBD_STATUS=timeout"} {
		entries := m.journal(match)
		assert.Assert(m.t, len(entries) >= 1, match)
		last := entries[len(entries)-1]
		assert.Equal(m.t, last["CSBD_STATUS"], "timeout")
		assert.Equal(m.t, last["CSBD_UID"], uid)
		assert.Equal(m.t, last["_SYSTEMD_UNIT"], "csbd.service")
		assert.Equal(m.t, last["SYSLOG_IDENTIFIER"], "csbd")
	}
	assert.Check(m.t, is.Len(m.journal("CSBD_ID="+r.ID, "CSBD_STATUS=ok"), 0))
	assert.Check(m.t, len(m.journal("CSBD_UID="+uid)) >= 3)
}

func restartUnderLoad(m *machine) {
	l := m.startLoad()
	socket := m.show("csbd.socket", "ActiveEnterTimestampMonotonic")
	pids := map[string]bool{m.show("csbd.service", "MainPID"): true}
	for range 3 {
		l.more(5)
		m.sh("systemctl restart csbd")
		pids[m.show("csbd.service", "MainPID")] = true
	}
	l.end(m.t)
	assert.Equal(m.t, len(pids), 4)
	assert.Equal(m.t, m.show("csbd.socket", "ActiveEnterTimestampMonotonic"), socket)
}

// watchdog: a csbd that hangs, and one whose sandboxes do, is started again.
// Clients that come meanwhile are answered by the next one.
func watchdog(m *machine) {
	m.t.Logf("WatchdogSec of the unit: %s", m.show("csbd.service", "WatchdogUSec"))
	assert.Check(m.t, m.show("csbd.service", "WatchdogUSec") != "infinity" && m.show("csbd.service", "WatchdogUSec") != "0")
	m.sh("mkdir -p /etc/systemd/system/csbd.service.d && printf '[Service]\\nWatchdogSec=8s\\n' >/etc/systemd/system/csbd.service.d/soon.conf && systemctl daemon-reload && systemctl restart csbd")
	// It lives longer than that, with nobody there.
	pid := m.show("csbd.service", "MainPID")
	time.Sleep(20 * time.Second)
	assert.Equal(m.t, m.show("csbd.service", "MainPID"), pid)

	for i, c := range []struct{ name, stop string }{
		{"csbd", "kill -STOP " + pid},
		{"the spawner", "kill -STOP $(pidof csbd-spawner)"},
	} {
		before := time.Now()
		m.sh(c.stop)
		client := m.inBackground("ann", "csbctl", "--raw", "-c", "print('after all')")
		m.eventually("a new csbd instead of one in which "+c.name+" hangs", func() bool {
			return m.show("csbd.service", "NRestarts") == fmt.Sprint(i+1) && m.show("csbd.service", "ActiveState") == "active"
		})
		m.t.Logf("%s stopped: a new one after %v", c.name, time.Since(before).Round(100*time.Millisecond))
		if c.name == "csbd" {
			// Who comes while it hangs waits in the socket for the next one.
			assert.Equal(m.t, <-client, answer{stdout: "after all"})
		} else {
			<-client
		}
		assert.Equal(m.t, m.try("csbctl --raw -c 'print(1)'").stdout, "1")
	}
	assert.Check(m.t, is.Contains(m.messages("UNIT=csbd.service"), "Watchdog timeout"))
	m.sh("rm -r /etc/systemd/system/csbd.service.d && systemctl daemon-reload && systemctl restart csbd")
}

func stopDrains(m *machine) {
	short := m.inBackground("root", "csbctl", "--timeout=60s", "-c", "import time; time.sleep(3); print('came to its end')")
	long := m.inBackground("ann", "csbctl", "--timeout=60s", "-c", "import time; print('began', flush=True); time.sleep(55)")
	m.eventually("both to run", func() bool { return m.status().Running == 2 })
	before := time.Now()
	m.sh("systemctl stop csbd.socket csbd.service")
	took := time.Since(before)
	// CSBD_STOP_TIMEOUT is 6 s here.
	assert.Check(m.t, took > 4*time.Second && took < 12*time.Second, "%v", took)
	r := executed(m.t, <-short)
	assert.Check(m.t, r.Status == "ok" && r.Stdout == "came to its end\n", "%+v", r)
	r = executed(m.t, <-long)
	assert.Check(m.t, r.Status == "cancelled" && r.Stdout == "began\n", "%+v", r)
	assert.Equal(m.t, m.show("csbd.service", "ActiveState"), "inactive")
	assert.Equal(m.t, m.show("csbd.service", "Result"), "success")
	m.noneLeft()
	_, err := os.Lstat(m.socket())
	assert.Check(m.t, errors.Is(err, fs.ErrNotExist), "a socket that nobody listens on: %v", err)
	var d net.Dialer
	_, err = d.DialContext(context.Background(), "unix", m.socket())
	assert.Check(m.t, errors.Is(err, syscall.ENOENT), "%v", err)
	m.sh("systemctl start csbd.socket")
	assert.Equal(m.t, m.try("csbctl --raw -c 'print(1)'").stdout, "1")
}
